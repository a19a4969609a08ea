"""Programs against the model as trained, in float64: before there is any kernel."""

from dataclasses import replace

import numpy as np
import pytest

from levit.errors import ExportError
from levit.export.lowering import can_lower, lower
from levit.export.passes import run_passes
from levit.models.layers import Conv, transform
from levit.models.levit.config import BlockConfig, LevitConfig, StageConfig, levit_config
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.native.interpreter import interpret
from levit.native.program import Linear, Program, Project, Subsample

EXACT = 1e-12
STATISTICS = ((0.4, 0.5, 0.6, 0.45, 0.55), (0.2, 0.25, 0.3, 0.22, 0.28))

# Widths, heads and sizes that are multiples of nothing.
DRAWN = {
    "odd_widths": LevitConfig(
        image_size=(48, 80),
        in_channels=4,
        num_classes=7,
        stem_widths=(5, 9, 14, 27),
        stages=(
            StageConfig(
                width=27,
                depth=1,
                block=BlockConfig(heads=3, key_dim=12, value_dim=20, mlp_width=41),
                downsample=None,
            ),
            StageConfig(
                width=38,
                depth=2,
                block=BlockConfig(heads=2, key_dim=24, value_dim=12, mlp_width=50),
                downsample=BlockConfig(heads=5, key_dim=20, value_dim=33, mlp_width=77),
            ),
        ),
        activation="silu",
        attention_activation="gelu",
        head_norm=False,
    ),
    "downsamplings_alone": levit_config(
        widths=(24, 40, 56), key_dim=12, heads=(2, 3, 4), depths=(0, 0, 0),
        image_size=(56, 40), stem_convs=3, num_classes=3, activation="gelu",
    ),
    "no_block": levit_config(
        widths=(20,), key_dim=4, heads=(1,), depths=(0,), image_size=(32, 16), stem_convs=4
    ),
    "one_token": levit_config(
        widths=(16, 24), key_dim=8, heads=(2, 3), depths=(1, 1), image_size=(16, 16)
    ),
    "one_convolution": levit_config(
        widths=(16, 24), key_dim=8, heads=(2, 3), depths=(1, 1), image_size=(6, 10), stem_convs=1
    ),
}  # fmt: skip


def as_asked(model, outputs, pixels):
    model = model.with_plan(outputs=outputs)
    if not pixels:
        return model
    channels = model.config.in_channels
    return model.with_plan(pixels=tuple(values[:channels] for values in STATISTICS))


def pictures_of(config, seed, count=2):
    pixels = smooth_pictures(
        np.random.default_rng(seed), count, config.image_size, config.in_channels
    )
    return pixels, standardized(pixels).astype(np.float64)


def difference(trained, x):
    """The program's difference from the model as trained, over the largest value."""
    expected = trained.forward(NumpyOps(), x)
    lowered = lower(run_passes(trained)[-1].model)
    found = interpret(lowered.program, lowered.arrays, x)
    assert list(found) == list(expected)
    worst = 0.0
    for name, reference in expected.items():
        assert found[name].shape == reference.shape
        worst = max(worst, np.abs(found[name] - reference).max() / np.abs(reference).max())
    return worst


def output_sets(family, config):
    """Each output alone, all of them, and those that keep no pass from firing."""
    every = family.outputs(config)
    some = tuple(name for name in ("embedding", "logits") if name in every)
    return [*((name,) for name in every), every, tuple(reversed(every)), some]


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
def test_every_output_of_small_models(small, seed, pixels):
    inputs = pictures_of(small.config, seed)[not pixels]
    for outputs in output_sets(small.family, small.config):
        assert difference(as_asked(small, outputs, pixels), inputs) < EXACT, outputs


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
@pytest.mark.parametrize("name", DRAWN)
def test_sizes_that_are_multiples_of_nothing(levit, seed, name, pixels):
    model = random_model(levit, DRAWN[name], seed)
    inputs = pictures_of(model.config, seed)[not pixels]
    for outputs in (levit.outputs(model.config), ("logits",)):
        assert difference(as_asked(model, outputs, pixels), inputs) < EXACT, outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in FAMILIES["levit"].variants if not name.startswith("levit_conv")]
)
def test_every_variant_and_its_conv_twin(levit, seed, name):
    config = levit.variants[name].config
    if "512" in name or name.endswith("_s8"):  # whose weights, or 784 tokens, take a minute
        stages = tuple(replace(stage, depth=1) for stage in config.stages)
        config = replace(config, image_size=(112, 112), stages=stages)
    model = random_model(levit, config, seed)
    inputs = pictures_of(config, seed, count=1)[1]
    model = as_asked(model, levit.outputs(config), pixels=False)
    assert difference(model, inputs) < EXACT
    twin = replace(model, config=replace(config, conv=True))  # the same weights
    assert difference(twin, inputs) < EXACT


