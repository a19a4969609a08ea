"""Which preprocessing an artifact gets: flags, files, what stands beside the checkpoint."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image

from levit import Predictor
from levit.artifact import open_artifact
from levit.cli import main
from levit.errors import ConfigError
from levit.export import ExportOptions, export
from levit.export.flavours import FLAVOURS
from levit.export.preprocessing import choose_preprocess, settings_for
from levit.export.sources import load_source
from levit.models.hints import Hints
from levit.pictures.preprocess import IMAGENET_MEAN, normalize, to_pixels

PROCESSOR = {
    "image_processor_type": "LevitImageProcessor",
    "size": {"shortest_edge": 96},
    "crop_size": {"height": 96, "width": 96},
    "resample": 2,
}
CFG = {"crop_pct": 0.8, "mean": [0.1, 0.2, 0.3], "interpolation": "bilinear"}


@pytest.fixture
def source():
    return load_source(ExportOptions(model="levit_digits"))


@pytest.fixture
def choose(source):
    """(home of the checkpoint, what stands beside it, options) → (spec, assumed)."""

    def make(home="timm", beside=None, **options):
        changed = replace(
            source,
            keymap=replace(source.keymap, source=home),
            hints=Hints() if beside is None else beside,
        )
        return choose_preprocess(ExportOptions(model="levit_digits", **options), changed)

    return make


@pytest.fixture
def write(tmp_path):
    def make(values):
        path = tmp_path / "settings.json"
        path.write_text(json.dumps(values))
        return path

    return make


# ---------------------------------------------------------------------------- beside


@pytest.mark.parametrize("home", FLAVOURS)
def test_the_flavour_is_that_of_the_checkpoints_home(choose, home):
    spec, assumed = choose(home)
    assert spec == FLAVOURS[home]((96, 96), {})
    (text,) = assumed
    crop_pct = 0.9 if home == "timm" else 0.875
    assert text == (
        f"preprocessing: the defaults of {home} (bicubic, crop_pct {crop_pct}, mean "
        f"0.485/0.456/0.406, std 0.229/0.224/0.225)"
    )


def test_what_the_options_say_is_not_assumed(choose):
    (text,) = choose("timm", mean=(0.5, 0.5, 0.5), interpolation="bilinear")[1]
    assert text == "preprocessing: the defaults of timm (crop_pct 0.9, std 0.229/0.224/0.225)"
    everything = dict(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", crop_pct=1.0)
    assert choose("timm", **everything)[1] == ()


def test_each_library_reads_its_own_file_and_no_other():
    hints = Hints(pretrained_cfg=CFG, preprocessor_config=PROCESSOR)
    assert settings_for("timm", hints) == ("pretrained_cfg", CFG)
    assert settings_for("transformers", hints) == ("preprocessor_config.json", PROCESSOR)
    assert settings_for("mmpretrain", hints)[1] == {}
    assert settings_for("original", hints)[1] == {}


def test_what_a_pretrained_cfg_leaves_out_is_assumed(choose):
    (text,) = choose("timm", Hints(pretrained_cfg={**CFG, "std": None}))[1]
    assert text == "preprocessing: the defaults of timm (std 0.229/0.224/0.225)"


def test_what_stands_beside_is_no_assumption(choose):
    spec, assumed = choose("transformers", Hints(preprocessor_config=PROCESSOR))
    assert assumed == ()
    assert (spec.flavour, spec.interpolation, spec.crop_pct) == ("transformers", "bilinear", 0.875)
    spec, assumed = choose("timm", Hints(pretrained_cfg={**CFG, "std": [0.5, 0.5, 0.5]}))
    assert assumed == ()
    assert (spec.flavour, spec.mean, spec.crop_pct) == ("timm", (0.1, 0.2, 0.3), 0.8)


def test_what_timms_settings_leave_open_is_assumed_aloud(choose):
    # Such as the config.json of a class of one's own with a `mean` (PyTorchModelHubMixin).
    spec, assumed = choose("timm", Hints(pretrained_cfg={"mean": [0.5] * 3, "std": None}))
    assert (spec.mean, spec.crop_pct) == ((0.5,) * 3, 0.875)
    assert assumed == (
        "preprocessing: the defaults of timm (bicubic, crop_pct 0.875, std 0.229/0.224/0.225)",
    )


def test_a_named_flavour_takes_its_own_file_from_beside(choose):
    hints = Hints(pretrained_cfg=CFG, preprocessor_config=PROCESSOR)
    assert choose("timm", hints, preprocess="transformers")[0].interpolation == "bilinear"
    spec, assumed = choose("timm", hints, preprocess="original")
    assert (spec.flavour, spec.mean, assumed) == ("original", IMAGENET_MEAN, ())


def test_what_contradicts_the_model_names_its_file(choose):
    wrong = {**PROCESSOR, "crop_size": 224}
    with pytest.raises(ConfigError) as caught:
        choose("transformers", Hints(preprocessor_config=wrong))
    assert str(caught.value) == (
        "preprocessor_config.json: crop_size 224x224 is not the model's image size 96x96; "
        "correct it, or pass another with --preprocess"
    )
    with pytest.raises(ConfigError, match=r"^pretrained_cfg: unknown interpolation 'cubic'"):
        choose("timm", Hints(pretrained_cfg={"interpolation": "cubic"}))


# ---------------------------------------------------------------------------- flags and files


@pytest.mark.parametrize("home", FLAVOURS)
def test_overrides_work_in_every_flavour(choose, home):
    spec, _ = choose(
        home, mean=(0.1, 0.2, 0.3), std=(1, 2, 3), crop_pct=0.8, interpolation="lanczos"
    )
    assert (spec.flavour, spec.mean, spec.std) == (home, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert (spec.crop_pct, spec.interpolation) == (0.8, "lanczos")


def test_crop_pct_overrules_a_size_in_pixels(choose):
    squash = {**PROCESSOR, "size": {"height": 112, "width": 100}}
    hints = Hints(preprocessor_config=squash)
    spec, _ = choose("transformers", hints)
    assert (spec.crop_pct, spec.resize_size, spec.crop_mode) == (None, (112, 100), "squash")
    spec, _ = choose("transformers", hints, crop_pct=0.5)
    assert (spec.crop_pct, spec.resize_size, spec.crop_mode) == (0.5, None, "squash")


@pytest.mark.parametrize(
    ("values", "flavour", "interpolation"),
    [
        (PROCESSOR, "transformers", "bilinear"),
        ({"image_processor": PROCESSOR}, "transformers", "bilinear"),
        ({"architecture": "levit_128", "pretrained_cfg": CFG}, "timm", "bilinear"),
        ({"input_size": [3, 224, 224], **CFG}, "timm", "bilinear"),
        ({"flavour": "mmpretrain"}, "mmpretrain", "bicubic"),
        ({"to_rgb": True, "mean": 127.5, "std": 127.5}, "mmpretrain", "bicubic"),
    ],
    ids=str,
)
def test_a_json_file_may_be_anybodys(choose, write, values, flavour, interpolation):
    spec, assumed = choose("original", preprocess=write(values))
    assert (spec.flavour, spec.interpolation, assumed) == (flavour, interpolation, ())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**PROCESSOR, "image_processor_type": "BeitImageProcessor"}, "'BeitImageProcessor'"),
        ({"image_size": [32, 32]}, r"\(32, 32\) is not the model's \(96, 96\)"),
        ({"crop": 1}, "unknown preprocessing keys crop"),
    ],
    ids=str,
)
def test_a_json_file_that_cannot_be_is_named(choose, write, values, message):
    path = write(values)
    with pytest.raises(ConfigError, match=message) as caught:
        choose(preprocess=path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------- artifacts


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_artifacts_of_every_flavour_run(tmp_path, rng, flavour, kind):
    artifact = export(
        ExportOptions(model="levit_digits", preprocess=flavour, input=kind, output=tmp_path / "out")
    )
    spec = artifact.manifest.preprocess
    assert spec.flavour == flavour
    assert artifact.manifest.verification["status"] == "passed"
    metadata = {e.key: e.value for e in onnx.load(artifact.payload).metadata_props}
    assert json.loads(metadata["levit.preprocess"]) == json.loads(json.dumps(spec.to_dict()))
    image = Image.fromarray(rng.integers(0, 256, (130, 111, 3), dtype=np.uint8))
    with Predictor(tmp_path / "out") as predictor:
        assert predictor.check().passed
        pixels = to_pixels(image, spec)
        batch = pixels[None] if kind == "uint8" else normalize(pixels[None], spec)
        assert np.array_equal(predictor.preprocess([image]), batch)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_pixels_and_tensors_give_the_same_logits(tmp_path, rng, flavour):
    """The graph that takes uint8 has mean and std of any flavour inside, on 0..1."""
    logits = {}
    image = Image.fromarray(rng.integers(0, 256, (130, 111, 3), dtype=np.uint8))
    for kind in ("float32", "uint8"):
        folder = tmp_path / kind
        export(ExportOptions(model="levit_digits", preprocess=flavour, input=kind, output=folder))
        with Predictor(folder) as predictor:
            logits[kind] = predictor.forward(predictor.preprocess([image]))["logits"]
    largest = np.abs(logits["float32"]).max()
    assert np.abs(logits["float32"] - logits["uint8"]).max() <= 1e-5 * largest


def test_a_manifest_without_the_newer_fields_still_opens(tiny_artifact, tmp_path):
    shutil.copytree(tiny_artifact, tmp_path / "old")
    path = tmp_path / "old" / "manifest.json"
    values = json.loads(path.read_text())
    for name in ("resize_size", "rescale_factor"):
        assert values["preprocess"].pop(name) is None
    path.write_text(json.dumps(values))
    assert open_artifact(tmp_path / "old").manifest.preprocess == (
        open_artifact(tiny_artifact).manifest.preprocess
    )


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"shortest_edge": 96}, "transformers: bilinear, crop_pct 0.875, center"),
        ({"shortest_edge": 98}, "transformers: bilinear, resize_size 112x112, center"),
        ({"height": 99, "width": 98}, "transformers: bilinear, resize_size 99x98, squash"),
        (None, "transformers: bilinear, not resized, center"),
    ],
)
def test_inspect_says_how_images_are_resized(tmp_path, write, capsys, size, words):
    settings = {**PROCESSOR, "size": size, "do_resize": size is not None}
    export(ExportOptions(model="levit_digits", preprocess=write(settings), output=tmp_path / "out"))
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert words in capsys.readouterr().out
