"""The activation of the scores: what a checkpoint says, against transformers' own pipeline."""

import json

import numpy as np
import onnx
import pytest
from PIL import Image
from safetensors.numpy import save_file

from levit import Predictor
from levit.artifact import MANIFEST_FILE
from levit.errors import ConfigError
from levit.export import ExportOptions, export
from levit.export.scores import choose_scores
from levit.export.sources import load_source
from levit.models.hints import hints_from_config
from levit.models.levit.config import levit_config
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES

MULTI, SINGLE, VALUES = "multi_label_classification", "single_label_classification", "regression"


def one_logit(folder, seed, classes=1, beside=None):
    """A folder with a small LeViT of timm's names."""
    config = levit_config(
        widths=(32,), key_dim=8, heads=(3,), depths=(2,), num_classes=classes, image_size=(48, 48)
    )
    family = FAMILIES["levit"]
    folder.mkdir(exist_ok=True)
    model = random_model(family, config, seed)
    save_file(flatten(model, family.keymaps[0]), folder / "model.safetensors")
    if beside is not None:
        (folder / "config.json").write_text(json.dumps(beside))
    return folder


@pytest.fixture
def chosen(tmp_path, seed):
    """(classes, config, labels, options) → the activation and what is assumed."""

    def choose(classes, beside=None, labels=None, **options):
        folder = one_logit(tmp_path / "model", seed, classes, beside)
        choices = ExportOptions(checkpoint=folder, image_size=48, **options)
        return choose_scores(choices, load_source(choices), labels or ["a"] * classes)

    return choose


@pytest.mark.parametrize(
    ("classes", "problem", "asked", "found", "assumes"),
    [
        (5, None, None, "softmax", False),
        (5, SINGLE, None, "softmax", False),
        (5, MULTI, None, "sigmoid", False),
        (5, VALUES, None, "none", False),
        (1, None, None, "sigmoid", True),
        (1, SINGLE, None, "sigmoid", True),
        (1, MULTI, None, "sigmoid", False),
        (1, VALUES, None, "none", False),
        (5, None, "sigmoid", "sigmoid", False),
        (5, MULTI, "softmax", "softmax", False),
        (1, None, "none", "none", False),
        (0, MULTI, None, None, False),
    ],
)
def test_the_activation_that_is_chosen(chosen, classes, problem, asked, found, assumes):
    # timm's wrapper of transformers writes the problem beside timm's own names.
    said = {"architecture": "levit_x", "problem_type": problem}
    scores, assumed = chosen(classes, said if problem else None, scores=asked)
    assert scores == found
    assert bool(assumed) is assumes
    assert all("there is one logit" in text for text in assumed)


def test_what_has_no_meaning_is_refused(chosen):
    with pytest.raises(ConfigError, match="softmax of one logit is 1 for every picture: --scores"):
        chosen(1, scores="softmax")
    with pytest.raises(ConfigError, match="which are no output here: add logits to --outputs"):
        chosen(0, scores="sigmoid")
    with pytest.raises(ConfigError, match=r"two names for one logit.*'none': give one name"):
        chosen(1, scores="none", labels=["no", "yes"])
    with pytest.raises(ConfigError, match=r"problem_type: expected one of single.*not 'ranking'"):
        chosen(5, {"architecture": "x", "problem_type": "ranking"})
    with pytest.raises(ConfigError, match="problem_type: expected a string, not 3"):
        chosen(5, {"architecture": "x", "problem_type": 3})
    with pytest.raises(ConfigError, match="scores must be one of softmax, sigmoid, none, not 'x'"):
        ExportOptions(scores="x")


def test_the_file_says_it_too(tmp_path):
    """And a softmax is not written, so that such files are byte for byte those of before."""
    said = {}
    for scores in ("softmax", "sigmoid", "none"):
        artifact = export(
            ExportOptions(model="levit_digits", scores=scores, output=tmp_path / scores)
        )
        metadata = onnx.load(artifact.payload).metadata_props
        said[scores] = {p.key: p.value for p in metadata}.get("levit.scores")
        assert json.loads((tmp_path / scores / MANIFEST_FILE).read_text())["scores"] == scores
    assert said == {"softmax": None, "sigmoid": "sigmoid", "none": "none"}


def test_an_artifact_without_logits_has_no_scores(tmp_path):
    artifact = export(
        ExportOptions(model="levit_digits", outputs=["embedding"], output=tmp_path / "out")
    )
    assert artifact.manifest.scores is None
    with pytest.raises(ConfigError, match="add logits to --outputs"):
        export(
            ExportOptions(
                model="levit_digits", outputs=["embedding"], scores="none", output=tmp_path / "no"
            )
        )


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_two_names_of_one_logit(tmp_path, seed, rng, target):
    """Below one half it is the first; the score is that of the sigmoid either way."""
    pytest.importorskip("openvino" if target == "openvino" else "onnxruntime")
    folder = one_logit(tmp_path / "model", seed)
    options = dict(checkpoint=folder, target=target, image_size=48)
    export(ExportOptions(**options, labels=["cat", "dog"], output=tmp_path / "two"))
    export(ExportOptions(**options, labels=["dog"], output=tmp_path / "one"))
    picture = rng.integers(0, 256, (48, 48, 3), np.uint8)
    with Predictor(tmp_path / "one") as one, Predictor(tmp_path / "two") as two:
        logit = float(one.forward(one.preprocess([picture]))["logits"][0, 0])
        exact = 1 / (1 + np.exp(-logit))
        assert one(picture).top == [("dog", 0, pytest.approx(exact))]
        pairs = {label: (index, score) for label, index, score in two(picture).top}
        assert pairs == {
            "cat": (0, pytest.approx(1 - exact)),
            "dog": (1, pytest.approx(exact)),
        }
        assert two(picture).label == ("dog" if exact >= 0.5 else "cat")
    with pytest.raises(ConfigError, match="3 names for 1 classes"):
        export(ExportOptions(**options, labels=["a", "b", "c"], output=tmp_path / "no"))


