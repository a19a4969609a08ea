import itertools
from dataclasses import replace

import numpy as np
import pytest

from levit.errors import VerificationError
from levit.export.passes import (
    EXACT,
    PASSES,
    drop_key_bias,
    fold_batchnorm,
    fold_input_normalization,
    fold_query_scale,
    fold_relative_bias,
    merge_heads,
    pool_before_last_linear,
    prove,
    run_passes,
)
from levit.models.layers import Affine, BatchNorm, Mlp, RelativeBias, layers_of, transform
from levit.models.levit.layers import Attention, LevitBlock
from levit.models.ops import NumpyOps

STATISTICS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def every_output(model):
    return model.with_plan(outputs=model.family.outputs(model.config))


def merged_outputs(model):
    """Those that keep no pass from firing."""
    possible = model.family.outputs(model.config)
    return model.with_plan(outputs=tuple(n for n in ("logits", "embedding") if n in possible))


def statistics_of(model):
    channels = model.config.in_channels
    return tuple((values * 2)[:channels] for values in STATISTICS)


def folded(model):
    return fold_batchnorm(model)[0]


def inputs_of(model, draw):
    pixels, tensors = draw(model.config)
    return tensors.astype(np.float64) if model.plan.pixels is None else pixels


def relative_difference(model, other, x):
    before, after = model.forward(NumpyOps(), x), other.forward(NumpyOps(), x)
    assert list(before) == list(after)
    worst = 0.0
    for name, expected in before.items():
        assert after[name].shape == expected.shape
        assert np.ptp(expected, axis=0).max() > 0.05 * np.abs(expected).max(), "a deaf network"
        worst = max(worst, np.abs(after[name] - expected).max() / np.abs(expected).max())
    return worst


def leaves(tree):
    """(path, value) of everything in a tree of dataclasses and tuples that is not one."""
    if isinstance(tree, tuple):
        return [(f"[{i}]{p}", v) for i, item in enumerate(tree) for p, v in leaves(item)]
    if hasattr(tree, "__dataclass_fields__"):
        return [
            (f".{name}{p}", v)
            for name in tree.__dataclass_fields__
            for p, v in leaves(getattr(tree, name))
        ]
    return [("", tree)]


def same_tree(one, other, tolerance=0.0):
    ours, theirs = leaves(one), leaves(other)
    if [path for path, _ in ours] != [path for path, _ in theirs]:
        return False
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        if isinstance(a, np.ndarray) != isinstance(b, np.ndarray):
            return False
        if isinstance(a, np.ndarray):
            if a.shape != b.shape or np.abs(a - b).max() > tolerance * np.abs(a).max():
                return False
        elif a != b:
            return False
    return True


@pytest.fixture(params=["tokens", "channels_first"])
def dataflow(request):
    return request.param == "channels_first"


# ---------------------------------------------------------------------------- numbers, all passes


def assert_exact(function, before, draw, dataflow):
    before = before.with_plan(channels_first=dataflow)
    after, count = function(before)
    assert relative_difference(before, after, inputs_of(before, draw)) <= EXACT
    return count


def test_fold_batchnorm_is_exact(small, draw, dataflow):
    assert assert_exact(fold_batchnorm, every_output(small), draw, dataflow)


def test_fold_query_scale_is_exact(small, draw, dataflow):
    assert assert_exact(fold_query_scale, folded(every_output(small)), draw, dataflow)


def test_drop_key_bias_is_exact(small, draw, dataflow):
    assert assert_exact(drop_key_bias, folded(every_output(small)), draw, dataflow)


def test_fold_relative_bias_is_exact(small, draw, dataflow):
    assert assert_exact(fold_relative_bias, every_output(small), draw, dataflow)


@pytest.mark.parametrize(
    "name", ["tiny", "wide", "one_stage", "silu_stride_8", "conv", "one_channel", "five_channels"]
)
def test_merge_heads_is_exact(name, make_small, draw, dataflow):
    before = folded(merged_outputs(make_small(name)))
    assert assert_exact(merge_heads, before, draw, dataflow) == 1


def test_pool_before_last_linear_is_exact(small, draw, dataflow):
    assert assert_exact(pool_before_last_linear, folded(merged_outputs(small)), draw, dataflow) == 1


def test_fold_input_normalization_is_exact(small, draw, dataflow):
    before = folded(every_output(small)).with_plan(pixels=statistics_of(small))
    assert assert_exact(fold_input_normalization, before, draw, dataflow) == 1


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
@pytest.mark.parametrize("outputs", [every_output, merged_outputs])
def test_all_passes_in_a_row_are_exact(small, draw, dataflow, outputs, pixels):
    model = outputs(small).with_plan(channels_first=dataflow)
    if pixels:
        model = model.with_plan(pixels=statistics_of(small))
    deployed = run_passes(model)[-1].model
    assert relative_difference(model, deployed, inputs_of(model, draw)) <= EXACT


