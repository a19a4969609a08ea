"""Statements of checkpoints decide what runs: files that the real libraries have written.

timm's ``CheckpointSaver`` with the arguments of train.py, mmengine's ``save_checkpoint``,
transformers' ``save_pretrained`` and ``AutoImageProcessor``, and a dict as Lightning writes it.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from drawn_pictures import picture, tensor_of

from levit.artifact import MANIFEST_FILE
from levit.cli import main
from levit.errors import ConfigError
from levit.export import ExportOptions
from levit.export.description import describe_checkpoint
from levit.export.preprocessing import choose_preprocess
from levit.export.settings import choose_labels
from levit.export.sources import load_source
from levit.models.checkpoint import read_checkpoint
from levit.models.containers.said import STATED
from levit.models.hints import model_arguments
from levit.models.ops import NumpyOps
from levit.models.stated import hints_from_file
from levit.relative_error import relative_error

pytestmark = pytest.mark.peers

PICTURES = [picture("RGB", size) for size in ((101, 67), (64, 64), (90, 200), (30, 41))]
TRANSFORMER = dict(embed_dim=48, depth=2, num_heads=3, img_size=64)
LEVIT = dict(embed_dim=(32, 48, 64), key_dim=8, num_heads=(2, 3, 4), depth=(1, 1, 1), img_size=64)
NETWORKS = {
    "vit_tiny_patch16_224.augreg_in21k": TRANSFORMER,
    "deit_tiny_patch16_224": TRANSFORMER,
    "deit_tiny_distilled_patch16_224": TRANSFORMER,
    "convit_tiny": {**TRANSFORMER, "embed_dim": 16, "local_up_to_layer": 1},
    "levit_128s": LEVIT,
    "levit_conv_128s": LEVIT,
}
TRANSFORMS = {
    "nothing": {},
    "half": {"mean": [0.5], "std": [0.25]},
    "colours": {"mean": [0.1, 0.2, 0.3], "crop_pct": 1.0},
    "filter": {"interpolation": "bilinear", "crop_pct": 0.75, "crop_mode": "squash"},
}
# Defaults of train.py: what nobody has typed.
UNSAID = {
    "in_chans": None, "input_size": None, "mean": None, "std": None, "crop_pct": None, "gp": None,
    "interpolation": "", "class_map": "", "input_img_mode": None, "bce_loss": False, "lr": 1e-3,
    "data_dir": None, "epochs": 3,
}  # fmt: skip


def drawn(network, seed=7):
    """Every weight and statistic anew, so that each of them shows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator) * 0.2
            if name.endswith("running_var"):
                noise = noise.abs() + 0.5
            elif name.endswith("weight") and value.ndim < 2:
                noise += 1
            value.copy_(noise)
    return network.eval()


def arguments(name, **changes):
    values = {**UNSAID, "model": name, "num_classes": 3, "img_size": 64, **changes}
    return argparse.Namespace(**{"model_kwargs": NETWORKS[name], **values})


def trained(name, **changes):
    import timm

    values = vars(arguments(name, **changes))
    return drawn(
        timm.create_model(
            name, num_classes=3, in_chans=values["in_chans"] or 3, global_pool=values["gp"],
            **values["model_kwargs"],
        )
    )  # fmt: skip


def saved(folder, network, args):
    """The best checkpoint of a run of timm's train.py."""
    import torch
    from timm.utils import CheckpointSaver

    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    saver = CheckpointSaver(
        network, optimizer, args, checkpoint_dir=str(folder), recovery_dir=str(folder)
    )
    saver.save_checkpoint(1, metric=np.float64(71.5))
    return folder / "model_best.pth.tar"


def chosen(**options):
    options = ExportOptions(**options)
    source = load_source(options)
    return source, *choose_preprocess(options, source)


def assert_same_function(network, source):
    import torch

    size, channels = source.model.config.image_size, source.model.config.in_channels
    x = np.random.default_rng(3).standard_normal((2, channels, *size))
    with torch.no_grad():
        expected = network.double()(torch.from_numpy(x)).numpy()
    found = source.model.forward(NumpyOps(), x)["logits"]
    assert relative_error(found, expected) < 1e-12


# ---------------------------------------------------------------------------- timm


