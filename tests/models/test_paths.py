"""A layer's name is its path in the tree: scopes of the dataflow are the paths of its layers."""

import contextlib

import numpy as np
import pytest

from levit.export.passes import run_passes
from levit.models.counting import ShapeOps
from levit.models.layers import Affine, LayerNorm, layers_of
from levit.models.model import Model, Plan
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.layers import LayerScale, PositionAttention

VARIANTS = [(family, name) for family in FAMILIES.values() for name in family.variants]
# Scopes of what no layer does.
DATAFLOW = {"pixels", "tokens", "pool", "features", "heads", "read"}
_VIT = dict(
    image_size=(32, 48), patch_size=16, num_classes=7, width=24, depth=3, heads=3, mlp_width=48
)
SMALL = {
    "deit": ("deit", dict(distilled=True, distilled_head=True)),
    "convit": ("convit", dict(local_depth=2, qkv_bias=False)),
    "vit_pooler": ("vit", dict(num_classes=0, pooler_width=20)),
    "deit3": ("deit", dict(layer_scale=True, token_positions=False)),
    "average": ("vit", dict(pool="avg", fc_norm=True, registers=2, pre_norm=True)),
}


class Shapes:
    """Tensors that take no memory."""

    def tensor(self, key, shape):
        return np.broadcast_to(np.float32(1), shape)

    def constant(self, key, value):
        pass


class Watching(ShapeOps):
    """Notes which scopes are entered, and in which layers are applied."""

    def __init__(self):
        super().__init__()
        self.entered, self.applied = set(), []

    @contextlib.contextmanager
    def scope(self, name):
        with super().scope(name):
            self.entered.add(self.path)
            yield

    def linear(self, x, *arguments):
        self.applied.append(self.path)
        return super().linear(x, *arguments)

    def conv(self, x, *arguments):
        self.applied.append(self.path)
        return super().conv(x, *arguments)

    def layer_norm(self, x, *arguments):
        self.applied.append(self.path)
        return super().layer_norm(x, *arguments)


def assert_scopes_are_paths(model):
    ops = Watching()
    model.forward(ops, (1, *model.input_shape))
    paths = {*layers_of(model.params, Affine), *layers_of(model.params, LayerNorm)}
    positions = layers_of(model.params, PositionAttention)
    paths |= {path for path, position in positions.items() if position.table is None}
    assert len(ops.applied) == len(set(ops.applied)), "two layers of one name"
    assert set(ops.applied) == paths
    above = {path[:i] for path in paths for i, letter in enumerate(path) if letter == "."}
    elsewhere = {*positions, *layers_of(model.params, LayerScale)}
    others = ops.entered - paths - above - elsewhere
    assert {path.rpartition(".")[2] for path in others} <= DATAFLOW


@pytest.mark.parametrize(("family", "name"), VARIANTS, ids=[name for _, name in VARIANTS])
def test_of_every_variant(family, name):
    config = family.variants[name].config
    params = family.build(config, family.keymaps[0], Shapes())
    plan = Plan(outputs=family.outputs(config))
    assert_scopes_are_paths(Model(family, config, params, plan))


@pytest.mark.parametrize("channels_first", [False, True])
def test_of_every_small_levit_folded(small, channels_first):
    model = run_passes(small)[-1].model.with_plan(channels_first=channels_first)
    assert_scopes_are_paths(model)


@pytest.mark.parametrize("every_output", [False, True])
@pytest.mark.parametrize("kind", SMALL)
def test_of_every_transformer_folded(kind, every_output, seed):
    family, own = SMALL[kind]
    model = random_model(FAMILIES[family], TransformerConfig(**(_VIT | own)), seed)
    names = model.family.outputs(model.config)
    others = [name for name in names if name.startswith(("logits_", "pooled"))]
    outputs = names if every_output else (others or names[:1])
    model = model.with_plan(outputs=tuple(outputs))
    assert_scopes_are_paths(run_passes(model)[-1].model)
