"""A transformers folder: what its config.json decides, and where it contradicts the weights."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from levit.errors import CheckpointError, ConfigError
from levit.export import ExportOptions, export
from levit.export.settings import choose_labels
from levit.export.sources import load_source
from levit.models.hints import hints_from_config

CASES = Path(__file__).parent.parent / "data" / "cases"
PLAIN = CASES / "transformers_levit_tiny96"
TEACHER = CASES / "transformers_levit_tiny96_with_teacher"


@pytest.fixture
def folder(tmp_path):
    """(case, changes of config.json, change of the tensors) → a folder."""

    def write(case=TEACHER, change=lambda tensors: tensors, **said):
        target = tmp_path / "model"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        config = json.loads((case / "config.json").read_text())
        config = {k: v for k, v in {**config, **said}.items() if v is not None}
        (target / "config.json").write_text(json.dumps(config))
        save_file(change(load_file(case / "model.safetensors")), target / "model.safetensors")
        return target

    return write


def load(path, **options):
    return load_source(ExportOptions(checkpoint=path, **options))


@pytest.mark.parametrize(("case", "distilled"), [(PLAIN, False), (TEACHER, True)])
def test_a_folder_is_read_with_its_config(folder, case, distilled):
    source = load(folder(case, id2label={str(i): f"class {i}" for i in range(10)}))
    assert source.origin["format"] == "transformers"
    assert source.model.config.distilled is distilled
    assert source.model.config.image_size == (96, 96)
    assert source.model.config.activation == "hard_swish"
    assert source.assumed == ()
    labels, assumed = choose_labels(ExportOptions(), source)
    assert labels == tuple(f"class {i}" for i in range(10))
    assert assumed == ()


def test_a_bare_file_says_all_but_the_names(folder):
    path = folder()
    (path / "config.json").unlink()
    source = load(path / "model.safetensors")
    assert source.model.config == load(folder()).model.config
    assert source.hints.label_names is None


def test_names_that_transformers_makes_up_are_kept(folder):
    source = load(folder(id2label={str(i): f"LABEL_{i}" for i in range(10)}))
    assert choose_labels(ExportOptions(), source)[0][3] == "LABEL_3"


@pytest.mark.parametrize(
    "said",
    [
        {"image_size": 112},
        {"hidden_sizes": [32, 48, 80]},
        {"num_attention_heads": [2, 3, 2]},
        {"depths": [2, 1, 2]},
        {"key_dim": [16, 16, 8]},
        {"attention_ratio": [2, 2, 4]},
        {"mlp_ratio": [2, 3, 2]},
        {"num_channels": 1},
        {"num_labels": 7},
        {"id2label": {"0": "cat", "1": "dog"}},
        {"architectures": ["LevitForImageClassification"]},
        {"architectures": ["LevitModel"]},
        {"model_type": "deit"},
        {"stride": 4},
        {"padding": 0},
        {"kernel_size": 5},
        {"patch_size": 8},
        {"depths": [2, 1]},
        {"depths": "2, 1, 1"},
        {"key_dim": [16.5, 16, 16]},
        {"down_ops": [["Subsample", 16, 2, 4, 2, 3], ["Subsample", 16, 3, 4, 2, 2], [""]]},
        {"down_ops": [["Subsample", 16, 4, 4, 2, 2], ["Subsample", 16, 3, 4, 2, 2], [""]]},
    ],
    ids=str,
)
def test_a_config_that_contradicts_its_weights_is_refused(folder, said, tmp_path):
    load(folder())
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        export(ExportOptions(checkpoint=folder(**said), output=tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_the_weights_lack_is_missed(folder):
    with pytest.raises(ConfigError, match=r"has 1 classifier heads, config\.json says 2"):
        load(folder(PLAIN, architectures=["LevitForImageClassificationWithTeacher"]))


def test_the_bare_backbone_is_headless(folder):
    def backbone(tensors):
        return {k.removeprefix("levit."): v for k, v in tensors.items() if k.startswith("levit.")}

    path = folder(change=backbone, architectures=["LevitModel"])
    config = load(path).model.config
    assert (config.num_classes, config.distilled) == (0, False)
    with_heads = folder(change=backbone)
    with pytest.raises(ConfigError, match=r"has 0 classes, config\.json says 10"):
        load(with_heads)


@pytest.mark.parametrize(
    "said", [{"id2label": None}, {"num_labels": 10}, {"down_ops": None}], ids=str
)
def test_what_a_config_leaves_out_the_weights_say(folder, said):
    assert load(folder(**said)).model.config == load(folder()).model.config


def test_a_config_alone_makes_a_model_of_random_weights(folder):
    path = folder() / "config.json"
    source = load_source(ExportOptions(random_weights=3, config=path))
    assert source.model.config == load(folder()).model.config


@pytest.mark.peers
@pytest.mark.parametrize("case", [PLAIN, TEACHER])
def test_verify_source_compares_with_transformers(case, tmp_path):
    import transformers

    artifact = export(
        ExportOptions(
            checkpoint=case, outputs=("logits", "embedding"), output=tmp_path / "o", verify="source"
        )
    )
    found = artifact.manifest.verification["source_library"]
    assert (found["library"], found["version"]) == ("transformers", transformers.__version__)
    assert found["max_relative_error"] < 1e-11


def test_timms_wrapper_in_transformers_keeps_timms_names():
    hints = hints_from_config(
        {"model_type": "timm_wrapper", "architecture": "levit_128s", "num_classes": 3,
         "pretrained_cfg": {"crop_pct": 0.9}}, "c"
    )  # fmt: skip
    assert (hints.architecture, hints.num_classes) == ("levit_128s", 3)
    assert hints.pretrained_cfg == {"crop_pct": 0.9}


@pytest.mark.parametrize(
    "values",
    [{"model_type": 3}, {"model_type": "levit", "id2label": ["a", None]},
     {"model_type": "levit", "id2label": {"1": "a"}}, {"model_type": "levit", "image_size": "96"},
     {"model_type": "levit", "architectures": [3]}, {"model_type": "levit", "architectures": 3},
     {"model_type": "levit", "num_channels": 3.5}],
    ids=str,
)  # fmt: skip
def test_a_config_that_is_not_as_it_should_be(values):
    with pytest.raises(ConfigError, match=r"^folder/c: "):
        hints_from_config(values, "folder/c")


def test_the_preprocessor_config_beside_the_weights_is_what_preprocesses(folder, tmp_path):
    path = folder()
    values = {"image_processor_type": "LevitImageProcessor",
              "size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96},
              "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 0.5]}  # fmt: skip
    (path / "preprocessor_config.json").write_text(json.dumps(values))
    manifest = export(ExportOptions(checkpoint=path, output=tmp_path / "a")).manifest
    assert manifest.preprocess.flavour == "transformers"
    assert manifest.preprocess.std == (0.5, 0.25, 0.5)
    assert not any("preprocessing" in text for text in manifest.assumed)
    (path / "preprocessor_config.json").unlink()
    manifest = export(ExportOptions(checkpoint=path, output=tmp_path / "b")).manifest
    assert manifest.preprocess.mean == (0.485, 0.456, 0.406)
    assert any("preprocessing: the defaults of transformers" in text for text in manifest.assumed)