def test_uint8_pixels_are_the_normalised_tensor_up_to_the_border(small, draw):
    pixels, _ = draw(small.config)
    mean, std = (np.reshape(v, (-1, 1, 1)) for v in statistics_of(small))
    tensors = (np.moveaxis(pixels, -1, 1) / 255.0 - mean) / std
    plain = every_output(small)
    expected = plain.forward(NumpyOps(), tensors)
    deployed = run_passes(plain.with_plan(pixels=statistics_of(small)))[-1].model
    assert deployed.plan.pixels_folded
    found = deployed.forward(NumpyOps(), pixels)
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= EXACT * np.abs(value).max(), name


def test_folding_the_mean_into_a_bias_would_be_wrong_at_the_border(make_small, draw):
    # Why fold_input_normalization leaves the subtraction: the test above sees the difference.
    model = folded(make_small("tiny"))
    pixels, _ = draw(model.config)
    mean, std = map(np.array, STATISTICS)
    tensors = (np.moveaxis(pixels, -1, 1) / 255.0 - mean[:, None, None]) / std[:, None, None]
    expected = model.forward(NumpyOps(), tensors)["logits"]
    first = model.params.stem[0]
    weight = first.weight / (255 * std)[:, None, None]
    bias = first.bias - (first.weight * (mean / std)[:, None, None]).sum((1, 2, 3))
    naive = replace(
        model,
        params=replace(
            model.params,
            stem=(replace(first, weight=weight, bias=bias), *model.params.stem[1:]),
        ),
    )
    found = naive.forward(NumpyOps(), np.moveaxis(pixels, -1, 1).astype(np.float64))["logits"]
    assert np.abs(found - expected).max() > 1e-4 * np.abs(expected).max()


# ---------------------------------------------------------------------------- fold_batchnorm


def linears_in(config):
    """q, k, v, proj, up, down of each block."""
    return 6 * sum(stage.depth + (stage.downsample is not None) for stage in config.stages)


def heads_in(config):
    return (1 + config.distilled) if config.num_classes else 0


def test_fold_batchnorm_fires_once_per_norm(small):
    config = small.config
    _, count = fold_batchnorm(small)
    assert count == len(config.stem_widths) + linears_in(config) + heads_in(config)
    assert count == len(layers_of(small.params, BatchNorm))


def test_fold_batchnorm_leaves_no_norm_and_a_bias_everywhere(small):
    after, _ = fold_batchnorm(small)
    assert layers_of(after.params, BatchNorm) == {}
    layers = layers_of(after.params, Affine)
    assert list(layers) == list(layers_of(small.params, Affine))
    assert all(layer.bias is not None for layer in layers.values())
    assert all(layer.weight.dtype == layer.bias.dtype == np.float64 for layer in layers.values())
    assert after.plan == small.plan
    assert after.config is small.config


def test_fold_batchnorm_leaves_the_model_that_it_was_given_alone(make_small):
    model = make_small("tiny")
    copies = [(p, v.copy() if isinstance(v, np.ndarray) else v) for p, v in leaves(model.params)]
    run_passes(model)
    for (path, before), (_, after) in zip(copies, leaves(model.params), strict=True):
        assert np.array_equal(before, after), path


def test_fold_batchnorm_does_not_fire_without_norms(small):
    after, _ = fold_batchnorm(small)
    again, count = fold_batchnorm(after)
    assert count == 0
    assert again is after


# ---------------------------------------------------------------------------- fold_query_scale


def test_fold_query_scale_fires_once_per_attention(small):
    _, count = fold_query_scale(folded(small))
    assert count == linears_in(small.config) // 6 == len(layers_of(small.params, Attention))


def test_fold_query_scale_leaves_no_scale_and_only_touches_queries(small):
    before = folded(small)
    after, _ = fold_query_scale(before)
    pairs = zip(*(layers_of(m.params, Attention).values() for m in (before, after)), strict=True)
    for old, new in pairs:
        assert new.scale is None
        np.testing.assert_allclose(new.q.weight, old.q.weight * old.scale, rtol=1e-15)
        np.testing.assert_allclose(new.q.bias, old.q.bias * old.scale, rtol=1e-15)
        assert new.k is old.k
        assert new.v is old.v
        assert new.proj is old.proj


