"""Models of grey, 16-bit and RGBA pictures, from export to answer."""

import json
import shutil

import numpy as np
import onnx
import pytest
from drawn_pictures import encoded, picture
from PIL import Image
from safetensors.numpy import save_file

from levit import Predictor
from levit.artifact import open_artifact
from levit.errors import CalibrationError, ConfigError, CorruptArtifactError, InputError
from levit.export import ExportOptions, export
from levit.export.channels import with_image_mode
from levit.export.preprocessing import choose_preprocess
from levit.export.sources import load_source
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES
from levit.pictures.preprocess import IMAGENET_MEAN, IMAGENET_STD, PreprocessSpec

IMAGENET = PreprocessSpec(image_size=(64, 64))
GREY_MEAN, GREY_STD = (0.449,), (0.226,)


@pytest.fixture
def weights(tmp_path, small_configs):
    """(channels) → a checkpoint folder of a small LeViT of timm."""
    from dataclasses import replace

    def write(channels, **pretrained_cfg):
        config = replace(small_configs["one_channel"], in_channels=channels)
        model = random_model(FAMILIES["levit"], config, 5)
        folder = tmp_path / f"weights-{channels}"
        folder.mkdir()
        save_file(flatten(model, model.family.keymaps[0]), folder / "model.safetensors")
        values = {"pretrained_cfg": pretrained_cfg} if pretrained_cfg else {}
        (folder / "config.json").write_text(json.dumps({"img_size": 64, **values}))
        return folder

    return write


def choose(folder, **changes):
    options = ExportOptions(checkpoint=folder, **changes)
    return choose_preprocess(options, load_source(options))


# ---------------------------------------------------------------------------- the spec


def test_one_channel_is_grey_with_the_average_of_the_colours(weights):
    spec, assumed = choose(weights(1))
    assert (spec.image_mode, spec.mean, spec.std) == ("L", GREY_MEAN, GREY_STD)
    assert assumed == (
        "preprocessing: the defaults of timm (bicubic, crop_pct 0.9, mean 0.449, std 0.226)",
        "image mode L: the model has 1 channel",
        "mean 0.449, std 0.226: averaged over the colours, as timm's loader does for 1 channel",
    )


@pytest.mark.peers
@pytest.mark.parametrize("channels", [1, 4])
def test_the_average_is_that_of_timm_s_loader(channels):
    from timm.data.loader import adapt_to_chs

    spec, _ = with_image_mode(IMAGENET, {1: "L", 4: "RGBA"}[channels])
    assert spec.mean == adapt_to_chs(IMAGENET_MEAN, channels)
    assert spec.std == adapt_to_chs(IMAGENET_STD, channels)


def test_what_is_said_is_neither_averaged_nor_assumed(weights):
    folder = weights(1)
    spec, assumed = choose(folder, image_mode="L", mean=(0.5,), std=(0.25,))
    assert (spec.mean, spec.std) == ((0.5,), (0.25,))
    assert assumed == ("preprocessing: the defaults of timm (bicubic, crop_pct 0.9)",)
    shutil.rmtree(folder)
    rest = {"crop_pct": 1.0, "interpolation": "bicubic"}
    spec, assumed = choose(weights(1, mean=[0.3], std=[0.2], **rest))
    assert (spec.mean, spec.std) == ((0.3,), (0.2,))
    assert assumed == ("image mode L: the model has 1 channel",)
    shutil.rmtree(folder)
    half = weights(1, mean=[0.5] * 3, std=[0.5] * 3, **rest)
    assert choose(half) == (choose(half, mean=(0.5,), std=(0.5,))[0], assumed)


