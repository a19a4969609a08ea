"""Attention in integers: what its description says, its reference, and how scales are chosen."""

from dataclasses import replace

import numpy as np
import pytest

from levit.export.grids import AttentionGrids, LayerGrids, Quantization, Scheme, fit_grid
from levit.export.passes import passes_for, run_passes
from levit.export.quantization.attention import with_attention_grids
from levit.export.quantization.compiler import Quantizer
from levit.export.quantization.observe import observe
from levit.export.quantization.pictures import Pictures
from levit.export.quantization.quantize import quantize
from levit.export.quantization.reference import QuantizedOps
from levit.export.quantization.sensitivity import rank_layers, signal_to_noise
from levit.export.ranges import Taps
from levit.models.layers import DotProductAttention, layers_of
from levit.models.ops import NumpyOps, attend
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig

HEADS, KEY, VALUE = 3, 8, 12
ROWS, TOKENS = 5, 17
PATH = "stages.0.blocks.0.attn"


@pytest.fixture
def parts(rng):
    """Queries, keys, values and a table of biases, each head and channel of another size."""
    sizes = 2.0 ** rng.uniform(-2, 2, (HEADS, 1))
    q = rng.standard_normal((2, ROWS, HEADS, KEY)) * sizes
    k = rng.standard_normal((2, TOKENS, HEADS, KEY)) / sizes
    v = rng.standard_normal((2, TOKENS, HEADS, VALUE)) * 2.0 ** rng.uniform(-3, 3, (HEADS, VALUE))
    k = k + rng.standard_normal((HEADS, KEY))
    v = v + rng.standard_normal((HEADS, VALUE))
    return q, k, v, rng.standard_normal((HEADS, ROWS, TOKENS))


def grids_for(q, k, v, reach=1.0):
    def scales(x, axes):
        return (reach * np.abs(x).max(axis=axes) / 127).astype(np.float32)

    def middles(x):
        return ((x.min(axis=(0, 1)) + x.max(axis=(0, 1))) / 2).astype(np.float32)

    return AttentionGrids(
        queries=scales(q, (0, 1, 3)),
        keys=scales(k - middles(k), (0, 1, 3)),
        values=scales(v - middles(v), (0, 1)).ravel(),
        key_offset=middles(k).ravel(),
        value_offset=middles(v).ravel(),
    )


def of_attention(grids, dtype=np.float64):
    return QuantizedOps(Quantization(scheme=Scheme(), layers={}, attentions={PATH: grids}), dtype)


def whole(x, scale):
    return np.clip(np.rint(x / scale), -128, 127).astype(int)


def by_hand(q, k, v, table, scale, grids):
    """One image, head and query after the other, in Python's integers and float32."""
    found = np.empty((*q.shape[:3], v.shape[-1]), np.float32)
    single = np.float32
    steps, offset = (part.reshape(v.shape[2:]) for part in (grids.values, grids.value_offset))
    k = k - grids.key_offset.reshape(k.shape[2:])
    v = v - offset
    for b, i, h in np.ndindex(found.shape[:3]):
        factor = single(float(grids.queries[h]) * float(grids.keys[h]) * scale * np.log2(np.e))
        scores = []
        for j in range(k.shape[1]):
            pairs = zip(
                whole(q[b, i, h], grids.queries[h]), whole(k[b, j, h], grids.keys[h]), strict=True
            )
            entry = single(table[h, i, j] * np.log2(np.e))
            scores.append(single(sum(int(x) * int(y) for x, y in pairs)) * factor + entry)
        p = [int(np.rint(single(255) * single(2.0 ** float(s - max(scores))))) for s in scores]
        for n in range(v.shape[-1]):
            total = sum(x * int(whole(v[b, j, h, n], steps[h, n])) for j, x in enumerate(p))
            mean = single(total) * (single(1) / single(sum(p))) * steps[h, n]
            found[b, i, h, n] = mean + offset[h, n]
    return found