def test_model_before_its_passes(make_small, seed):
    """Norms are folded on the way, so that none can be forgotten."""
    model = make_small("tiny")
    x = pictures_of(model.config, seed)[1]
    lowered = lower(model)
    found = interpret(lowered.program, lowered.arrays, x)["logits"]
    expected = model.forward(NumpyOps(), x)["logits"]
    assert np.abs(found - expected).max() < EXACT * np.abs(expected).max()


def test_structure(make_small):
    model = run_passes(make_small("tiny"))[-1].model
    steps = lower(model).program.steps
    assert [type(step).__name__ for step in steps if step.stage == 1] == [
        *("Linear", "Linear"),  # the downsampling block's MLP
        *("Project", "Attention", "Linear", "Linear", "Linear"),
        *("Project", "Subsample", "Project", "Attention", "Linear"),
    ]
    assert [step.stage for step in steps] == sorted(step.stage for step in steps)
    blocks = [step for step in steps if isinstance(step, Project) and len(step.parts) == 3]
    assert len(blocks) == 4
    assert sum(isinstance(step, Subsample) for step in steps) == 2
    residual = [step for step in steps if isinstance(step, Linear) and step.residual is not None]
    assert len(residual) == 2 * 4 + 2
    assert all(step.target == step.residual for step in residual)


def test_only_small_grids_are_carried(make_small):
    program = lower(run_passes(make_small("tiny"))[-1].model).program
    carried = [buffer for buffer in program.buffers if buffer.carried]
    assert [(buffer.rows, buffer.columns) for buffer in carried] == [(9, 48), (4, 64)]


def test_memory_is_used_again(make_small):
    program = lower(run_passes(make_small("tiny"))[-1].model).program
    local = [buffer for buffer in program.buffers if not buffer.carried]
    needed = max(buffer.offset + buffer.size for buffer in local)
    assert needed < sum(buffer.size for buffer in local) / 3


def test_one_head_where_only_the_mean_is_wanted(make_small):
    model = run_passes(make_small("tiny"))[-1].model
    names = [step.name for step in lower(model).program.steps]
    assert "head" in names
    assert not {"head_dist", "heads"} & set(names)


def test_families_without_kernels(make_small):
    model = replace(make_small("tiny"), params=())  # a tree that is no family's
    assert not can_lower(model)
    with pytest.raises(ExportError, match=r"no kernels for LeViT .*use --target onnx or openvino"):
        lower(model)


@pytest.mark.parametrize("change", [dict(stride=1), dict(padding=0)])
def test_convolutions_that_halve_nothing(make_small, change):
    model = make_small("tiny")
    params, _ = transform(model.params, Conv, lambda _, conv: replace(conv, **change))
    with pytest.raises(ExportError, match=r"stem\.0 is another: use --target"):
        lower(replace(model, params=params))


def test_grids_that_are_odd(make_small):
    model = make_small("tiny")
    config = replace(model.config)  # a copy
    object.__setattr__(config, "image_size", (96, 98))  # which no config states
    with pytest.raises(ExportError, match=r"even grids, and stem\.1 reads 48x49"):
        lower(replace(model, config=config))


def test_the_same_program_for_the_same_model(make_small):
    model = run_passes(make_small("tiny"))[-1].model
    assert lower(model).program == lower(model).program
    assert Program.from_dict(lower(model).program.to_dict()) == lower(model).program