@pytest.mark.parametrize(
    ("channels", "changes", "message"),
    [
        (1, {"image_mode": "RGB"}, "'RGB' has 3 channels, and the model takes 1: take 'L' or"),
        (3, {"image_mode": "L"}, "'L' has 1 channel, and the model takes 3: take 'RGB'"),
        (5, {"image_mode": "RGBA"}, "takes 5: leave it out"),
        (1, {"mean": (0.5, 0.5)}, "mean has 2 values, and the model 1 channel: give one value"),
        (3, {"std": (0.5, 0.5)}, "std has 2 values, and the model 3 channels"),
        (4, {"mean": (0.5,)}, "takes tensors, not images: .* with --image-mode RGBA"),
        (2, {"mean": (0.5,)}, "takes tensors, not images: leave out the preprocessing$"),
        (1, {"image_mode": "CMYK"}, "image_mode must be one of L, I;16, RGB, RGBA, not 'CMYK'"),
        (1, {"image_mode": 1}, "image_mode must be one of"),
        (1, {"image_mode": "I;16", "input": "uint8"}, "pictures of 8 bits"),
    ],
)
def test_what_does_not_fit_is_refused(weights, channels, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        choose(weights(channels), **changes)
    assert "\n" not in str(caught.value)


def test_one_value_in_a_file_is_not_for_three_colours(weights):
    with pytest.raises(ConfigError, match="mean has 1 values, and the model 3 channels: pass"):
        choose(weights(3, mean=[0.5], std=[0.5]))


def test_one_value_of_the_user_is_for_all_channels(weights):
    spec, _ = choose(weights(3), mean=[0.5], std=[0.25])
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.25,) * 3)


def test_four_channels_take_tensors_unless_told_otherwise(weights):
    folder = weights(4)
    assert choose(folder) == (None, ())
    spec, assumed = choose(folder, image_mode="RGBA", mean=(0.5,), std=(0.1, 0.2, 0.3, 0.4))
    assert (spec.image_mode, spec.mean, spec.std) == ("RGBA", (0.5,) * 4, (0.1, 0.2, 0.3, 0.4))
    assert len(assumed) == 1
    assert "averaged" in choose(folder, image_mode="RGBA")[1][1]


def test_a_file_of_ours_states_the_mode(weights, tmp_path):
    folder, file = weights(1), tmp_path / "spec.json"
    for mode in ("I;16", "L"):
        stated = PreprocessSpec(image_size=(64, 64), image_mode=mode, mean=(0.4,), std=(0.3,))
        file.write_text(json.dumps(stated.to_dict()))
        assert choose(folder, preprocess=file) == (stated, ())
    assert choose(folder, preprocess=file, image_mode="I;16")[0].image_mode == "I;16"
    file.write_text(json.dumps({**stated.to_dict(), "image_mode": "RGBA"}))
    with pytest.raises(ConfigError, match=r"has 4 channels, and the model takes 1"):
        choose(folder, preprocess=file)


@pytest.mark.parametrize("flavour", ["transformers", "mmpretrain", "original"])
def test_other_homes_take_grey_pictures_too(weights, flavour):
    spec, _ = choose(weights(1), preprocess=flavour)
    assert (spec.image_mode, spec.mean) == ("L", GREY_MEAN)


@pytest.mark.parametrize(
    "values",
    [
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 64, "width": 64},
            "image_mean": [0.3],
            "image_std": [0.2],
        },
        {"mean": [0.3 * 255], "std": [0.2 * 255], "to_rgb": False},
        {"input_size": [1, 64, 64], "mean": [0.3], "std": [0.2]},
    ],
    ids=["transformers", "mmpretrain", "timm"],
)
def test_files_of_every_home_have_one_value_for_grey(weights, tmp_path, values):
    (tmp_path / "file.json").write_text(json.dumps(values))
    spec, assumed = choose(weights(1), preprocess=tmp_path / "file.json")
    np.testing.assert_allclose((spec.mean, spec.std), ([0.3], [0.2]), rtol=1e-15)
    assert assumed == ("image mode L: the model has 1 channel",)


# ---------------------------------------------------------------------------- artifacts


