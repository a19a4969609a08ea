"""Position tables at another image size, against PyTorch and timm."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.errors import ConfigError
from levit.export.verify_source import make_network
from levit.models.layers import layers_of
from levit.models.levit.layers import Attention as LevitAttention
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES
from levit.models.resampling import resample_grid, resample_offsets
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.layers import PositionAttention

SIDES = st.integers(1, 20)

KINDS = {
    "deit": ("deit", {}),
    "distilled": ("deit", dict(distilled=True, distilled_head=True)),
    "convit": ("convit", dict(local_depth=2, qkv_bias=False)),
    "vit": ("vit", {}),
}


@functools.cache
def model_of(kind, seed, **changes):
    family, own = KINDS[kind]
    values = dict(
        image_size=(64, 64), patch_size=16, num_classes=7, width=48, depth=3, heads=3, mlp_width=192
    )
    config = TransformerConfig(**{**values, **own, **changes})
    return random_model(FAMILIES[family], config, seed)


def resized(model, size):
    config, params, how = model.family.resize(model.config, model.params, size)
    return replace(model, config=config, params=params), how


def inputs(config, seed):
    rng = np.random.default_rng(seed)
    pictures = smooth_pictures(rng, 2, config.image_size, config.in_channels)
    return standardized(pictures).astype(np.float64)


def interpolated(table, old, new):
    import torch

    grid = torch.from_numpy(table.reshape(1, *old, -1)).permute(0, 3, 1, 2)
    found = torch.nn.functional.interpolate(grid, size=new, mode="bicubic", antialias=True)
    return found[0].permute(1, 2, 0).reshape(new[0] * new[1], -1).numpy()


# ---------------------------------------------------------------------------- resample_grid


@pytest.mark.peers
@settings(max_examples=40, deadline=None)
@given(height=SIDES, width=SIDES, new_height=SIDES, new_width=SIDES, seed=st.integers(0, 99))
def test_a_grid_is_resampled_as_pytorch_does_it(height, width, new_height, new_width, seed):
    old, new = (height, width), (new_height, new_width)
    table = np.random.default_rng(seed).standard_normal((height * width, 3))
    found = resample_grid(table, old, new)
    expected = interpolated(table, old, new)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-13 * max(1.0, np.abs(expected).max())


@pytest.mark.peers
@pytest.mark.parametrize(
    ("old", "new"),
    [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((14, 14), (7, 31)), ((7, 31), (14, 14)),
     ((16, 16), (1, 1)), ((1, 1), (16, 16)), ((14, 14), (14, 15)), ((96, 96), (5, 3))],
)  # fmt: skip
def test_the_sizes_of_use_are_pytorchs(old, new, rng):
    table = rng.standard_normal((old[0] * old[1], 5))
    found = resample_grid(table, old, new)
    assert np.abs(found - interpolated(table, old, new)).max() <= 1e-13


@pytest.mark.peers
@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize(("old", "new"), [((14, 14), (24, 24)), ((6, 9), (4, 12))])
def test_position_embeddings_are_resampled_as_timm_does_it(prefix, old, new, rng):
    import torch
    from timm.layers import resample_abs_pos_embed

    table = rng.standard_normal((prefix + old[0] * old[1], 8))
    expected = resample_abs_pos_embed(
        torch.from_numpy(table[None]), new, old, num_prefix_tokens=prefix
    )[0].numpy()
    found = np.concatenate([table[:prefix], resample_grid(table[prefix:], old, new)])
    assert np.array_equal(found[:prefix], expected[:prefix])
    # timm does this in float32.
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


def test_the_same_grid_stays_as_it_is(rng):
    table = rng.standard_normal((12, 5)).astype(np.float32)
    assert resample_grid(table, (3, 4), (3, 4)) is table


def test_a_grid_of_other_sides_and_the_same_count_is_resampled(rng):
    table = rng.standard_normal((12, 5))
    found = resample_grid(table, (3, 4), (4, 3))
    assert found.shape == (12, 5)
    assert np.abs(found - table).max() > 0.1


@settings(max_examples=40, deadline=None)
@given(height=SIDES, width=SIDES, new_height=SIDES, new_width=SIDES)
def test_what_is_constant_stays_constant(height, width, new_height, new_width):
    table = np.full((height * width, 2), [3.5, -1e-3])
    found = resample_grid(table, (height, width), (new_height, new_width))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.full_like(found, [3.5, -1e-3]), rtol=1e-14)


@settings(max_examples=20, deadline=None)
@given(height=SIDES, width=SIDES, new_height=SIDES, new_width=SIDES, seed=st.integers(0, 99))
def test_a_mirrored_grid_is_mirrored_after(height, width, new_height, new_width, seed):
    old, new = (height, width), (new_height, new_width)
    table = np.random.default_rng(seed).standard_normal((*old, 2))
    found = resample_grid(table.reshape(-1, 2), old, new).reshape(*new, 2)
    turned = resample_grid(table[::-1, ::-1].reshape(-1, 2), old, new).reshape(*new, 2)
    np.testing.assert_allclose(turned, found[::-1, ::-1], rtol=0, atol=1e-13)


# ---------------------------------------------------------------------------- resample_offsets


def test_offsets_of_the_same_grid_stay_as_they_are(rng):
    table = rng.standard_normal((3, 12)).astype(np.float32)
    assert resample_offsets(table, (3, 4), (3, 4)) is table


@settings(max_examples=30, deadline=None)
@given(height=SIDES, width=SIDES, new_height=SIDES, new_width=SIDES)
def test_offsets_have_the_size_of_the_new_grid(height, width, new_height, new_width):
    table = np.ones((3, height * width))
    found = resample_offsets(table, (height, width), (new_height, new_width))
    assert found.shape == (3, new_height * new_width)
    np.testing.assert_allclose(found, 1.0, rtol=1e-14)


@pytest.mark.parametrize(("old", "new"), [(7, 12), (12, 7), (14, 16), (3, 2), (1, 5)])
def test_no_offset_is_the_middle_of_a_stretched_mirrored_table(old, new, rng):
    table = rng.standard_normal((2, old * old))
    grid = table.reshape(2, old, old)
    signed = np.abs(np.arange(1 - old, old))
    mirrored = grid[:, signed][:, :, signed]
    whole = np.stack(
        [
            resample_grid(one.reshape(-1, 1), (2 * old - 1,) * 2, (2 * new - 1,) * 2)[:, 0]
            for one in mirrored
        ]
    ).reshape(2, 2 * new - 1, 2 * new - 1)
    # It is its own mirror image, so that a quarter says all.
    np.testing.assert_allclose(whole, whole[:, ::-1], rtol=0, atol=1e-13)
    np.testing.assert_allclose(whole, whole[:, :, ::-1], rtol=0, atol=1e-13)
    found = resample_offsets(table, (old, old), (new, new)).reshape(2, new, new)
    np.testing.assert_allclose(found, whole[:, new - 1 :, new - 1 :], rtol=0, atol=1e-13)


def test_a_peak_at_no_offset_stays_there():
    table = np.exp(-0.3 * np.add.outer(np.arange(7) ** 2, np.arange(7) ** 2)).reshape(1, -1)
    for new in (5, 8, 12):
        found = resample_offsets(table, (7, 7), (new, new)).reshape(new, new)
        assert np.unravel_index(found.argmax(), found.shape) == (0, 0)
        np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-14)


@pytest.mark.peers
@pytest.mark.parametrize(("old", "new"), [((7, 7), (12, 12)), ((12, 12), (7, 7)), ((4, 6), (8, 8))])
def test_offsets_are_stretched_as_timm_stretches_signed_tables(old, new, rng):
    import torch

    table = rng.standard_normal((1, old[0] * old[1]))
    rows, columns = (np.abs(np.arange(1 - n, n)) for n in old)
    mirrored = table.reshape(old)[rows][:, columns]
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(mirrored[None, None]),
        size=tuple(2 * n - 1 for n in new),
        mode="bicubic",
        antialias=True,
    )[0, 0, new[0] - 1 :, new[1] - 1 :].numpy()
    found = resample_offsets(table, old, new).reshape(new)
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-13)


# ---------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(96, 96), (32, 80), (16, 16)])
def test_a_resized_model_has_the_new_shapes_and_the_old_weights(kind, size, seed):
    model = model_of(kind, seed)
    other, how = resized(model, size)
    assert other.config == replace(model.config, image_size=size)
    assert other.plan is model.plan
    positions, before = other.params.embed.positions, model.params.embed.positions
    special = 0 if kind == "convit" else model.config.special_tokens
    assert positions.shape == (special + size[0] * size[1] // 256, 48)
    assert np.array_equal(positions[:special], before[:special])
    assert other.params.embed.weight is model.params.embed.weight
    assert other.params.head is model.params.head
    for block, old in zip(other.params.blocks, model.params.blocks, strict=True):
        assert block.attn.q is old.attn.q
    for position, old in zip(
        layers_of(other.params, PositionAttention).values(),
        layers_of(model.params, PositionAttention).values(),
        strict=True,
    ):
        assert position.grid == other.config.grid
        assert position.weight is old.weight
    assert how[0] == "position embeddings: bicubic, antialiased, as timm"
    assert len(how) == 1 + (kind == "convit")
    outputs = model.family.outputs(model.config)
    values = other.with_plan(outputs=outputs).forward(NumpyOps(), inputs(other.config, seed))
    assert values["features"].shape == (2, other.config.tokens, 48)
    assert all(np.isfinite(value).all() for value in values.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_resized_to_its_own_size_is_the_same(kind, seed):
    model = model_of(kind, seed)
    other, _ = resized(model, (64, 64))
    x = inputs(model.config, seed)
    expected = model.forward(NumpyOps(), x)["logits"]
    assert np.array_equal(other.forward(NumpyOps(), x)["logits"], expected)


def test_a_convit_without_positions_is_resized_by_its_offsets_alone(seed):
    model = model_of("convit", seed, positions=False)
    other, how = resized(model, (96, 96))
    assert other.params.embed.positions is None
    assert how == ("positional projections: as they are, by offset in patches, as timm",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(60, 64), (64, 72), (8, 8), (0, 64)])
def test_a_size_that_does_not_divide_into_patches_is_refused(kind, size, seed):
    model = model_of(kind, seed)
    with pytest.raises(ConfigError, match="does not divide into patches of 16 pixels"):
        resized(model, size)


def test_a_size_of_too_many_tokens_is_refused(seed):
    with pytest.raises(ConfigError, match="over the limit"):
        resized(model_of("deit", seed), (16 * 97, 16 * 96))
    # The positional tables of a ConViT are full long before.
    with pytest.raises(ConfigError, match="positional attention tables"):
        resized(model_of("convit", seed), (16 * 90, 16 * 90))


def timm_at(model, size, state):
    """timm's network built at a size, with the weights of a model and some replaced."""
    import torch

    config = replace(model.config, image_size=size)
    network = make_network(model.family.networks["timm"](config)).double().eval()
    tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}
    network.load_state_dict(tensors)
    return network