def test_fold_query_scale_does_not_fire_behind_a_norm(small):
    after, count = fold_query_scale(small)
    assert count == 0
    assert after is small


# ---------------------------------------------------------------------------- drop_key_bias


def test_drop_key_bias_fires_once_per_attention(small):
    _, count = drop_key_bias(folded(small))
    assert count == len(layers_of(small.params, Attention))


def test_drop_key_bias_drops_the_keys_bias_and_no_other(small):
    before = folded(small)
    after, _ = drop_key_bias(before)
    pairs = zip(*(layers_of(m.params, Attention).values() for m in (before, after)), strict=True)
    for old, new in pairs:
        assert new.k.bias is None
        assert new.k.weight is old.k.weight
        assert np.abs(old.k.bias).max() > 0.01, "nothing was dropped"
        assert new.q is old.q
        assert new.v is old.v


def test_drop_key_bias_does_not_fire_behind_a_norm_or_without_bias(small):
    after, count = drop_key_bias(small)
    assert count == 0
    assert after is small


def test_dropping_the_values_bias_would_not_be_exact(make_small, draw):
    model = folded(make_small("tiny"))
    params, count = transform(
        model.params, Attention, lambda _, a: replace(a, v=replace(a.v, bias=None))
    )
    assert count
    x = inputs_of(model, draw)
    assert relative_difference(model, replace(model, params=params), x) > 1e-6


# ---------------------------------------------------------------------------- fold_relative_bias


def test_fold_relative_bias_fires_once_per_attention(small):
    _, count = fold_relative_bias(small)
    assert count == len(layers_of(small.params, Attention))


def test_fold_relative_bias_makes_static_tables_by_distance(small):
    after, _ = fold_relative_bias(small)
    pairs = zip(*(layers_of(m.params, Attention).values() for m in (small, after)), strict=True)
    for old, new in pairs:
        height, width = old.grid
        queries = [
            (row, column)
            for row in range(0, height, old.stride)
            for column in range(0, width, old.stride)
        ]
        keys = list(itertools.product(range(height), range(width)))
        assert new.bias.index is None
        assert new.bias.values.shape == (old.heads, len(queries), len(keys))
        for q, (row, column) in enumerate(queries):
            for k, (key_row, key_column) in enumerate(keys):
                place = abs(row - key_row) * width + abs(column - key_column)
                assert np.array_equal(new.bias.values[:, q, k], old.bias.values[:, place])


def test_fold_relative_bias_does_not_fire_on_static_tables(small):
    after, _ = fold_relative_bias(small)
    again, count = fold_relative_bias(after)
    assert count == 0
    assert again is after
    assert all(bias.index is None for bias in layers_of(again.params, RelativeBias).values())


# ---------------------------------------------------------------------------- merge_heads


def test_merge_heads_fires_once_where_there_are_two_heads(small):
    expected = int(bool(small.config.num_classes) and small.config.distilled)
    assert merge_heads(folded(merged_outputs(small)))[1] == expected


def test_merge_heads_leaves_one_head_with_the_mean(make_small):
    before = folded(make_small("tiny"))
    after, _ = merge_heads(before)
    head, dist = before.params.head, before.params.head_dist
    assert after.params.head_dist is None
    np.testing.assert_allclose(
        after.params.head.weight, (head.weight + dist.weight) / 2, rtol=0, atol=1e-15
    )
    np.testing.assert_allclose(
        after.params.head.bias, (head.bias + dist.bias) / 2, rtol=0, atol=1e-15
    )
    assert after.params.stages is before.params.stages


@pytest.mark.parametrize(
    "outputs",
    [
        ("logits", "logits_head"),
        ("logits", "logits_dist"),
        ("logits_head",),
        ("logits_dist",),
        ("embedding", "logits_dist", "logits"),
    ],
)
def test_merge_heads_does_not_fire_where_a_head_is_an_output(make_small, outputs):
    before = folded(make_small("tiny").with_plan(outputs=outputs))
    after, count = merge_heads(before)
    assert count == 0
    assert after is before


@pytest.mark.parametrize("name", ["plain", "headless"])
def test_merge_heads_does_not_fire_on_fewer_than_two_heads(make_small, name):
    before = folded(make_small(name))
    after, count = merge_heads(before)
    assert count == 0
    assert after is before


def test_merge_heads_does_not_fire_behind_norms(make_small):
    before = make_small("tiny")
    after, count = merge_heads(before)
    assert count == 0
    assert after is before