def exported(folder, tmp_path, **changes):
    return export(ExportOptions(checkpoint=folder, output=tmp_path / "artifact", **changes))


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("channels", "changes"),
    [
        (1, {}),
        (1, {"input": "uint8"}),
        (1, {"image_mode": "I;16"}),
        (4, {"image_mode": "RGBA"}),
        (4, {"image_mode": "RGBA", "input": "uint8"}),
    ],
    ids=str,
)
def test_an_artifact_answers_for_pictures(weights, tmp_path, channels, changes, target):
    artifact = exported(
        weights(channels), tmp_path, target=target, outputs=("logits", "embedding"), **changes
    )
    mode = changes.get("image_mode", "L")
    again = open_artifact(artifact.path)
    assert again.manifest.to_dict()["preprocess"]["image_mode"] == mode
    written = json.loads((artifact.path / "manifest.json").read_text())
    assert written["preprocess"] == json.loads(json.dumps(again.manifest.preprocess.to_dict()))
    dtype = changes.get("input", "float32")
    shape = (64, 64, channels) if dtype == "uint8" else (channels, 64, 64)
    assert again.manifest.inputs[0].shape == ("batch", *shape)
    pictures = [picture(kind, (90, 70)) for kind in ("L", "RGB", "RGBA", "I;16", "P")]
    grey16 = None if mode == "I;16" else "clip"
    with Predictor(artifact.path, threads=2, workers=2, grey16=grey16) as predictor:
        report = predictor.check()
        assert report.passed
        assert report.tensor_error == 0
        batch = predictor.preprocess(pictures)
        assert (batch.shape, batch.dtype) == ((5, *shape), dtype)
        logits = predictor.forward(batch)["logits"]
        answers = predictor.predict(pictures)
        assert [answer.index for answer in answers] == list(logits.argmax(-1))
        assert predictor(encoded(pictures[0])) == answers[0]
        assert list(predictor.stream(pictures))[1] == answers[1]
        assert predictor.embed(pictures).shape[0] == 5


@pytest.mark.parametrize(
    ("mode", "shape", "dtype"),
    [
        ("L", (3, 70, 90), "uint8"),
        ("I;16", (3, 70, 90), "uint16"),
        ("RGBA", (3, 70, 90, 4), "uint8"),
    ],
)
def test_a_stack_of_arrays_is_several_pictures(weights, tmp_path, rng, mode, shape, dtype):
    channels = 4 if mode == "RGBA" else 1
    artifact = exported(weights(channels), tmp_path, image_mode=mode)
    stack = rng.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    with Predictor(artifact.path, threads=1) as predictor:
        answers = predictor.predict(stack)
        assert answers == [predictor(array) for array in stack]
        for one in (stack[0], stack[0, :, :, None]) if channels == 1 else (stack[0],):
            with pytest.raises(InputError, match="not one ndarray"):
                predictor.predict(one)


@pytest.mark.parametrize(
    ("mode", "target"), [("L", "onnx"), ("I;16", "onnx"), ("I;16", "openvino"), ("RGBA", "onnx")]
)
def test_int8_is_calibrated_and_judged_on_pictures(weights, tmp_path, mode, target):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(24):
        picture("I;16" if seed % 2 else "RGB", (80, 70), seed).save(folder / f"{seed}.png")
    artifact = exported(
        weights(4 if mode == "RGBA" else 1),
        tmp_path,
        image_mode=mode,
        target=target,
        precision="int8",
        reduce_range=True,
        calibration=folder,
        force=True,
        grey16=None if mode == "I;16" else "scale",
    )
    assert artifact.manifest.preprocess.grey16 == (None if mode == "I;16" else "scale")
    assert artifact.manifest.calibration["images"] == 24
    with Predictor(artifact.path, threads=1) as predictor:
        assert predictor.check().passed