def error_against(network, model, x):
    import torch

    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    found = model.forward(NumpyOps(), x)["logits"]
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.peers
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, (side, side)) for kind in KINDS for side in (96, 48)),
        # timm has ConViTs of square images only.
        *((kind, (32, 112)) for kind in KINDS if kind != "convit"),
    ],
)
def test_a_resized_model_is_timms_at_that_size(kind, size, seed):
    model = model_of(kind, seed)
    state = flatten(model, model.family.keymaps[0])
    special = 0 if kind == "convit" else model.config.special_tokens
    table = state["pos_embed"][0].astype(np.float64)
    grids = [tuple(side // 16 for side in s) for s in ((64, 64), size)]
    # timm resamples in float32; with PyTorch's own float64 the rest must agree to its digits.
    state["pos_embed"] = np.concatenate([table[:special], interpolated(table[special:], *grids)])[
        None
    ]
    other, _ = resized(model, size)
    assert error_against(timm_at(model, size, state), other, inputs(other.config, seed)) <= 1e-11


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["deit", "distilled", "vit"])
@pytest.mark.parametrize("size", [(96, 96), (32, 112)])
def test_a_resized_model_is_what_timm_makes_of_the_checkpoint(kind, size, seed):
    import torch
    from timm.models import deit, vision_transformer

    model = model_of(kind, seed)
    config = replace(model.config, image_size=size)
    network = make_network(model.family.networks["timm"](config)).double().eval()
    filters = {"vit": vision_transformer.checkpoint_filter_fn}
    convert = filters.get(kind, deit.checkpoint_filter_fn)
    state = flatten(model, model.family.keymaps[0])
    tensors = convert({key: torch.from_numpy(value) for key, value in state.items()}, network)
    network.load_state_dict(tensors)
    other, _ = resized(model, size)
    assert error_against(network, other, inputs(other.config, seed)) <= 1e-5


@pytest.mark.peers
@pytest.mark.parametrize("side", [96, 32])
def test_a_resized_convit_is_what_timm_makes_of_the_checkpoint(side, seed):
    import torch
    from timm.layers import resample_abs_pos_embed

    model = model_of("convit", seed)
    state = flatten(model, model.family.keymaps[0])
    state["pos_embed"] = resample_abs_pos_embed(
        torch.from_numpy(state["pos_embed"]), (side // 16,) * 2, (4, 4), num_prefix_tokens=0
    ).numpy()
    other, _ = resized(model, (side, side))
    network = timm_at(model, (side, side), state)
    assert error_against(network, other, inputs(other.config, seed)) <= 1e-5


@pytest.mark.peers
@pytest.mark.parametrize("side", [96, 32])
def test_a_resized_vit_is_transformers_with_interpolated_positions(side, seed):
    import torch

    model = model_of("vit", seed)
    other, _ = resized(model, (side, side))
    network = make_network(model.family.networks["transformers"](other.config)).double().eval()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    keymap = next(
        k for k in model.family.keymaps if k.source == "transformers" and k.matches(shapes)
    )
    state = {key: torch.from_numpy(np.asarray(v)) for key, v in flatten(other, keymap).items()}
    network.load_state_dict(state)
    x = inputs(other.config, seed)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).logits.numpy()
    found = other.forward(NumpyOps(), x)["logits"]
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()


# ---------------------------------------------------------------------------- LeViT


@pytest.mark.parametrize(
    ("name", "size"),
    [("tiny", (128, 128)), ("tiny", (64, 96)), ("conv", (128, 64)), ("silu_stride_8", (56, 40))],
)
def test_a_resized_levit_has_stretched_biases_and_the_old_weights(make_small, name, size, seed):
    model = make_small(name)
    other, how = resized(model, size)
    assert other.config == replace(model.config, image_size=size)
    assert len(how) == 1
    assert "nobody else does it" in how[0]
    pairs = zip(
        layers_of(model.params, LevitAttention).values(),
        layers_of(other.params, LevitAttention).values(),
        strict=True,
    )
    for old, new in pairs:
        expected = resample_offsets(old.bias.values, old.grid, new.grid)
        assert np.array_equal(new.bias.values, expected)
        assert new.q is old.q
    values = other.forward(NumpyOps(), inputs(other.config, seed))
    assert all(np.isfinite(value).all() for value in values.values())


@pytest.mark.peers
@pytest.mark.parametrize("size", [(128, 128), (64, 64), (64, 128)])
def test_a_resized_levit_is_timms_at_that_size_with_its_biases(make_small, size, seed):
    import torch

    other, _ = resized(make_small("tiny"), size)
    network = make_network(other.family.networks["timm"](other.config)).double().eval()
    keymap = next(k for k in other.family.keymaps if k.source == "timm" and not k.conv)
    state = {key: torch.from_numpy(np.asarray(v)) for key, v in flatten(other, keymap).items()}
    loaded = network.load_state_dict(state, strict=False)
    assert loaded.unexpected_keys == []
    assert all("num_batches" in key for key in loaded.missing_keys)
    assert error_against(network, other, inputs(other.config, seed)) <= 1e-10


def test_a_levit_resized_to_its_own_size_is_the_same(make_small, seed):
    model = make_small("wide")
    other, _ = resized(model, model.config.image_size)
    x = inputs(model.config, seed)
    expected = model.forward(NumpyOps(), x)
    found = other.forward(NumpyOps(), x)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