def test_merging_heads_before_their_norms_are_folded_would_not_be_exact(make_small, draw):
    # Each head has a norm of its own: what merge_heads waits for.
    model = make_small("tiny")
    head, dist = model.params.head, model.params.head_dist
    merged = replace(head, weight=(head.weight + dist.weight) / 2, bias=(head.bias + dist.bias) / 2)
    wrong = replace(model, params=replace(model.params, head=merged, head_dist=None))
    assert relative_difference(model, wrong, inputs_of(model, draw)) > 1e-6


# ---------------------------------------------------------------------------- pooling


def test_pool_before_last_linear_fires_once(small):
    assert pool_before_last_linear(folded(merged_outputs(small)))[1] == 1


def test_pool_before_last_linear_changes_the_plan_alone(small):
    before = folded(merged_outputs(small))
    after, _ = pool_before_last_linear(before)
    assert after.params is before.params
    assert after.plan == replace(before.plan, pool_early=True)


def test_pool_before_last_linear_runs_the_last_product_on_one_token(make_small, dataflow):
    class Recording(NumpyOps):
        def __init__(self):
            super().__init__()
            self.rows = {}

        def linear(self, x, weight, bias):
            self.rows[self.path] = x.size // x.shape[-1]
            return super().linear(x, weight, bias)

        def conv(self, x, weight, bias, stride, padding):
            self.rows[self.path] = x.size // x.shape[1]
            return super().conv(x, weight, bias, stride, padding)

    before = folded(make_small("tiny")).with_plan(channels_first=dataflow)
    after, _ = pool_before_last_linear(before)
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 96))
    rows = []
    for model in (before, after):
        ops = Recording()
        model.forward(ops, x)
        rows.append(ops.rows)
    last = "stages.2.blocks.0.mlp.down"
    assert rows[0][last] == 4
    assert rows[1][last] == 1
    assert {k: v for k, v in rows[0].items() if k != last} == {
        k: v for k, v in rows[1].items() if k != last
    }


@pytest.mark.parametrize("outputs", [("features",), ("logits", "features"), ("features", "logits")])
def test_pool_before_last_linear_does_not_fire_where_tokens_are_an_output(make_small, outputs):
    before = folded(make_small("tiny").with_plan(outputs=outputs))
    after, count = pool_before_last_linear(before)
    assert count == 0
    assert after is before


def test_pool_before_last_linear_does_not_fire_behind_a_norm(small):
    after, count = pool_before_last_linear(merged_outputs(small))
    assert count == 0
    assert not after.plan.pool_early


# ---------------------------------------------------------------------------- input normalisation


def test_fold_input_normalization_fires_once_on_pixels(small):
    model = folded(small).with_plan(pixels=statistics_of(small))
    assert fold_input_normalization(model)[1] == 1


def test_fold_input_normalization_scales_the_first_convolution_alone(small):
    before = folded(small).with_plan(pixels=statistics_of(small))
    after, _ = fold_input_normalization(before)
    std = np.array(statistics_of(small)[1])
    old, new = before.params.stem[0], after.params.stem[0]
    np.testing.assert_allclose(
        new.weight * (255 * std)[:, None, None], old.weight, rtol=1e-14, atol=0
    )
    assert new.bias is old.bias
    assert after.params.stem[1:] == before.params.stem[1:]
    assert after.params.stages is before.params.stages
    assert after.plan == replace(before.plan, pixels_folded=True)


def test_fold_input_normalization_does_not_fire_on_float32_input(small):
    before = folded(small)
    after, count = fold_input_normalization(before)
    assert count == 0
    assert after is before


def test_fold_input_normalization_does_not_fire_behind_a_norm(small):
    before = small.with_plan(pixels=statistics_of(small))
    after, count = fold_input_normalization(before)
    assert count == 0
    assert after is before


# ---------------------------------------------------------------------------- the row of passes


def test_the_passes_run_in_their_documented_order():
    assert [function.__name__ for function in PASSES] == [
        "fold_batchnorm",
        "fold_layer_scale",
        "fold_layernorm_affine",
        "fold_query_scale",
        "drop_key_bias",
        "fold_value_bias",
        "fold_relative_bias",
        "merge_heads",
        "pool_before_last_linear",
        "average_before_last_linear",
        "keep_only_read_tokens",
        "fold_position_attention",
        "fold_gate",
        "fold_tokens_and_positions",
        "fold_input_normalization",
    ]


@pytest.mark.parametrize("function", PASSES, ids=lambda f: f.__name__)
def test_a_pass_that_has_run_finds_nothing_more_to_do(function, make_small):
    model = make_small("tiny").with_plan(pixels=STATISTICS)
    applied = run_passes(model)
    assert all(entry.count > 0 for entry in applied)
    deployed = applied[-1].model
    again, count = function(deployed)
    assert count == 0
    assert again is deployed


