"""Artifacts made from files that transformers, mmpretrain and the original code have written.

Weights are drawn anew, put into the source's own network, and saved by the source's own means;
what comes out of the artifact is compared with what that network says in float64. timm has a
module of its own, ``test_parity_timm.py``.

The original code is no package: ``LEVIT_ORIGINAL_REPO`` names a clone of facebookresearch/LeViT.
mmpretrain 1.2 runs beside a current PyTorch only when persuaded (see ``docs/results.md``), so it
is compared where it can be imported.
"""

import argparse
import copy
import importlib
import os
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from parity import deployments, relative_error, run_artifact

from levit.export import ExportOptions
from levit.export.prepare import prepare
from levit.models.levit.networks import transformers_arguments
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES

pytestmark = pytest.mark.peers

LEVIT = FAMILIES["levit"]
PUBLISHED = ["levit_128s", "levit_128", "levit_192", "levit_256", "levit_384"]

REFERENCE = 1e-10  # two float64 evaluations
DEPLOYED = 1e-5  # float32, of the largest value


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path)


def fill(network, state):
    import torch

    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    loaded = network.load_state_dict(tensors, strict=False)
    assert loaded.unexpected_keys == []
    left = ("num_batches_tracked", "attention_bias_idxs")
    assert all(key.endswith(left) for key in loaded.missing_keys), loaded.missing_keys
    # Their networks keep gathered biases of before in eval mode until they are told to train.
    return network.train().eval()


class Transformers:
    def __init__(self, config):
        self.source = "transformers"
        if not config.num_classes:
            self.name = "LevitModel"
        else:
            self.name = "LevitForImageClassification" + "WithTeacher" * config.distilled
        self.prefix = "" if self.name == "LevitModel" else "levit."
        transformers = importlib.import_module("transformers")
        arguments = transformers.LevitConfig(**transformers_arguments(config))
        self.network = getattr(transformers, self.name)(arguments)

    def save(self, folder):
        self.network.save_pretrained(folder)
        return folder

    def outputs(self, network, x):
        answer = network(x)
        if self.name == "LevitModel":
            return {"embedding": answer.pooler_output, "features": answer.last_hidden_state}
        values = {"logits": answer.logits, "embedding": network.levit(x).pooler_output}
        if self.name.endswith("WithTeacher"):
            values |= {"logits_head": answer.cls_logits, "logits_dist": answer.distillation_logits}
        return values


