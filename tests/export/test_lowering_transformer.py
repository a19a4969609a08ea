"""Programs of DeiT, ConViT and ViT against the model as trained, in float64."""

from dataclasses import replace

import numpy as np
import pytest
from transformer_kinds import KINDS, SIZES

from levit.errors import ExportError
from levit.export.lowering import lower
from levit.export.passes import PASSES, fold_gate, run_passes
from levit.models.layers import transform
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.layers import Embedding, PositionAttention
from levit.native.check import check
from levit.native.interpreter import interpret
from levit.native.program import (
    Attention,
    LayerNorm,
    Linear,
    Mean,
    Patches,
    Program,
    Project,
    Rows,
    Stack,
)

EXACT = 1e-12
STATISTICS = ((0.4, 0.5, 0.6, 0.45), (0.2, 0.25, 0.3, 0.22))
# Beside the kinds that the passes are tested on: sizes that are multiples of nothing.
ODD = dict(width=45, heads=5, mlp_width=67, patch_size=7, image_size=(21, 35), num_classes=3)
MORE = {
    "odd": ("deit", ODD),
    "odd_distilled": ("deit", dict(ODD, distilled=True, distilled_head=True, in_channels=4)),
    "odd_local": ("convit", dict(ODD, local_depth=1)),
    "one_patch": ("vit", dict(image_size=(16, 16), registers=2)),
    "linear_probe": (
        "deit", dict(distilled=True, distilled_head=True, head_norm=True, head_dist_norm=True),
    ),
    "many_registers": ("vit", dict(registers=20, pool="avg", layer_scale=True, fc_norm=True)),
}  # fmt: skip


@pytest.fixture(scope="module")
def make(seed):
    """(kind) → a small model as trained, with weights that this run has drawn."""
    models = {}

    def build(kind):
        if kind not in models:
            family, own = {**KINDS, **MORE}[kind]
            config = TransformerConfig(**{**SIZES, **own})
            models[kind] = random_model(FAMILIES[family], config, seed)
        return models[kind]

    return build


@pytest.fixture(params=[*KINDS, *MORE])
def small(request, make):
    """Each small model in turn."""
    return make(request.param)


def inputs_of(model, seed, count=2):
    config = model.config
    rng = np.random.default_rng(seed)
    pixels = smooth_pictures(rng, count, config.image_size, config.in_channels)
    return pixels if model.plan.pixels is not None else standardized(pixels).astype(np.float64)


def asked(model, outputs, pixels=False):
    model = model.with_plan(outputs=outputs)
    if not pixels:
        return model
    statistics = tuple(values[: model.config.in_channels] for values in STATISTICS)
    return model.with_plan(pixels=statistics)


def assert_exact(trained, deployed, seed, count=2):
    x = inputs_of(trained, seed, count)
    expected = trained.forward(NumpyOps(), x)
    lowered = lower(deployed)
    check(lowered.program, lowered.program.arrays)
    found = interpret(lowered.program, lowered.arrays, x)
    assert list(found) == list(expected)
    for name, reference in expected.items():
        assert found[name].shape == reference.shape
        assert np.abs(found[name] - reference).max() < EXACT * np.abs(reference).max(), name


def deployed(model, leave_out=()):
    """A model after its passes."""
    return run_passes(model, [each for each in PASSES if each not in leave_out])[-1].model


def output_sets(model):
    """Each output alone, all of them, and those that keep no pass from firing."""
    every = model.family.outputs(model.config)
    some = tuple(name for name in ("embedding", "logits") if name in every)
    return dict.fromkeys([*((name,) for name in every), every, every[::-1], some])


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
def test_every_output(small, seed, pixels):
    for outputs in output_sets(small):
        model = asked(small, outputs, pixels)
        assert_exact(model, deployed(model), seed)


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
def test_models_before_their_passes(small, seed, pixels):
    """Norms, scales, tokens and gates are folded on the way, so that none can be forgotten."""
    for outputs in output_sets(small):
        model = asked(small, outputs, pixels)
        assert_exact(model, model, seed)


@pytest.mark.parametrize("kind", ["convit", "convit_average"])
@pytest.mark.parametrize("gate", [-40.0, 0.0, 3.0, 40.0])
def test_gates_open_and_closed(make, kind, gate, seed):
    """In the values, in the attention, and where one share or the other has no digits left."""

    def gated(_, position):
        values = np.linspace(gate - 0.1, gate + 0.1, len(position.gate))
        return replace(position, gate=values)

    model = make(kind)
    params, count = transform(model.params, PositionAttention, gated)
    assert count == 2
    model = asked(replace(model, params=params), ("logits", "features"))
    for left_out in ((), (fold_gate,)):
        folded = deployed(model, left_out)
        steps = lower(folded).program.steps
        gates = [step for step in steps if isinstance(step, Attention) and step.positions]
        assert len(gates) == 2
        open_ = not left_out and gate < 5
        assert all((step.rest is None) == open_ for step in gates)
        assert_exact(model, folded, seed)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("deit_tiny_patch16_224", 224),  # 197 tokens
        ("deit_tiny_distilled_patch16_224", 224),  # 198
        ("deit_tiny_distilled_patch16_224", 384),  # 578
        ("convit_tiny", 224),
        pytest.param("convit_tiny", 448, marks=pytest.mark.slow),  # 784 and 785
    ],
)
def test_numbers_of_tokens(seed, name, size):
    family = FAMILIES[name.split("_")[0]]
    config = family.variants[name].config
    depth = dict(depth=2, local_depth=min(config.local_depth, 1))
    config = replace(config, image_size=(size, size), width=config.heads * 16, **depth)
    model = asked(random_model(family, config, seed), ("logits",))
    assert_exact(model, deployed(model), seed, count=1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["deit", "convit", "vit"])