def test_four_channels_without_a_mode_are_not_calibrated_with_pictures(weights, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture("RGBA", (80, 70)).save(folder / "0.png")
    with pytest.raises(CalibrationError, match="4 channels takes no pictures"):
        exported(weights(4), tmp_path, precision="int8", calibration=folder, force=True)


def test_a_network_states_its_mode_and_rgb_ones_nothing_new(weights, tmp_path, tiny_artifact):
    artifact = exported(weights(1), tmp_path)
    stated = {e.key: e.value for e in onnx.load(artifact.payload).metadata_props}
    assert json.loads(stated["levit.preprocess"])["image_mode"] == "L"
    rgb = open_artifact(tiny_artifact)
    stated = {e.key: e.value for e in onnx.load(rgb.payload).metadata_props}
    keys = "flavour image_size crop_pct resize_size crop_mode interpolation mean std rescale_factor"
    assert list(json.loads(stated["levit.preprocess"])) == keys.split()
    assert list(json.loads((rgb.path / "manifest.json").read_text())["preprocess"]) == keys.split()


@pytest.mark.parametrize(
    "change",
    [
        {"image_mode": "I;16"},
        {"image_mode": "CMYK"},
        {"image_mode": "RGB"},
        {"mean": [0.4] * 3, "std": [0.2] * 3},
    ],
    ids=str,
)
def test_a_manifest_of_another_mode_is_refused(weights, tmp_path, change):
    path = exported(weights(1), tmp_path).path / "manifest.json"
    values = json.loads(path.read_text())
    values["preprocess"] |= change
    path.write_text(json.dumps(values))
    with pytest.raises(CorruptArtifactError):
        Predictor(path.parent, threads=1)


def test_a_manifest_of_sixteen_bits_in_uint8_is_refused(weights, tmp_path):
    path = exported(weights(1), tmp_path, input="uint8").path / "manifest.json"
    values = json.loads(path.read_text())
    values["preprocess"]["image_mode"] = "I;16"
    path.write_text(json.dumps(values))
    with pytest.raises(CorruptArtifactError, match=r"mode I;16 gives no uint8"):
        open_artifact(path.parent)


# ---------------------------------------------------------------------------- timm


def randomize(network, channels, rng):
    """Draw every weight, and pictures for the running statistics."""
    import torch

    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.dtype.is_floating_point:
                continue
            scale = 0.6 / max(1, value[0].numel()) ** 0.5 if value.ndim > 1 else 0.3
            drawn = torch.from_numpy(rng.standard_normal(tuple(value.shape)) * scale)
            if value.ndim == 1 and (name.endswith("weight") or "var" in name):
                drawn = 1 + drawn.abs()
            value.copy_(drawn)
        # Statistics of pictures: with drawn ones a LeViT answers the same to all of them.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                module.reset_running_stats()
                module.momentum = None
        pictures = smooth_pictures(rng, 16, (64, 64), channels)
        network.train()(torch.from_numpy(standardized(pictures)))
    return network.eval()


def timm_network(name, channels):
    import timm

    small = {
        "levit_128s": dict(
            img_size=64, embed_dim=(48, 64), num_heads=(2, 3), depth=(2, 2), key_dim=8
        ),
        "vit_tiny_patch16_224": dict(img_size=64, embed_dim=48, depth=2, num_heads=3),
    }
    return timm.create_model(name, in_chans=channels, num_classes=7, **small[name])


@pytest.mark.peers
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["levit_128s", "vit_tiny_patch16_224"])
def test_answers_are_those_of_timm(tmp_path, rng, name, channels):
    import torch
    from timm.data import create_transform
    from timm.data.loader import adapt_to_chs

    network = randomize(timm_network(name, channels), channels, rng)
    mode = {1: "L", 4: "RGBA"}[channels]
    options = ExportOptions(
        output=tmp_path / "artifact", image_mode=mode, image_size=64, verify="source"
    )
    artifact = export(options, model=network)
    assert artifact.manifest.verification["source_library"]["max_relative_error"] < 1e-12
    cfg = network.pretrained_cfg
    transform = create_transform(
        (channels, 64, 64),
        mean=adapt_to_chs(cfg["mean"], channels),
        std=adapt_to_chs(cfg["std"], channels),
        crop_pct=cfg["crop_pct"],
        interpolation=cfg["interpolation"],
    )
    pictures = [picture(kind, (130, 90), seed) for seed, kind in enumerate(("RGB", "L", "RGBA"))]
    tensors = torch.stack([transform(image.convert(mode)) for image in pictures])
    with torch.no_grad():
        expected = network.double()(tensors.double()).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()
    with Predictor(artifact.path, threads=1) as predictor:
        batch = predictor.preprocess([encoded(image) for image in pictures])
        assert np.array_equal(batch, tensors.numpy())
        found = predictor.forward(batch)["logits"]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.peers
def test_sixteen_bits_tell_apart_what_eight_cannot(tmp_path, rng):
    network = randomize(timm_network("levit_128s", 1), 1, rng)
    faint = rng.integers(0, 256, (64, 64)).astype(np.uint16) + 20_000
    for mode, spread in (("I;16", True), ("L", False)):
        options = ExportOptions(
            output=tmp_path / mode[0], image_mode=mode, image_size=64, mean=[0.3], std=[1e-3]
        )
        artifact = export(options, model=network)
        grey16 = None if spread else "clip"
        with Predictor(artifact.path, threads=1, grey16=grey16) as predictor:
            batch = predictor.preprocess([Image.fromarray(faint)])
        assert (batch.std() > 0.1) == spread