# -------------------------------------------------------------- against transformers


def transformers_folder(folder, kind, classes, problem, seed):
    """A folder that transformers has written: every weight and statistic drawn, and a processor."""
    import torch
    import transformers

    names = {i: f"thing {i}" for i in range(classes)}
    said = dict(id2label=names, label2id={v: k for k, v in names.items()}, problem_type=problem)
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
            image_size=32, patch_size=8, **said,
        )  # fmt: skip
        network = transformers.ViTForImageClassification(config)
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        config = transformers.LevitConfig(
            image_size=64, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4],
            depths=[2, 1, 1], key_dim=[8, 8, 8], drop_path_rate=0, mlp_ratio=[2, 2, 2],
            attention_ratio=[2, 2, 2], **said,
        )  # fmt: skip
        network = transformers.LevitForImageClassification(config)
        processor = transformers.LevitImageProcessor(
            size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
        )
    generator = torch.Generator().manual_seed(seed % 2**31)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + drawn.abs())
            elif tensor.dim() > 1:
                tensor.copy_(drawn / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(0.2 * drawn + (1 if "norm" in name and "weight" in name else 0))
    network.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return network


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["vit", "levit"])
@pytest.mark.parametrize(
    ("classes", "problem", "scores"),
    [
        (5, MULTI, "sigmoid"),
        (5, VALUES, "none"),
        (5, SINGLE, "softmax"),
        (5, None, "softmax"),
        (1, None, "sigmoid"),
        (1, VALUES, "none"),
        (1, MULTI, "sigmoid"),
    ],
)
def test_scores_are_those_of_transformers_pipeline(
    tmp_path, seed, rng, kind, classes, problem, scores
):
    import torch
    import transformers

    network = transformers_folder(tmp_path / "model", kind, classes, problem, seed)
    artifact = export(ExportOptions(checkpoint=tmp_path / "model", output=tmp_path / "out"))
    assert artifact.manifest.scores == scores
    assert [text for text in artifact.manifest.assumed if "scores" in text] == (
        ["scores: a sigmoid, because there is one logit (--scores none for a value that is no "
         "probability)"] if (classes, problem) == (1, None) else []
    )  # fmt: skip
    picture = Image.fromarray(rng.integers(0, 256, (80, 96, 3), np.uint8))
    home = transformers.pipeline("image-classification", model=str(tmp_path / "model"))
    expected = {entry["label"]: entry["score"] for entry in home(picture, top_k=classes)}
    with Predictor(artifact.path) as predictor:
        answer = predictor(picture)
        tensors = predictor.preprocess([picture])
    assert answer.scores == scores
    assert {label: score for label, _, score in answer.top} == pytest.approx(
        expected,
        rel=2e-3,
        abs=2e-3,  # its resizing rounds otherwise
    )
    if scores != "none":  # which has an order of its own: that of the outputs
        assert answer.label == max(expected, key=expected.get)
    # The same from the network's float64 logits of our own tensors: no resizing between them.
    with torch.no_grad():
        logits = network.double()(torch.from_numpy(tensors).double()).logits[0]
    function = {
        "softmax": lambda x: x.softmax(0),
        "sigmoid": torch.sigmoid,
        "none": lambda x: x,
    }[scores]
    exact = function(logits).tolist()
    found = [score for _, _, score in sorted(answer.top, key=lambda entry: entry[1])]
    assert found == pytest.approx(exact, rel=1e-5, abs=1e-6)


@pytest.mark.peers
def test_a_live_network_says_it_too(tmp_path, seed):
    network = transformers_folder(tmp_path / "model", "vit", 5, MULTI, seed)
    artifact = export(ExportOptions(output=tmp_path / "out"), model=network)
    assert artifact.manifest.scores == "sigmoid"


@pytest.mark.peers
def test_timms_network_in_transformers_wrapper_says_it_too(tmp_path, seed):
    import transformers

    config = transformers.TimmWrapperConfig(
        architecture="vit_tiny_patch16_224",
        model_args={"img_size": 32, "depth": 2},
        num_labels=4,
        problem_type=MULTI,
    )
    network = transformers.TimmWrapperForImageClassification(config)
    network.save_pretrained(tmp_path / "model")
    said = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (said["model_type"], said["problem_type"]) == ("timm_wrapper", MULTI)
    assert hints_from_config(said, "config.json").scores == "sigmoid"