def test_every_variant(family, seed):
    """Widths and heads of each, at two blocks: all others are like them."""
    family = FAMILIES[family]
    for variant in family.variants.values():
        config = variant.config
        depth = dict(depth=2, local_depth=min(config.local_depth, 1))
        size = tuple(config.patch_size * n for n in (3, 4))
        config = replace(config, image_size=size, **depth)
        model = asked(random_model(family, config, seed), family.outputs(config))
        assert_exact(model, deployed(model), seed)


def kinds_of(steps):
    return [type(step).__name__ for step in steps]


def test_structure(make):
    steps = lower(deployed(asked(make("deit"), ("logits",)))).program.steps
    block = ["LayerNorm", "Project", "Attention", "Linear", "LayerNorm", "Linear", "Linear"]
    assert kinds_of(step for step in steps if step.stage == 0) == [
        *("Patches", "Stack", "Linear"),
        *block * 2,
        *("LayerNorm", "Rows", "Rows", "Project", "Project", "Attention"),
    ]
    assert kinds_of(step for step in steps if step.stage == 1) == [
        *("Linear", "LayerNorm", "Linear", "Linear"),
        *("LayerNorm", "Linear", "Output"),
    ]
    residual = [step for step in steps if isinstance(step, Linear) and step.residual is not None]
    assert len(residual) == 1 + 2 * 3
    assert all(step.target == step.residual for step in residual)
    norms = [step for step in steps if isinstance(step, LayerNorm)]
    assert all(step.weight is None for step in norms)


def test_only_what_is_read_is_carried(make):
    program = lower(deployed(asked(make("distilled"), ("logits",)))).program
    carried = [(buffer.rows, buffer.columns) for buffer in program.buffers if buffer.carried]
    assert carried == [(2, 48), (2, 48)]
    heads = [step for step in program.steps if isinstance(step, Rows)][-1]
    assert heads.together == 2


def test_mean_before_the_last_product(make):
    program = lower(deployed(asked(make("gap"), ("logits",)))).program
    means = [step for step in program.steps if isinstance(step, Mean)]
    # A norm stands between: the mean is taken of normed tokens, at the end.
    assert [(step.name, step.first) for step in means] == [("pool", 0)]
    program = lower(deployed(asked(make("reg_gap"), ("logits",)))).program
    means = [step for step in program.steps if isinstance(step, Mean)]
    assert [step.name for step in means] == ["blocks.2.mlp.pool", "pool"]
    assert [step.first for step in means] == [3, 3]


def test_names_are_the_layers_paths(make):
    program = lower(deployed(asked(make("distilled"), ("logits", "logits_dist")))).program
    named = {step.name for step in program.steps if isinstance(step, Linear)}
    blocks = {f"blocks.{i}.{name}" for i in range(3) for name in ("attn.proj", "mlp.up")}
    assert blocks | {"embed", "heads", "head_dist"} <= named
    parts = {part.weight for s in program.steps if isinstance(s, Project) for part in s.parts}
    assert {f"blocks.{i}.attn.{part}.weight" for i in range(3) for part in "qkv"} == parts


def test_features_alone_need_no_head(make):
    steps = lower(deployed(asked(make("average"), ("features",)))).program.steps
    assert "Mean" not in kinds_of(steps)
    assert not any(step.name == "head" for step in steps)


def test_convolutions_that_cut_no_squares(make):
    model = make("deit")
    for change in (dict(stride=8), dict(padding=1)):
        params, _ = transform(model.params, Embedding, lambda _, e, c=change: replace(e, **c))
        with pytest.raises(ExportError, match="embed is another convolution: use --target onnx"):
            lower(replace(model, params=params))


def test_the_same_program_for_the_same_model(make):
    model = deployed(asked(make("convit"), ("logits",)))
    program = lower(model).program
    assert program == lower(model).program
    assert Program.from_dict(program.to_dict()) == program
    assert {"Patches", "Stack", "LayerNorm", "Rows"} <= set(kinds_of(program.steps))
    assert isinstance(program.steps[0], Patches)
    assert isinstance(program.steps[1], Stack)