@pytest.mark.parametrize("said", TRANSFORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_checkpoint_of_timms_training_runs_as_timm_runs_it(tmp_path, name, said):
    from timm.data import create_transform, resolve_data_config

    args = arguments(name, **TRANSFORMS[said])
    network = trained(name)
    source, spec, _ = chosen(checkpoint=saved(tmp_path, network, args))
    assert source.model.family.name == name.split("_")[0]
    transform = create_transform(**resolve_data_config(vars(args), model=network))
    for image in PICTURES:
        assert np.array_equal(tensor_of(image, spec), transform(image).numpy())
    assert_same_function(network, source)


def test_what_a_training_was_told_is_no_assumption(tmp_path):
    name = "deit_tiny_patch16_224"
    args = arguments(name, mean=[0.5], std=[0.5], crop_pct=1.0, interpolation="bilinear")
    _, _, assumed = chosen(checkpoint=saved(tmp_path, trained(name), args))
    assert assumed == ()
    file = saved(tmp_path, trained(name), arguments(name, mean=[0.5]))
    _, _, (text,) = chosen(checkpoint=file)
    assert text == (
        "preprocessing: the defaults of timm (bicubic, crop_pct 0.9, std 0.229/0.224/0.225)"
    )


def test_flags_overrule_what_a_training_was_told(tmp_path):
    name = "levit_128s"
    file = saved(tmp_path, trained(name), arguments(name, mean=[0.5], crop_pct=1.0))
    _, spec, _ = chosen(checkpoint=file, mean=(0.1, 0.2, 0.3), crop_pct=0.8)
    assert (spec.mean, spec.crop_pct) == ((0.1, 0.2, 0.3), 0.8)
    _, spec, _ = chosen(checkpoint=file, preprocess="original")
    assert spec.mean == (0.485, 0.456, 0.406)
    (tmp_path / "user.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.2] * 3}}))
    _, spec, _ = chosen(checkpoint=file, config=tmp_path / "user.json")
    assert (spec.mean, spec.crop_pct) == ((0.2,) * 3, 1.0)


def test_the_pooling_and_norms_of_a_training_reach_the_family(tmp_path):
    name = "vit_tiny_patch16_224.augreg_in21k"
    kwargs = {**TRANSFORMER, "fc_norm": False}
    network = trained(name, gp="avg", model_kwargs=kwargs)
    file = saved(tmp_path, network, arguments(name, gp="avg", model_kwargs=kwargs))
    said = model_arguments(read_checkpoint(file).hints.arguments)
    assert (said["global_pool"], said["fc_norm"], said["num_heads"]) == ("avg", False, 3)


def test_the_class_map_of_a_training_is_named_and_never_opened(tmp_path):
    name = "levit_128s"
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n")
    file = saved(tmp_path, trained(name), arguments(name, class_map=str(names)))
    options = ExportOptions(checkpoint=file)
    labels, (text,) = choose_labels(options, load_source(options))
    assert labels == ("0", "1", "2")
    assert text == "labels: the indices of the classes; the training's names are in 'names.txt'"


@pytest.mark.parametrize(
    ("beside", "args", "flags", "message"),
    [
        ({"num_classes": 5}, {}, {},
         "args in model_best.pth.tar says num_classes 3, config.json says 5: say which with "
         "--config FILE.json"),
        ({"pretrained_cfg": {"mean": [0.5] * 3}}, {"mean": [0.4]}, {"mean": (0.4,) * 3},
         "args in model_best.pth.tar says mean (0.4, 0.4, 0.4), config.json says [0.5, 0.5, 0.5]: "
         "say which with --mean"),
        ({"architecture": "levit_256"}, {}, {},
         "args in model_best.pth.tar says architecture 'levit_128s', config.json says 'levit_256': "
         "say which with --model"),
        ({}, {"num_classes": 4}, {},
         "model_best.pth.tar has 3 classes, args in model_best.pth.tar says 4: correct that, or "
         "say --config '{\"num_classes\": 3}'"),
        ({}, {"img_size": 96, "model_kwargs": {**LEVIT, "img_size": 96}}, {"image_size": 64},
         "model_best.pth.tar: the checkpoint was trained at 64x64 pixels, not 96x96 as args in "
         "model_best.pth.tar says; correct that (--image-size resizes the model to another size)"),
    ],
    ids=["classes", "mean", "architecture", "weights", "image size"],
)  # fmt: skip
def test_a_contradiction_is_one_line_and_a_flag_decides(tmp_path, beside, args, flags, message):
    name = "levit_128s"
    file = saved(tmp_path, trained(name), arguments(name, **args))
    (tmp_path / "config.json").write_text(json.dumps(beside))
    with pytest.raises(ConfigError) as caught:
        load_source(ExportOptions(checkpoint=file))
    assert str(caught.value) == message
    if flags:
        assert chosen(checkpoint=file, **flags)[0].model.config.image_size == (64, 64)


@pytest.mark.parametrize(
    ("name", "inside", "beside", "flags"),
    [
        ("architecture", "levit_128s", "levit_256", {"model": "levit_128s"}),
        ("scores", "regression", "multi_label_classification", {"scores": "none"}),
    ],
)
def test_the_flag_that_a_contradiction_names_ends_it(tmp_path, name, inside, beside, flags):
    import timm
    import torch

    key = {"scores": "problem_type"}.get(name, name)
    state = timm.create_model("levit_128s", num_classes=3).state_dict()
    config = {"pretrained_cfg": {}, key: inside}
    torch.save({"state_dict": state, "config": config}, tmp_path / "m.pth")
    (tmp_path / "config.json").write_text(json.dumps({key: beside}))
    (flag,) = (f"--{option}" for option in flags)
    with pytest.raises(ConfigError, match=rf"^config in m.pth says {name} .* which with {flag}$"):
        load_source(ExportOptions(checkpoint=tmp_path / "m.pth"))
    assert chosen(checkpoint=tmp_path / "m.pth", **flags)[0].variant == "levit_128s"


# ---------------------------------------------------------------------------- DeiT's main.py


@pytest.mark.parametrize("ratio", [None, 0.875, 0.9, 1.0])
def test_the_arguments_of_deits_main(tmp_path, ratio):
    """``build_transform`` of facebookresearch/deit, datasets.py."""
    import torch
    from torchvision import transforms

    name = "deit_tiny_patch16_224"
    network = trained(name)
    args = argparse.Namespace(model=name, input_size=64, nb_classes=3, data_set="IMNET", lr=5e-4)
    if ratio is not None:
        args.eval_crop_ratio = ratio
    torch.save({"model": network.state_dict(), "epoch": 3, "args": args}, tmp_path / "best.pth")
    # Its name is of other widths, and depth and heads are nowhere but in the code that was run.
    (tmp_path / "user.json").write_text(json.dumps({"num_heads": 3}))
    source, spec, _ = chosen(checkpoint=tmp_path / "best.pth", config=tmp_path / "user.json")
    assert source.keymap.source == "original"
    assert_same_function(network, source)
    transform = transforms.Compose(
        [
            transforms.Resize(int(64 / (ratio or 0.875)), interpolation=3),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    for image in PICTURES:
        assert np.array_equal(tensor_of(image, spec), transform(image).numpy())


# ---------------------------------------------------------------------------- mmengine

MM_CONFIG = dict(
    data_preprocessor=dict(
        num_classes=3, mean=[127.5, 120.0, 110.0], std=[64.0, 60.0, 55.0], to_rgb=True
    ),
    model=dict(
        type="ImageClassifier",
        backbone=dict(type="LeViT", arch="128s", img_size=64),
        head=dict(type="LeViTClsHead", num_classes=3, in_channels=384),
    ),
    test_pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="ResizeEdge", scale=70, edge="short", backend="pillow", interpolation="bilinear"),
        dict(type="CenterCrop", crop_size=64),
        dict(type="PackInputs"),
    ],
)


@pytest.fixture
def of_mmengine(tmp_path):
    """(config, meta) → a file that mmengine saved, of a small LeViT under mmpretrain's names."""
    import torch
    from mmengine.config import Config
    from mmengine.runner.checkpoint import save_checkpoint

    from levit.models.levit.config import levit_config
    from levit.models.random_weights import flatten, random_model
    from levit.models.registry import FAMILIES

    config = levit_config(
        widths=(32, 48, 64), key_dim=8, heads=(2, 3, 4), depths=(1, 1, 1), image_size=(64, 64),
        num_classes=3, distilled=True,
    )  # fmt: skip
    family = FAMILIES["levit"]
    keymap = next(k for k in family.keymaps if (k.source, k.prefix) == ("mmpretrain", "backbone."))
    state = flatten(random_model(family, config, 3), keymap)

    def make(values, **meta):
        text = values if isinstance(values, str) else Config(values).pretty_text
        file = tmp_path / "epoch_3.pth"
        save_checkpoint(
            {
                "meta": {"epoch": 3, "iter": 8, "cfg": text, **meta},
                "state_dict": {key: torch.from_numpy(value) for key, value in state.items()},
            },
            str(file),
        )
        return file

    return make


def test_the_config_in_a_file_of_mmengine(of_mmengine):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from mmpretrain.datasets import transforms
            from mmpretrain.models.utils import ClsDataPreprocessor
        except ImportError as error:
            pytest.skip(f"OpenCV does not load here: {error}")
    file = of_mmengine(MM_CONFIG, dataset_meta={"classes": ("cat", "dog", "bird")})
    source, spec, assumed = chosen(checkpoint=file)
    assert (source.keymap.source, assumed) == ("mmpretrain", ())
    options = ExportOptions(checkpoint=file)
    assert choose_labels(options, source) == (("cat", "dog", "bird"), ())
    stated = MM_CONFIG["data_preprocessor"]
    module = ClsDataPreprocessor(**{key: stated[key] for key in ("mean", "std", "to_rgb")})
    resize = {key: v for key, v in MM_CONFIG["test_pipeline"][1].items() if key != "type"}
    steps = (
        transforms.ResizeEdge(**resize), transforms.CenterCrop(crop_size=64),
        transforms.PackInputs(),
    )  # fmt: skip
    for image in PICTURES[:3]:
        results = {"img": np.asarray(image)[..., ::-1].copy()}
        for step in steps:
            results = step(results)
        expected = module({"inputs": [results["inputs"]]})["inputs"][0].numpy()
        assert np.array_equal(tensor_of(image, spec), expected)


def test_a_multi_label_head_of_mmpretrain_is_a_sigmoid_a_class(of_mmengine):
    for kind, scores in (("MultiLabelLinearClsHead", "sigmoid"), ("LinearClsHead", None)):
        head = dict(type=kind, num_classes=3, in_channels=64)
        config = {**MM_CONFIG, "model": {**MM_CONFIG["model"], "head": head}}
        source, _, _ = chosen(checkpoint=of_mmengine(config))
        assert source.hints.scores == scores


@pytest.mark.parametrize("kind", ["GELU", "mmcv.GELU"])
def test_an_activation_of_mmpretrain_that_the_stem_has_not_is_refused(of_mmengine, kind):
    backbone = {**MM_CONFIG["model"]["backbone"], "act_cfg": dict(type=kind)}
    config = {**MM_CONFIG, "model": {**MM_CONFIG["model"], "backbone": backbone}}
    with pytest.raises(ConfigError, match=r"act_cfg of the backbone is .*, and only HSwish"):
        chosen(checkpoint=of_mmengine(config))
    backbone["act_cfg"] = dict(type="HSwish")
    chosen(checkpoint=of_mmengine(config))


def test_the_configs_of_mmpretrain_are_read():
    from mmengine.config import Config

    package = Path(importlib.util.find_spec("mmpretrain").origin).parent
    files = sorted((package / ".mim" / "configs" / "levit").glob("levit-*.py"))
    assert len(files) == 5
    for file in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = Config.fromfile(file).pretty_text
        hints, notes = hints_from_file({"meta": {"cfg": text}}, "a.pth")
        assert (hints.num_classes, notes) == (1000, ())
        assert hints.data_preprocessor["mean"] == [123.675, 116.28, 103.53]
        assert hints.transform == {"resize_size": (256, 256), "interpolation": "bicubic"}


def test_a_config_of_mmengine_that_is_code_is_told_aloud(of_mmengine):
    source, spec, assumed = chosen(checkpoint=of_mmengine("import os\nmean = os.environ"))
    assert source.assumed == (
        "meta in epoch_3.pth: the config could not be read as plain assignments (line 1 is no "
        "assignment): not used",
    )
    assert spec.mean == (0.485, 0.456, 0.406)
    assert len(assumed) == 1


def test_a_model_that_takes_bgr_is_refused(of_mmengine):
    config = {**MM_CONFIG, "data_preprocessor": {"mean": [1, 2, 3], "to_rgb": False}}
    with pytest.raises(ConfigError) as caught:
        chosen(checkpoint=of_mmengine(config))
    assert str(caught.value).startswith(
        "data_preprocessor of meta in epoch_3.pth: to_rgb is not true: a model that takes BGR is "
        "not supported"
    )


# ---------------------------------------------------------------------------- Lightning


def test_the_hyper_parameters_of_lightning(tmp_path):
    import torch

    name = "deit_tiny_patch16_224"
    network = trained(name)
    torch.save(
        {
            "state_dict": {f"model.{key}": value for key, value in network.state_dict().items()},
            "hparams_name": "kwargs", "pytorch-lightning_version": "2.4.0", "loops": {},
            "hyper_parameters": {
                "model_name": name, "num_classes": 3, "num_heads": 3, "lr": 1e-3,
                "class_to_idx": {"dog": 1, "cat": 0, "bird": 2}, "mean": (0.5, 0.5, 0.5),
            },
        },
        tmp_path / "last.ckpt",
    )  # fmt: skip
    (tmp_path / "user.json").write_text(json.dumps({"num_heads": 3, "depth": 2}))
    options = ExportOptions(checkpoint=tmp_path / "last.ckpt", config=tmp_path / "user.json")
    source = load_source(options)
    assert choose_labels(options, source)[0] == ("cat", "dog", "bird")
    assert choose_preprocess(options, source)[0].mean == (0.5, 0.5, 0.5)
    assert_same_function(network, source)


def test_one_mean_of_a_script_is_that_of_any_number_of_channels(tmp_path):
    import torch

    name = "levit_128s"
    state = trained(name, in_chans=1).state_dict()
    settings = {"mean": 0.4, "std": [0.2]}  # the number of channels is in the shapes alone
    torch.save({"state_dict": state, "hyper_parameters": settings}, tmp_path / "grey.ckpt")
    _, spec, _ = chosen(checkpoint=tmp_path / "grey.ckpt", image_size=64)
    assert (spec.image_mode, spec.mean, spec.std) == ("L", (0.4,), (0.2,))


OF_TIMM = {"global_pool": "avg", "fc_norm": False}


@pytest.mark.parametrize(
    "said",
    [
        {"args": {"model": "vit_tiny_patch16_224", "global_pool": "avg"}},
        {"hyper_parameters": {"num_classes": 3, **OF_TIMM}},
        {"hyper_parameters": {"model_kwargs": OF_TIMM}},
        {"config": {"model_args": OF_TIMM}},
        {"model_args": OF_TIMM},
        OF_TIMM,
    ],
    ids=str,
)
def test_timms_arguments_under_everybodys_keys(tmp_path, said):
    import timm
    import torch

    name = "vit_tiny_patch16_224"  # whose name says the class token
    network = drawn(timm.create_model(name, num_classes=3, img_size=32, **OF_TIMM))
    torch.save({"arch": name, "state_dict": network.state_dict(), **said}, tmp_path / "last.ckpt")
    source = load_source(ExportOptions(checkpoint=tmp_path / "last.ckpt", image_size=32))
    assert_same_function(network, source)
    assert source.assumed == ()


def test_an_activation_that_is_not_built_is_refused_wherever_it_stands(tmp_path):
    import torch

    network = trained("levit_128s")
    for said in (
        {"hyper_parameters": {"act_layer": "relu"}},
        {"model_kwargs": {"act_layer": "relu"}},
    ):
        torch.save({"state_dict": network.state_dict(), **said}, tmp_path / "last.ckpt")
        with pytest.raises(ConfigError, match="unknown activation 'relu'"):
            load_source(ExportOptions(checkpoint=tmp_path / "last.ckpt"))


# ---------------------------------------------------------------------------- transformers

KINDS = {"vit": "ViT", "deit": "DeiT", "levit": "Levit"}


@pytest.fixture
def of_transformers(tmp_path):
    """(kind, settings of the processor) → a folder of `save_pretrained`."""
    import transformers

    def make(kind, settings=None, **changes):
        folder = tmp_path / kind
        shutil.rmtree(folder, ignore_errors=True)
        values = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
                      intermediate_size=96)  # fmt: skip
        if kind == "levit":
            values = dict(hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4],
                          depths=[1, 1, 1], key_dim=[8, 8, 8])  # fmt: skip
        config = getattr(transformers, f"{KINDS[kind]}Config")(
            image_size=64, num_labels=3, **values, **changes
        )
        network = getattr(transformers, f"{KINDS[kind]}ForImageClassification")(config)
        drawn(network).save_pretrained(folder)
        if settings is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        return folder

    return make