@pytest.mark.parametrize("scale", [None, 0.35])
@pytest.mark.parametrize("with_table", [True, False])
def test_the_reference_is_the_formula_in_integers(parts, scale, with_table):
    q, k, v, table = parts
    grids = grids_for(q, k, v, 0.9)  # a few values are cut off
    ops = of_attention(grids)
    with ops.scope(PATH):
        found = ops.attend(q, k, v, scale=scale, bias=(lambda _: table) if with_table else None)
    expected = by_hand(
        q, k, v, table if with_table else table * 0, 1 if scale is None else scale, grids
    )
    np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_integers_are_near_what_they_stand_for(parts):
    q, k, v, table = parts
    exact = attend(NumpyOps(), q, k, v, bias=lambda _: table)
    ops = of_attention(grids_for(q, k, v))
    with ops.scope(PATH):
        found = ops.attend(q, k, v, bias=lambda _: table)
    error = np.abs(found - exact).max(axis=(0, 1)) / np.abs(v).max(axis=(0, 1))
    assert error.max() < 0.05


def test_values_that_are_all_the_same_stay(parts):
    """The mean of the same is the same: rounded probabilities are divided by their own sum."""
    q, k, v, table = parts
    v = np.broadcast_to(v[:1, :1], v.shape)
    grids = grids_for(q, k, v)
    ops = of_attention(grids)
    with ops.scope(PATH):
        found = ops.attend(q, k, v, bias=lambda _: table)
    np.testing.assert_allclose(found, np.broadcast_to(v[:, :1], found.shape), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_result_has_the_type_of_the_rest(parts, dtype):
    q, k, v, _ = (part.astype(dtype) for part in parts)
    ops = of_attention(grids_for(q, k, v), dtype)
    with ops.scope(PATH):
        assert ops.attend(q, k, v).dtype == dtype


def test_other_attentions_stay_in_floating_point(parts):
    q, k, v, table = parts
    ops = of_attention(grids_for(q, k, v))
    with ops.scope("stages.0.blocks.1.attn"):
        found = ops.attend(q, k, v, bias=lambda _: table)
    np.testing.assert_array_equal(found, attend(NumpyOps(), q, k, v, bias=lambda _: table))


def test_a_softmax_by_itself_is_refused_where_integers_are_described(parts):
    q, k, v, _ = parts
    ops = of_attention(grids_for(q, k, v))
    with ops.scope(PATH), pytest.raises(ValueError, match=r"blocks\.0\.attn: .* channels first"):
        ops.softmax(np.zeros((2, 3)))


def test_factors_and_tables_are_to_base_two():
    one = np.ones(HEADS, np.float32)
    grids = AttentionGrids(
        queries=one / 4, keys=one * 3, values=one, key_offset=one, value_offset=one
    )
    for scale, expected in ((None, 0.75), (0.5, 0.375)):
        factors = grids.factors(scale)
        assert factors.dtype == np.float32
        np.testing.assert_array_equal(factors, np.float32(expected * np.log2(np.e)))
    assert grids.table(np.log(2.0) * np.arange(4)).tolist() == [0, 1, 2, 3]


def test_attentions_are_taken_apart_like_layers(parts):
    q, k, v, _ = parts
    layer = LayerGrids(input=fit_grid(0, 1, Scheme()), weight_scale=np.ones(2, np.float32))
    attention = grids_for(q, k, v)
    both = Quantization(
        scheme=Scheme(), layers={"a.q": layer, "b": layer}, attentions={"a": attention}
    )
    assert both.names == ("a.q", "b", "a")
    assert both.without(["a"]).names == ("a.q", "b")
    assert both.without(["b", "a.q"]).names == ("a",)
    assert both.only(["a", "b"]).names == ("b", "a")
    assert both.to_dict()["attentions"] == ["a"]
    assert "attentions" not in replace(both, attentions={}).to_dict()


# ---------------------------------------------------------------------------- models


def folded(model):
    return run_passes(model, passes_for("int8"))[-1].model.with_plan(channels_first=False)


def inputs(model, count, seed):
    config = model.config
    rng = np.random.default_rng(seed)
    return standardized(smooth_pictures(rng, count, config.image_size, config.in_channels))


@pytest.fixture(scope="module", params=["levit", "deit"])
def quantized(request, make_small, seed):
    """(folded model, the same on grids, its description, observations), attention included."""
    if request.param == "levit":
        model = folded(make_small("tiny"))
    else:
        model = folded(random_model(FAMILIES["deit"], TransformerConfig(**SMALL), seed))
    x = inputs(model, 16, 1)
    taps = Taps(model, of_layers=True)
    observed = observe(taps, (x[i : i + 1] for i in range(len(x))), len(x))
    rounded, description = quantize(model, observed, Scheme(), compensate=False)
    return model, rounded, with_attention_grids(description, model, observed), x


SMALL = {"image_size": (64, 64), "patch_size": 16, "num_classes": 10, "width": 48} | {
    "depth": 3,
    "heads": 3,
    "mlp_width": 96,
}


def test_every_attention_has_grids_of_its_shapes(quantized):
    model, _, description, _ = quantized
    found = layers_of(model.params, DotProductAttention)
    assert list(description.attentions) == list(found)
    for path, attention in found.items():
        grids = description.attentions[path]
        assert grids.queries.shape == grids.keys.shape == (attention.heads,)
        assert grids.key_offset.shape == (len(attention.k.weight),)
        assert grids.values.shape == grids.value_offset.shape == (len(attention.v.weight),)
        for scales in (grids.queries, grids.keys, grids.values):
            assert scales.dtype == np.float32
            assert (scales > 0).all()


def test_grids_reach_beyond_what_the_calibration_has(quantized):
    _, rounded, description, x = quantized
    seen = Recording(description)
    rounded.forward(seen, x)
    assert list(seen.reached) == list(description.attentions)
    for parts in seen.reached.values():
        for part, share in parts.items():
            assert 0.2 < share < 1, part


class Recording(QuantizedOps):
    """Notes how far queries, keys and values come, of what their grids hold."""

    def __init__(self, description):
        super().__init__(description)
        self.reached = {}

    def attend(self, q, k, v, **options):
        grids = self._attentions[self.path]
        given = super().attend(q, k, v, **options)
        k = k - grids.key_offset.reshape(k.shape[2:])
        v = v - grids.value_offset.reshape(v.shape[2:])
        self.reached[self.path] = {
            "q": (np.abs(q).max(axis=(0, 1, 3)) / grids.queries).max() / 127,
            "k": (np.abs(k).max(axis=(0, 1, 3)) / grids.keys).max() / 127,
            "v": (np.abs(v).max(axis=(0, 1)).ravel() / grids.values).max() / 127,
        }
        return given


def test_attention_in_integers_costs_little(quantized):
    model, rounded, description, _ = quantized
    x = inputs(model, 8, 2)
    exact = model.forward(NumpyOps(), x)["logits"]
    floats = replace(description, attentions={})
    before, after = (
        signal_to_noise(exact, rounded.forward(QuantizedOps(d), x)["logits"])
        for d in (floats, description)
    )
    assert after != before
    assert after > before - 3
    alone = replace(description, layers={})
    assert signal_to_noise(exact, model.forward(QuantizedOps(alone), x)["logits"]) > 20


def test_attentions_are_ranked_with_the_layers(quantized):
    model, rounded, description, x = quantized
    worst = list(description.attentions)[1]
    grids = description.attentions[worst]
    spoilt = replace(grids, values=np.float32(30) * grids.values)
    description = replace(description, attentions={**description.attentions, worst: spoilt})
    ranked = rank_layers(model, rounded, description, x[:4])
    assert {name for name, _ in ranked} == set(description.names)
    assert ranked[0][0] == worst


def test_gated_attention_stays_in_floating_point(seed):
    config = TransformerConfig(**SMALL, local_depth=2)
    model = folded(random_model(FAMILIES["convit"], config, seed))
    x = inputs(model, 8, 1)
    taps = Taps(model, of_layers=True)
    observed = observe(taps, (x[i : i + 1] for i in range(len(x))), len(x))
    nothing = Quantization(scheme=Scheme(), layers={})
    assert list(with_attention_grids(nothing, model, observed).attentions) == ["blocks.2.attn"]


def test_attempts_take_attentions_for_layers(make_small):
    model = folded(make_small("tiny"))
    quantizer = Quantizer(Pictures(origin="photos", items=inputs(model, 10, 8)))
    plain = next(iter(quantizer.attempts(model, Scheme())))
    assert plain.quantization.attentions == {}
    assert {"stem.0", "head"}.isdisjoint(plain.quantization.names)
    attempts = list(quantizer.attempts(model, Scheme(), integer_attention=True, keep_first=False))
    first, last = attempts[0].quantization, attempts[-1]
    paths = set(layers_of(model.params, DotProductAttention))
    assert set(first.layers) == set(plain.quantization.layers)
    assert set(first.attentions) == paths
    assert set(last.quantization.names) == set(first.names) - set(last.kept)
    assert not paths.isdisjoint(last.kept)