def test_counts_of_the_whole_row(make_small):
    model = make_small("tiny").with_plan(pixels=STATISTICS)
    counts = {entry.name: entry.count for entry in run_passes(model)}
    assert counts == {
        "fold_batchnorm": 4 + 6 * 6 + 2,
        "fold_query_scale": 6,
        "drop_key_bias": 6,
        "fold_relative_bias": 6,
        "merge_heads": 1,
        "pool_before_last_linear": 1,
        "fold_input_normalization": 1,
    }
    blocks = layers_of(model.params, LevitBlock)
    assert len(blocks) == len(layers_of(model.params, Mlp)) == 6


def test_after_fold_batchnorm_the_order_does_not_matter(make_small, rng):
    model = make_small("tiny").with_plan(pixels=STATISTICS)
    expected = run_passes(model)
    counts = {entry.name: entry.count for entry in expected}
    for _ in range(12):
        order = [PASSES[0], *(PASSES[1:][i] for i in rng.permutation(len(PASSES) - 1))]
        found = run_passes(model, order)
        assert {entry.name: entry.count for entry in found} == counts
        assert found[-1].model.plan == expected[-1].model.plan
        assert same_tree(found[-1].model.params, expected[-1].model.params, 1e-15)


def test_what_fold_batchnorm_makes_possible_does_not_fire_before_it(make_small):
    model = make_small("tiny").with_plan(pixels=STATISTICS)
    found = run_passes(model, [*PASSES[1:], PASSES[0]])
    assert {entry.name for entry in found if entry.count} == {
        "fold_relative_bias",
        "fold_batchnorm",
    }


# ---------------------------------------------------------------------------- prove


def perturbed(model, path, amount):
    """`model` with the array at `path` scaled by 1 + amount."""

    def change(tree, steps):
        if not steps:
            return tree.astype(np.float64) * (1 + amount)
        step, *rest = steps
        if isinstance(tree, tuple):
            return tuple(change(v, rest) if i == step else v for i, v in enumerate(tree))
        return replace(tree, **{step: change(getattr(tree, step), rest)})

    return replace(model, params=change(model.params, path))


PLACES = [
    ("stem", 0, "weight"),
    ("stem", 3, "bias"),
    ("stages", 1, "downsample", "attn", "q", "weight"),
    ("stages", 2, "downsample", "attn", "bias", "values"),
    ("stages", 1, "downsample", "attn", "v", "bias"),
    ("stages", 2, "blocks", 0, "mlp", "down", "weight"),
    ("head", "weight"),
]


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_prove_fails_on_a_perturbation_of_a_billionth(make_small, draw, path):
    model = make_small("tiny")
    x = inputs_of(model, draw)
    reference = model.forward(NumpyOps(), x)
    deployed = run_passes(model)[-1].model
    assert prove("folding", reference, deployed, x) <= EXACT
    with pytest.raises(VerificationError, match=r"folding changed the outputs by \d\.\de-"):
        prove("folding", reference, perturbed(deployed, path, 1e-9), x)


def test_prove_sees_a_difference_in_any_output(make_small, draw):
    model = folded(every_output(make_small("tiny")))
    x = inputs_of(model, draw)
    reference = model.forward(NumpyOps(), x)
    for name in reference:
        changed = {**reference, name: reference[name] * (1 + 1e-9)}
        with pytest.raises(VerificationError):
            prove("a pass", changed, model, x)


def test_prove_fails_on_nan(make_small, draw):
    model = folded(make_small("tiny"))
    x = inputs_of(model, draw)
    reference = model.forward(NumpyOps(), x)
    broken = perturbed(model, ("head", "weight"), np.nan)
    with pytest.raises(VerificationError):
        prove("a pass", reference, broken, x)


def test_prove_fails_on_a_missing_output_or_another_shape(make_small, draw):
    model = make_small("tiny")
    x = inputs_of(model, draw)
    reference = model.forward(NumpyOps(), x)
    with pytest.raises(VerificationError, match="'features'"):
        prove("a pass", {**reference, "features": np.zeros((2, 4, 64))}, model, x)
    with pytest.raises(VerificationError, match="'logits'"):
        prove("a pass", {"logits": reference["logits"][:1]}, model, x)


def test_prove_returns_the_largest_relative_difference(make_small, draw):
    model = make_small("tiny")
    x = inputs_of(model, draw)
    reference = model.forward(NumpyOps(), x)
    assert prove("nothing", reference, model, x) == 0.0
    found = prove("a pass", {"logits": reference["logits"] * (1 + 4e-13)}, model, x)
    assert found == pytest.approx(4e-13, rel=0.01)