class Original:
    prefix = ""
    source = "original"

    def __init__(self, config):
        repository = os.environ.get("LEVIT_ORIGINAL_REPO")
        if not repository:
            pytest.skip("LEVIT_ORIGINAL_REPO names no clone of facebookresearch/LeViT")
        self.conv = config.conv
        name = "levit_c" if config.conv else "levit"
        # Under another name: ours is levit too.
        file = Path(repository) / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"original_{name}", file)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, repository)  # for its `import utils`
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is written for an older timm
                spec.loader.exec_module(module)
        finally:
            sys.path.remove(repository)

        block = config.stages[0].block
        widths = [stage.width for stage in config.stages]
        self.network = module.LeViT(
            img_size=config.image_size[0],
            patch_size=16,
            num_classes=config.num_classes,
            embed_dim=widths,
            key_dim=[block.key_dim] * 3,
            depth=[stage.depth for stage in config.stages],
            num_heads=[stage.block.heads for stage in config.stages],
            attn_ratio=[2, 2, 2],
            mlp_ratio=[2, 2, 2],
            down_ops=[
                ["Subsample", block.key_dim, widths[i] // block.key_dim, 4, 2, 2] for i in range(2)
            ],
            distillation=config.distilled,
            hybrid_backbone=module.b16(
                widths[0], activation=importlib.import_module("torch").nn.Hardswish
            ),
        )

    def save(self, folder):
        import torch

        # As its main.py saves.
        file = folder / "checkpoint.pth"
        torch.save(
            {
                "model": self.network.state_dict(),
                "epoch": 999,
                "args": argparse.Namespace(lr=5e-4, output_dir=""),
            },
            file,
        )
        return file

    def outputs(self, network, x):
        stem = network.patch_embed(x)
        if self.conv:
            embedding = network.blocks(stem).mean((2, 3))
        else:
            embedding = network.blocks(stem.flatten(2).transpose(1, 2)).mean(1)
        return {
            "logits": network(x),
            "embedding": embedding,
            "logits_head": network.head(embedding),
            "logits_dist": network.head_dist(embedding),
        }


class Mmpretrain:
    prefix = "backbone."
    source = "mmpretrain"

    def __init__(self, config):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build = importlib.import_module("mmpretrain.models").build_classifier
        name = next(
            n
            for n in PUBLISHED
            if LEVIT.variants[n].config
            == replace(config, image_size=(224, 224), num_classes=1000, distilled=True)
        )
        self.network = build(
            dict(
                type="ImageClassifier",
                backbone=dict(
                    type="LeViT",
                    arch=name.removeprefix("levit_"),
                    img_size=config.image_size[0],
                    drop_path_rate=0,
                ),
                neck=dict(type="GlobalAveragePooling"),
                head=dict(
                    type="LeViTClsHead",
                    num_classes=config.num_classes,
                    in_channels=config.width,
                    distillation=config.distilled,
                    loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
                ),
            )
        )

    def save(self, folder):
        import torch

        file = folder / "epoch_1000.pth"
        torch.save({"meta": {"epoch": 1000}, "state_dict": self.network.state_dict()}, file)
        return file

    def outputs(self, network, x):
        embedding = network.extract_feat(x)[0]
        return {"logits": network.head((embedding,)), "embedding": embedding}


def compare(kind, config, seed, folder):
    import torch

    source = kind(config)
    keymap = next(
        k
        for k in LEVIT.keymaps
        if (k.source, k.prefix, k.conv) == (source.source, source.prefix, config.conv)
    )
    state = flatten(random_model(LEVIT, config, seed), keymap)
    fill(source.network, state)
    checkpoint = source.save(folder)
    pictures = smooth_pictures(np.random.default_rng(seed), 2, config.image_size)
    x = standardized(pictures)
    with torch.no_grad():
        single = source.outputs(source.network, torch.from_numpy(x))
        double = fill(copy.deepcopy(source.network), state).double()
        exact = source.outputs(double, torch.from_numpy(x).double())
    options = ExportOptions(checkpoint=checkpoint, outputs=tuple(exact), output=folder / "out")
    prepared = prepare(options)
    assert prepared.source.origin["format"] == source.source
    assert prepared.trained.config == config
    reference = prepared.trained.forward(NumpyOps(), x.astype(np.float64))
    deployed = {a.manifest.target: run_artifact(a, x) for a in deployments(prepared)}
    for name, tensor in exact.items():
        expected = tensor.numpy()
        at = f"{source.source} {config.image_size} {name}, LEVIT_TEST_SEED={seed}"
        assert np.ptp(expected, axis=0).max() > 0.05 * np.abs(expected).max(), f"deaf: {at}"
        own = relative_error(single[name].numpy(), expected)
        error = relative_error(reference[name], expected)
        assert error <= REFERENCE, f"reference off by {error:.1e}: {at}"
        for target, found in deployed.items():
            error = relative_error(found[name], expected)
            assert error <= max(DEPLOYED, 2 * own), (
                f"{target} off by {error:.1e}, the source's own float32 is by {own:.1e}: {at}"
            )


LARGE = ("levit_256", "levit_384")


@pytest.mark.parametrize("kind", [Transformers, Original, Mmpretrain])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in PUBLISHED]
)
def test_published_variants_at_full_size(name, kind, seed, folder):
    compare(kind, LEVIT.variants[name].config, seed, folder)


@pytest.mark.parametrize("kind", [Transformers, Original, Mmpretrain])
@pytest.mark.parametrize(
    "changes", [dict(num_classes=7), dict(num_classes=1000, image_size=(160, 160))], ids=str
)
def test_fine_tuned_variants(kind, changes, seed, folder):
    config = replace(LEVIT.variants["levit_192"].config, **{"image_size": (96, 96), **changes})
    compare(kind, config, seed, folder)


@pytest.mark.parametrize(
    "changes", [dict(num_classes=5, distilled=False), dict(num_classes=0, distilled=False)], ids=str
)
def test_every_class_of_transformers(changes, seed, folder):
    config = replace(LEVIT.variants["levit_128s"].config, image_size=(96, 96), **changes)
    compare(Transformers, config, seed, folder)


def test_the_originals_convolutions(seed, folder):
    config = replace(LEVIT.variants["levit_conv_128s"].config, image_size=(96, 96), num_classes=9)
    compare(Original, config, seed, folder)