@pytest.mark.parametrize("route", ["beside", "flag"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_a_class_means_the_class_of_transformers(
    of_transformers, tmp_path, kind, route
):
    from transformers import AutoImageProcessor

    settings = {"size": {"height": 64, "width": 64}, "crop_size": 64, "image_mean": [0.3] * 3}
    folder = of_transformers(kind, settings)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    if route == "beside":
        _, spec, assumed = chosen(checkpoint=folder)
    else:
        (folder / "preprocessor_config.json").rename(tmp_path / "settings.json")
        _, spec, assumed = chosen(checkpoint=folder, preprocess=tmp_path / "settings.json")
    name = "preprocessor_config.json" if route == "beside" else tmp_path / "settings.json"
    assert assumed == (
        f"preprocessing: {KINDS[kind]}ImageProcessor, the class of the model in config.json, "
        f"because {name} names none",
    )
    assert type(processor).__name__ == f"{KINDS[kind]}ImageProcessorPil"
    for image in PICTURES:
        expected = processor(image, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(tensor_of(image, spec), expected)


@pytest.mark.parametrize("route", ["beside", "flag"])
def test_a_file_without_a_class_or_a_model_is_refused_as_in_transformers(
    of_transformers, tmp_path, route
):
    from transformers import AutoImageProcessor

    folder = of_transformers("deit", {"size": 64})
    (folder / "config.json").rename(tmp_path / "config.json")
    with pytest.raises((ValueError, OSError)):
        AutoImageProcessor.from_pretrained(folder)
    name, flags = "preprocessor_config.json", {}
    if route == "flag":
        name = tmp_path / "settings.json"
        (folder / "preprocessor_config.json").rename(name)
        flags = {"preprocess": name}
    (tmp_path / "heads.json").write_text(json.dumps({"num_heads": 3}))
    with pytest.raises(ConfigError) as caught:
        chosen(checkpoint=folder, config=tmp_path / "heads.json", **flags)
    assert str(caught.value) == (
        f"{name}: names no image processor, and no config.json says the model's type; add "
        f'"image_processor_type", such as "ViTImageProcessor"'
    )


def test_the_processor_in_a_processor_config_comes_first(of_transformers):
    from transformers import AutoImageProcessor

    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}}
    folder = of_transformers("vit", {**settings, "image_mean": [0.1] * 3})
    inner = {**settings, "image_mean": [0.2] * 3}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    _, spec, assumed = chosen(checkpoint=folder)
    assert spec.mean == tuple(processor.image_mean) == (0.2,) * 3
    assert assumed == ()
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    assert chosen(checkpoint=folder)[1].mean == (0.1,) * 3


def test_the_arguments_of_a_trainer_state_nothing_that_is_read(of_transformers):
    """``training_args.bin`` of transformers' Trainer lies beside the weights and is not opened."""
    import torch
    from transformers import TrainingArguments

    fields = dataclasses.fields(TrainingArguments)
    names = {field.name for field in fields}
    # label_names are the columns of the labels in a data set.
    assert names & set(STATED) == {"label_names"}
    folder = of_transformers("vit")
    before = describe_checkpoint(ExportOptions(checkpoint=folder))
    arguments = object.__new__(TrainingArguments)  # to be made it asks for accelerate
    vars(arguments).update({field.name: getattr(arguments, field.name, None) for field in fields})
    torch.save(arguments, folder / "training_args.bin")
    assert describe_checkpoint(ExportOptions(checkpoint=folder)) == before


# ---------------------------------------------------------------------------- inspect


@pytest.fixture
def kinds(tmp_path, of_transformers, of_mmengine):
    """Name → (path, flags) of a checkpoint of every kind."""
    import timm
    import torch
    from safetensors.torch import save_file

    (tmp_path / "vit.json").write_text(json.dumps({"num_heads": 3, "label_names": list("abc")}))
    whole = drawn(timm.create_model("vit_tiny_patch16_224", num_classes=3)).state_dict()
    torch.save(whole, tmp_path / "bare.pth")
    torch.save({"state_dict": whole}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(
        {key: value.bfloat16() for key, value in whole.items()}, tmp_path / "bf16.safetensors"
    )
    found = {
        "bare as vit": (tmp_path / "bare.pth", ["--model", "vit_tiny_patch16_224"]),
        "bare as deit": (tmp_path / "bare.pth", ["--model", "deit_tiny_patch16_224"]),
        "resized": (tmp_path / "bare.pth",
                    ["--model", "vit_tiny_patch16_224", "--image-size", "96"]),
        "before 1.6": (tmp_path / "old.pth", ["--model", "deit_tiny_patch16_224"]),
        "bfloat16": (tmp_path / "bf16.safetensors",
                     ["--model", "vit_tiny_patch16_224", "--config", tmp_path / "vit.json"]),
        "mmengine": (of_mmengine(MM_CONFIG), []),
    }  # fmt: skip
    for kind in KINDS:
        found[kind] = (of_transformers(kind), [])
    for name in NETWORKS:
        folder = tmp_path / name
        folder.mkdir()
        found[name] = (saved(folder, trained(name), arguments(name, mean=[0.4])), [])
    return found


def said_by(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main([str(word) for word in words])
    assert status == 0
    return out.getvalue()


def test_inspect_says_what_export_does(kinds, tmp_path):
    for number, (name, (path, flags)) in enumerate(kinds.items()):
        said = json.loads(said_by("inspect", path, *flags, "--json"))
        output = tmp_path / f"out{number}"
        said_by("export", "--checkpoint", path, *flags, "--verify", "none", "--output", output)
        manifest = json.loads((output / MANIFEST_FILE).read_text())
        for key in ("family", "variant", "source", "preprocess"):
            assert said[key] == manifest[key], (name, key)
        assert set(manifest["assumed"]) == set(said["assumed"]), name
        assert said["labels"] == (output / "labels.txt").read_text().split()
        table = said_by("inspect", path, *flags)
        assert said["variant"] in table
        assert set(said["origins"]) >= {"model", "image_size", "num_classes", "mean", "labels"}


def test_inspect_shows_where_each_setting_was_stated(tmp_path):
    name = "levit_128s"
    file = saved(tmp_path, trained(name), arguments(name, mean=[0.4]))
    beside = {"label_names": list("abc"), "pretrained_cfg": {"std": [0.2] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(beside))
    origins = json.loads(said_by("inspect", file, "--json", "--image-size", 96))["origins"]
    assert origins == {
        "model": "the shapes of the weights",  # its widths are those of no levit_128s
        "image_size": "--image-size",
        "in_channels": "the shapes of the weights",
        "num_classes": "args in model_best.pth.tar",
        "heads": "args in model_best.pth.tar",
        "labels": "config.json",
        "scores": "the default",
        "mean": "args in model_best.pth.tar",
        "std": "config.json",
        "interpolation": "the defaults of timm",
        "crop_pct": "the defaults of timm",
    }
    lines = said_by("inspect", file).splitlines()
    (mean,) = (line for line in lines if line.startswith("mean"))
    assert mean.split(maxsplit=2) == ["mean", "0.4/0.4/0.4", "args in model_best.pth.tar"]


def test_inspect_shows_the_pooling_of_a_training(tmp_path):
    import timm

    said = {"img_size": 32, "gp": "avg", "model_kwargs": {"fc_norm": False}}
    network = timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, img_size=32, global_pool="avg", fc_norm=False
    )
    file = saved(tmp_path, drawn(network), argparse.Namespace(model="vit_tiny_patch16_224", **said))
    lines = [line.split(maxsplit=2) for line in said_by("inspect", file).splitlines()]
    assert ["pool", "avg", "args in model_best.pth.tar"] in lines


def test_inspect_of_a_network_that_two_families_share(kinds):
    path, _ = kinds["bare as vit"]
    said = json.loads(said_by("inspect", path, "--json"))
    assert said["undecided"] == "DeiT or ViT: say which with --model"
    assert (said["family"], said["preprocess"]) == (None, None)
    assert said["config"]["image_size"] == [224, 224]
    found = {one["family"]: one["preprocess"]["mean"] for one in said["candidates"]}
    assert found == {"deit": [0.485, 0.456, 0.406], "vit": [0.5, 0.5, 0.5]}
    table = said_by("inspect", path)
    assert "DeiT or ViT: say which with --model" in table
    assert "as a ViT: timm: bicubic, crop_pct 0.9, center, mean 0.5/0.5/0.5" in table
