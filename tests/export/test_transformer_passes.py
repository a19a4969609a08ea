"""The passes of DeiT, ConViT and ViT: how often they fire, what they leave, and the numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest
from transformer_kinds import KINDS, SIZES

from levit.export.passes import (
    EXACT,
    PASSES,
    average_before_last_linear,
    drop_key_bias,
    fold_batchnorm,
    fold_gate,
    fold_input_normalization,
    fold_layer_scale,
    fold_layernorm_affine,
    fold_position_attention,
    fold_query_scale,
    fold_relative_bias,
    fold_tokens_and_positions,
    fold_value_bias,
    keep_only_read_tokens,
    merge_heads,
    pool_before_last_linear,
    prove,
    run_passes,
)
from levit.models.layers import BatchNorm, LayerNorm, Linear, layers_of, transform
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.layers import (
    Attention,
    Embedding,
    GatedAttention,
    Head,
    LayerScale,
    PositionAttention,
    TransformerBlock,
)

STATISTICS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
# Passes that are for vision transformers of one width alone.
NEW = (
    fold_layer_scale,
    fold_layernorm_affine,
    fold_value_bias,
    average_before_last_linear,
    keep_only_read_tokens,
    fold_position_attention,
    fold_gate,
    fold_tokens_and_positions,
)


@pytest.fixture(scope="module")
def make(seed):
    """(kind) → a small model as trained, with weights that this run has drawn."""
    models = {}

    def build(kind):
        if kind not in models:
            family, own = KINDS[kind]
            config = TransformerConfig(**{**SIZES, **own})
            models[kind] = random_model(FAMILIES[family], config, seed)
        return models[kind]

    return build


@pytest.fixture(params=KINDS)
def small(request, make):
    """Each small model in turn."""
    return make(request.param)


def every_output(model):
    return model.with_plan(outputs=model.family.outputs(model.config))


def default_output(model):
    return model.with_plan(outputs=model.family.outputs(model.config)[:1])


def statistics_of(model):
    return tuple((values * 2)[: model.config.in_channels] for values in STATISTICS)


def on_pixels(model):
    return model.with_plan(pixels=statistics_of(model))


def inputs_of(model, seed):
    rng = np.random.default_rng(seed)
    pixels = smooth_pictures(rng, 2, model.config.image_size, model.config.in_channels)
    return pixels if model.plan.pixels is not None else standardized(pixels).astype(np.float64)


def relative_difference(model, other, seed):
    x = inputs_of(model, seed)
    before, after = model.forward(NumpyOps(), x), other.forward(NumpyOps(), x)
    assert list(before) == list(after)
    worst = 0.0
    for name, expected in before.items():
        assert after[name].shape == expected.shape
        assert np.ptp(expected, axis=0).max() > 0.02 * np.abs(expected).max(), "a deaf network"
        worst = max(worst, np.abs(after[name] - expected).max() / np.abs(expected).max())
    return worst


def assert_exact(function, before, seed):
    after, count = function(before)
    assert count
    assert relative_difference(before, after, seed) <= EXACT
    return after


def assert_idle(function, before):
    after, count = function(before)
    assert count == 0
    assert after is before


def assert_once(function, before):
    """It fires, and finds nothing more to do after."""
    after, count = function(before)
    assert count
    assert_idle(function, after)


def attentions(model):
    return list(layers_of(model.params, Attention).values())


# ---------------------------------------------------------------------------- fold_layer_scale

SCALED = [kind for kind, (_, own) in KINDS.items() if own.get("layer_scale")]


@pytest.mark.parametrize("kind", SCALED)
def test_fold_layer_scale_fires_once_per_block_and_is_exact(make, kind, seed):
    before = every_output(make(kind))
    assert fold_layer_scale(before)[1] == 3
    assert_exact(fold_layer_scale, before, seed)
    assert_once(fold_layer_scale, before)


@pytest.mark.parametrize("kind", SCALED)
def test_fold_layer_scale_scales_rows_and_biases_of_two_linears_alone(make, kind):
    before = make(kind)
    after, _ = fold_layer_scale(before)
    assert layers_of(after.params, LayerScale) == {}
    for old, new in zip(before.params.blocks, after.params.blocks, strict=True):
        pairs = (
            (old.attn.proj, new.attn.proj, old.scale1.gamma),
            (old.mlp.down, new.mlp.down, old.scale2.gamma),
        )
        for was, linear, gamma in pairs:
            np.testing.assert_allclose(linear.weight, was.weight * gamma[:, None], rtol=1e-6)
            np.testing.assert_allclose(linear.bias, was.bias * gamma, rtol=1e-6)
        assert new.attn.v is old.attn.v
        assert new.mlp.up is old.mlp.up
        assert new.norm1 is old.norm1


def test_fold_layer_scale_takes_linears_without_a_bias_and_scales_of_zero(make, seed):
    before = make("deit3")

    def change(_, block):
        return replace(
            block,
            attn=replace(block.attn, proj=replace(block.attn.proj, bias=None)),
            scale1=LayerScale(np.where(np.arange(48) % 3, block.scale1.gamma, 0)),
        )

    params, _ = transform(before.params, TransformerBlock, change)
    after = assert_exact(fold_layer_scale, replace(before, params=params), seed)
    assert after.params.blocks[0].attn.proj.bias is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SCALED])
def test_fold_layer_scale_does_not_fire_without_one(make, kind):
    assert_idle(fold_layer_scale, make(kind))


def test_fold_layer_scale_does_not_fire_behind_a_norm(make):
    norm = BatchNorm(*(np.ones(48) for _ in range(4)))
    before = make("deit3")
    params, _ = transform(
        before.params, Attention, lambda _, a: replace(a, proj=replace(a.proj, norm=norm))
    )
    assert_idle(fold_layer_scale, replace(before, params=params))


# ---------------------------------------------------------------------------- average_before_…

AVERAGED = ["average", "reg_gap"]


@pytest.mark.parametrize("kind", AVERAGED)
@pytest.mark.parametrize("folded", [False, True])
def test_average_before_last_linear_fires_once_and_is_exact(make, kind, folded, seed):
    before = make(kind).with_plan(outputs=("logits", "embedding"))
    before = fold_layer_scale(before)[0] if folded else before
    after = assert_exact(average_before_last_linear, before, seed)
    assert after.plan == replace(before.plan, pool_early=True)
    assert after.params is before.params
    assert_idle(average_before_last_linear, after)


@pytest.mark.parametrize("kind", AVERAGED)
def test_average_before_last_linear_saves_the_products_of_all_patches_but_one(make, kind):
    tokens = make(kind).config.tokens
    expected = (tokens - 1) * 96 * 48
    assert saved(make(kind))["average_before_last_linear"] == expected


def test_average_before_last_linear_does_not_fire_elsewhere(make):
    for kind in KINDS:
        before = make(kind)
        if kind not in AVERAGED:
            assert_idle(average_before_last_linear, before)
        assert_idle(average_before_last_linear, every_output(before))


def test_average_before_last_linear_does_not_fire_before_a_norm(make):
    norm = BatchNorm(*(np.ones(48) for _ in range(4)))
    before = make("average")
    params, _ = transform(
        before.params,
        TransformerBlock,
        lambda _, b: replace(b, mlp=replace(b.mlp, down=replace(b.mlp.down, norm=norm))),
    )
    assert_idle(average_before_last_linear, replace(before, params=params))


# ---------------------------------------------------------------------------- fold_layernorm_affine


def test_fold_layernorm_affine_fires_once_per_block_and_for_the_head(small):
    last = small.config.num_classes and small.config.final_norm
    assert fold_layernorm_affine(default_output(small))[1] == 3 + bool(last)
    assert fold_layernorm_affine(every_output(small))[1] == 3


def test_fold_layernorm_affine_is_exact(small, seed):
    assert_exact(fold_layernorm_affine, default_output(small), seed)
    assert_exact(fold_layernorm_affine, every_output(small), seed)


def test_fold_layernorm_affine_leaves_bare_norms_and_biases_in_all_readers(small):
    before = default_output(small)
    after, _ = fold_layernorm_affine(before)
    others = small.config.final_norm + small.config.pre_norm
    assert len(layers_of(after.params, LayerNorm)) == 2 * 3 + others
    assert after.params.norm_pre is before.params.norm_pre  # which residuals read
    for old, new in zip(before.params.blocks, after.params.blocks, strict=True):
        for norm, was in ((new.norm1, old.norm1), (new.norm2, old.norm2)):
            assert (norm.weight, norm.bias, norm.eps) == (None, None, was.eps)
        for name in "qkv":
            linear, was = getattr(new.attn, name), getattr(old.attn, name)
            np.testing.assert_allclose(linear.weight, was.weight * old.norm1.weight, rtol=1e-6)
            assert linear.bias.shape == (48,)
            np.testing.assert_allclose(
                linear.bias,
                was.weight.astype(np.float64) @ old.norm1.bias
                + (0 if was.bias is None else was.bias),
                rtol=0,
                atol=1e-12,
            )
        np.testing.assert_allclose(
            new.mlp.up.weight, old.mlp.up.weight * old.norm2.weight, rtol=1e-6
        )
        assert new.attn.proj is old.attn.proj
        assert new.mlp.down is old.mlp.down
    assert after.params.embed is before.params.embed


@pytest.mark.parametrize("kind", ["distilled", "deit", "convit", "vit"])
def test_fold_layernorm_affine_goes_into_every_head(make, kind):
    before = default_output(make(kind))
    after, _ = fold_layernorm_affine(before)
    assert after.params.norm.weight is None
    pairs = list(zip(*(layers_of(m.params, Head).values() for m in (before, after)), strict=True))
    assert len(pairs) == before.config.classifier_heads
    for old, new in pairs:
        np.testing.assert_allclose(new.weight, old.weight * before.params.norm.weight, rtol=1e-6)
        assert (new.first, new.count) == (old.first, old.count)


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("deit", ("logits", "features")),
        ("deit", ("embedding", "logits")),
        ("deit", ("features",)),
        ("distilled", ("logits_head", "embedding")),
        ("vit_pooler", ("pooled",)),
        ("vit_headless", ("embedding",)),
    ],
)
def test_fold_layernorm_affine_keeps_the_last_norm_where_something_else_reads_it(
    make, kind, outputs
):
    before = make(kind).with_plan(outputs=outputs)
    after, count = fold_layernorm_affine(before)
    assert count == 3
    assert after.params.norm is before.params.norm
    assert after.params.head is before.params.head
    assert_idle(fold_layernorm_affine, after)


@pytest.mark.parametrize("outputs", [("logits_head",), ("logits_dist",), ("logits", "logits_dist")])
def test_fold_layernorm_affine_goes_into_heads_that_are_outputs(make, outputs, seed):
    before = make("distilled").with_plan(outputs=outputs)
    assert fold_layernorm_affine(before)[1] == 4
    assert_exact(fold_layernorm_affine, before, seed)


def test_fold_layernorm_affine_waits_for_the_norm_of_a_reader(make):
    before = make("vit")
    norm = BatchNorm(*(np.ones(48) for _ in range(4)))

    def normed(_, attention):
        return replace(attention, v=replace(attention.v, norm=norm))

    params, _ = transform(before.params, Attention, normed)
    after, count = fold_layernorm_affine(replace(before, params=params))
    assert count == 1, "the head's alone"
    assert all(block.norm1.weight is not None for block in after.params.blocks)


def test_fold_layernorm_affine_fires_once(small):
    assert_once(fold_layernorm_affine, small)
    assert_once(fold_layernorm_affine, every_output(small))


def test_folding_into_the_queries_alone_would_not_be_exact(make, seed):
    before = make("vit")
    after, _ = fold_layernorm_affine(before)
    block = after.params.blocks[0]
    wrong = replace(block, attn=replace(block.attn, v=before.params.blocks[0].attn.v))
    params = replace(after.params, blocks=(wrong, *after.params.blocks[1:]))
    assert relative_difference(before, replace(after, params=params), seed) > 1e-6


# ---------------------------------------------------------------------------- attention's biases


def test_fold_query_scale_and_drop_key_bias_fire_once_per_attention_and_are_exact(small, seed):
    before = fold_layernorm_affine(every_output(small))[0]
    for function in (fold_query_scale, drop_key_bias):
        assert function(before)[1] == 3
        assert_exact(function, before, seed)
        assert_once(function, before)


def test_drop_key_bias_finds_none_in_a_convit_as_trained(make):
    assert_idle(drop_key_bias, make("convit"))
    assert drop_key_bias(make("convit_bias"))[1] == 3


def test_fold_value_bias_fires_once_per_attention_that_has_one(small):
    expected = 3 if small.config.qkv_bias else 0
    assert fold_value_bias(small)[1] == expected
    assert fold_value_bias(fold_layernorm_affine(small)[0])[1] == 3


def test_fold_value_bias_is_exact(small, seed):
    before = fold_layernorm_affine(every_output(small))[0]
    assert_exact(fold_value_bias, before, seed)
    if small.config.qkv_bias:
        assert_exact(fold_value_bias, every_output(small), seed)


def test_fold_value_bias_moves_the_bias_into_the_projection_alone(small):
    before = fold_layernorm_affine(small)[0]
    after, _ = fold_value_bias(before)
    for old, new in zip(attentions(before), attentions(after), strict=True):
        assert type(new) is type(old)
        assert new.v.bias is None
        assert new.v.weight is old.v.weight
        assert new.proj.weight is old.proj.weight
        moved = old.proj.weight.astype(np.float64) @ old.v.bias
        assert np.abs(moved).max() > 0.01, "nothing was moved"
        was = 0 if old.proj.bias is None else old.proj.bias
        np.testing.assert_allclose(new.proj.bias, was + moved, rtol=0, atol=1e-12)
        assert new.q is old.q
        assert new.k is old.k
    assert after.params.embed is before.params.embed


def test_fold_value_bias_makes_a_bias_where_the_projection_has_none(make, seed):
    before = make("vit")
    params, _ = transform(
        before.params, Attention, lambda _, a: replace(a, proj=replace(a.proj, bias=None))
    )
    before = replace(before, params=params)
    after = assert_exact(fold_value_bias, before, seed)
    assert all(attention.proj.bias.shape == (48,) for attention in attentions(after))


def test_fold_value_bias_does_not_fire_behind_a_norm(make):
    norm = BatchNorm(*(np.ones(48) for _ in range(4)))
    for name in ("v", "proj"):
        params, _ = transform(
            make("vit").params,
            Attention,
            lambda _, a, name=name: replace(a, **{name: replace(getattr(a, name), norm=norm)}),
        )
        assert_idle(fold_value_bias, replace(make("vit"), params=params))


def test_dropping_the_values_bias_would_not_be_exact(make, seed):
    before = make("vit")
    params, _ = transform(
        before.params, Attention, lambda _, a: replace(a, v=replace(a.v, bias=None))
    )
    assert relative_difference(before, replace(before, params=params), seed) > 1e-6


def test_fold_value_bias_fires_once(small):
    assert_once(fold_value_bias, fold_layernorm_affine(small)[0])


# ---------------------------------------------------------------------------- merge_heads


@pytest.mark.parametrize("kind", ["distilled", "distilled_wide"])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("outputs", [("logits",), ("logits", "embedding", "features")])
def test_merge_heads_on_two_tokens_is_exact(make, kind, folded, outputs, seed):
    before = make(kind).with_plan(outputs=outputs)
    if folded:
        before = fold_layernorm_affine(before)[0]
    assert merge_heads(before)[1] == 1
    assert_exact(merge_heads, before, seed)
    assert_once(merge_heads, before)


def test_merge_heads_leaves_one_head_that_reads_both_tokens(make):
    before = make("distilled")
    after, _ = merge_heads(before)
    head, dist, merged = before.params.head, before.params.head_dist, after.params.head
    assert after.params.head_dist is None
    assert (merged.first, merged.count) == (0, 2)
    assert merged.weight.shape == (7, 2 * 48)
    np.testing.assert_allclose(merged.weight[:, :48], head.weight / 2, rtol=1e-6)
    np.testing.assert_allclose(merged.weight[:, 48:], dist.weight / 2, rtol=1e-6)
    np.testing.assert_allclose(
        merged.bias, (head.bias.astype(np.float64) + dist.bias) / 2, rtol=1e-12
    )
    assert after.params.blocks is before.params.blocks
    assert after.plan is before.plan


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
def test_merge_heads_does_not_fire_where_a_head_is_an_output(make, outputs):
    assert_idle(merge_heads, make("distilled").with_plan(outputs=outputs))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("distilled", "distilled_wide")]
)
def test_merge_heads_does_not_fire_on_fewer_than_two_heads(make, kind):
    assert_idle(merge_heads, make(kind))


def test_merge_heads_does_not_fire_behind_a_norm(make):
    before = make("distilled")
    norm = BatchNorm(*(np.ones(48) for _ in range(4)))
    dist = before.params.head_dist
    dist = replace(dist, norm_before=norm)
    assert_idle(merge_heads, replace(before, params=replace(before.params, head_dist=dist)))


# ---------------------------------------------------------------------------- keep_only_read_tokens


def without_features(model):
    outputs = [n for n in model.family.outputs(model.config) if n != "features"]
    return model.with_plan(outputs=tuple(outputs))


class Recording(NumpyOps):
    """Tokens that each Linear runs on, by path."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    def linear(self, x, weight, bias):
        self.rows[self.path] = x.shape[1] if x.ndim == 3 else 1
        return super().linear(x, weight, bias)


def test_keep_only_read_tokens_fires_once_and_changes_the_plan_alone(small):
    before = without_features(small)
    if small.config.pool == "avg":
        assert_idle(keep_only_read_tokens, before)
        return
    after, count = keep_only_read_tokens(before)
    assert count == 1
    assert after.params is before.params
    assert after.plan == replace(before.plan, read_tokens_only=True)
    assert_idle(keep_only_read_tokens, after)


def test_keep_only_read_tokens_is_exact(small, seed):
    if small.config.pool != "avg":
        assert_exact(keep_only_read_tokens, without_features(small), seed)


@pytest.mark.parametrize(
    ("kind", "read"),
    [("deit", 1), ("distilled", 2), ("class_token_only", 1), ("distilled_headless", 2),
     ("convit", 1), ("vit_pooler", 1)],
)  # fmt: skip
def test_keep_only_read_tokens_leaves_keys_and_values_of_all(make, kind, read, seed):
    before = make(kind)
    after, _ = keep_only_read_tokens(before)
    rows = []
    for model in (before, after):
        ops = Recording()
        model.forward(ops, inputs_of(model, seed))
        rows.append(ops.rows)
    tokens, last = before.config.tokens, "blocks.2."
    for name in ("attn.q", "attn.proj", "mlp.up", "mlp.down"):
        assert (rows[0][last + name], rows[1][last + name]) == (tokens, read)
    for name in ("attn.k", "attn.v"):
        assert rows[1][last + name] == tokens
    others = [path for path in rows[0] if not path.startswith(last)]
    assert all(rows[0][path] == rows[1][path] for path in others)


@pytest.mark.parametrize("outputs", [("features",), ("logits", "features")])
@pytest.mark.parametrize("kind", ["deit", "distilled", "convit", "vit"])
def test_keep_only_read_tokens_does_not_fire_where_tokens_are_an_output(make, kind, outputs):
    assert_idle(keep_only_read_tokens, make(kind).with_plan(outputs=outputs))


def test_keep_only_read_tokens_does_not_fire_on_a_gated_last_block(make):
    before = make("convit")
    # No config has one: the class token enters behind them.
    blocks = (*before.params.blocks[:2], replace(before.params.blocks[0]))
    gated = replace(before, params=replace(before.params, blocks=blocks))
    assert isinstance(gated.params.blocks[-1].attn, GatedAttention)
    assert_idle(keep_only_read_tokens, gated)


# ---------------------------------------------------------------------------- positional attention


@pytest.mark.parametrize("kind", ["convit", "convit_bias", "convit_without_positions"])
def test_fold_position_attention_fires_once_per_local_block_and_is_exact(make, kind, seed):
    before = every_output(make(kind))
    assert fold_position_attention(before)[1] == 2
    assert_exact(fold_position_attention, before, seed)
    assert_once(fold_position_attention, before)


@pytest.mark.parametrize("kind", ["convit", "convit_bias"])
def test_fold_position_attention_makes_tables_whose_rows_sum_to_the_gate(make, kind):
    before = make(kind)
    after, _ = fold_position_attention(before)
    height, width = before.config.grid
    pairs = zip(
        layers_of(before.params, PositionAttention).values(),
        layers_of(after.params, PositionAttention).values(),
        strict=True,
    )
    for old, new in pairs:
        gate = 1 / (1 + np.exp(-old.gate.astype(np.float64)))
        assert new.table.shape == (3, height * width, height * width)
        np.testing.assert_allclose(
            new.table.sum(-1), np.broadcast_to(gate[:, None], (3, height * width)), rtol=1e-13
        )
        np.testing.assert_allclose(new.rest[:, 0, 0], 1 - gate, rtol=1e-12)
        for head in range(3):
            weight, bias = (v[head].astype(np.float64) for v in (old.weight, old.bias))
            scores = np.array(
                [
                    [
                        weight @ (kc - qc, kr - qr, (kc - qc) ** 2 + (kr - qr) ** 2) + bias
                        for kr in range(height)
                        for kc in range(width)
                    ]
                    for qr in range(height)
                    for qc in range(width)
                ]
            )
            table = np.exp(scores - scores.max(-1, keepdims=True))
            table *= gate[head] / table.sum(-1, keepdims=True)
            np.testing.assert_allclose(new.table[head], table, rtol=0, atol=1e-14)
    assert all(
        new.attn.q is old.attn.q
        for old, new in zip(before.params.blocks, after.params.blocks, strict=True)
    )


@pytest.mark.parametrize("gate", [60.0, 30.0, 0.0, -30.0, -60.0])
def test_fold_position_attention_is_exact_at_saturated_gates(make, gate, seed):
    def saturate(_, position):
        return replace(position, gate=np.full_like(position.gate, gate))

    params, _ = transform(make("convit").params, PositionAttention, saturate)
    before = every_output(replace(make("convit"), params=params))
    after = assert_exact(fold_position_attention, before, seed)
    for position in layers_of(after.params, PositionAttention).values():
        np.testing.assert_allclose(position.rest, 1 / (1 + math.exp(gate)), rtol=1e-12)


@pytest.mark.parametrize("kind", ["deit", "distilled", "vit"])
def test_fold_position_attention_does_not_fire_without_gates(make, kind):
    assert_idle(fold_position_attention, make(kind))


# ---------------------------------------------------------------------------- fold_gate


def before_the_gate(model):
    for function in (fold_layernorm_affine, fold_value_bias, fold_position_attention):
        model = function(model)[0]
    return model


def with_gates(model, gate):
    params, _ = transform(
        model.params, PositionAttention, lambda _, p: replace(p, gate=np.full_like(p.gate, gate))
    )
    return replace(model, params=params)


@pytest.mark.parametrize("kind", ["convit", "convit_bias", "convit_without_positions"])
def test_fold_gate_fires_once_per_local_block_and_is_exact(make, kind, seed):
    before = before_the_gate(every_output(make(kind)))
    assert fold_gate(before)[1] == 2
    assert_exact(fold_gate, before, seed)
    assert_once(fold_gate, before)


def test_fold_gate_scales_the_values_of_each_head_alone(make):
    before = before_the_gate(make("convit"))
    after, _ = fold_gate(before)
    for old, new in zip(attentions(before)[:2], attentions(after)[:2], strict=True):
        gate = old.position.gate.astype(np.float64)
        kept = np.repeat(1 / (1 + np.exp(gate)), 16)
        np.testing.assert_allclose(new.v.weight, old.v.weight * kept[:, None], rtol=1e-12)
        assert new.position.rest is None
        # A row by position sums to what the gate lets through for each part of what it keeps.
        np.testing.assert_allclose(
            new.position.table.sum(-1), np.broadcast_to(np.exp(gate)[:, None], (3, 16)), rtol=1e-12
        )
        assert new.proj is old.proj
        assert new.q is old.q
    assert attentions(after)[2] is attentions(before)[2]


@pytest.mark.parametrize("gate", [-60.0, -8.0, 0.0, 6.9])
def test_fold_gate_is_exact_at_any_gate_it_takes(make, gate, seed):
    before = before_the_gate(with_gates(every_output(make("convit")), gate))
    assert fold_gate(before)[1] == 2
    assert_exact(fold_gate, before, seed)


@pytest.mark.parametrize("gate", [7.0, 30.0, 100.0])
def test_fold_gate_leaves_gates_that_are_nearly_shut_to_content(make, gate):
    assert_idle(fold_gate, before_the_gate(with_gates(make("convit"), gate)))


def test_fold_gate_waits_for_the_table_and_for_the_values_bias(make):
    assert_idle(fold_gate, make("convit"))
    assert_idle(fold_gate, fold_position_attention(make("convit_bias"))[0])
    assert_idle(fold_gate, fold_position_attention(fold_layernorm_affine(make("convit"))[0])[0])


def test_fold_gate_does_not_fire_behind_a_norm(make):
    norm = BatchNorm(*(np.ones(48) for _ in range(4)))
    before = fold_position_attention(make("convit"))[0]
    params, _ = transform(
        before.params, Attention, lambda _, a: replace(a, v=replace(a.v, norm=norm))
    )
    assert_idle(fold_gate, replace(before, params=params))


@pytest.mark.parametrize("kind", ["deit", "distilled", "vit"])
def test_fold_gate_does_not_fire_without_gates(make, kind):
    assert_idle(fold_gate, before_the_gate(make(kind)))


@pytest.mark.parametrize("gate", [-800.0, -30.0, 0.0, 6.9, 30.0, 800.0])
def test_the_whole_row_is_exact_at_saturated_gates(make, gate, seed):
    before = every_output(with_gates(make("convit"), gate))
    deployed = run_passes(before)[-1].model
    assert relative_difference(before, deployed, seed) <= EXACT


# ---------------------------------------------------------------------------- embedding


def test_fold_tokens_and_positions_fires_once_where_there_are_positions(small):
    assert fold_tokens_and_positions(small)[1] == int(small.config.positions)


def test_fold_tokens_and_positions_is_exact(small, seed):
    if small.config.positions:
        assert_exact(fold_tokens_and_positions, every_output(small), seed)
        assert_once(fold_tokens_and_positions, small)


def test_fold_tokens_and_positions_leaves_one_table(small):
    if not small.config.positions:
        return
    after, _ = fold_tokens_and_positions(small)
    old, new = small.params.embed, after.params.embed
    assert new.tokens is None
    assert new.positions is None
    assert new.bias is None
    assert new.weight is old.weight
    assert new.stride == old.stride
    special = small.config.special_tokens * (not small.config.local_depth)
    assert new.table.shape == (special + math.prod(small.config.grid), 48)
    expected = old.positions.astype(np.float64)
    if not small.config.token_positions:
        expected = np.pad(expected, ((special, 0), (0, 0)))
    if special:
        np.testing.assert_allclose(
            new.table[:special], expected[:special] + old.tokens, rtol=0, atol=1e-15
        )
    bias = 0 if old.bias is None else old.bias
    np.testing.assert_allclose(new.table[special:], expected[special:] + bias, rtol=0, atol=1e-15)
    assert after.params.late_tokens is small.params.late_tokens
    assert after.params.blocks is small.params.blocks


def test_fold_tokens_and_positions_does_not_fire_without_positions(make):
    assert_idle(fold_tokens_and_positions, make("convit_without_positions"))


def test_fold_tokens_and_positions_does_not_fire_behind_a_norm(make):
    before = make("deit")
    norm = BatchNorm(*(np.ones(48) for _ in range(4)))
    embedding = before.params.embed
    embedding = replace(embedding, norm=norm)
    assert_idle(
        fold_tokens_and_positions,
        replace(before, params=replace(before.params, embed=embedding)),
    )


def test_fold_tokens_and_positions_takes_patches_without_a_bias(make, seed):
    before = make("deit")
    embedding = before.params.embed
    embedding = replace(embedding, bias=None)
    before = replace(before, params=replace(before.params, embed=embedding))
    assert_exact(fold_tokens_and_positions, before, seed)


# ---------------------------------------------------------------------------- input normalisation


@pytest.mark.parametrize("folded", [False, True], ids=["bias", "table"])
def test_fold_input_normalization_of_patches_is_exact(small, folded, seed):
    before = every_output(on_pixels(small))
    if folded:
        before = fold_tokens_and_positions(before)[0]
    assert fold_input_normalization(before)[1] == 1
    assert_exact(fold_input_normalization, before, seed)
    assert_once(fold_input_normalization, before)


@pytest.mark.parametrize("folded", [False, True], ids=["bias", "table"])
def test_fold_input_normalization_leaves_nothing_to_subtract(make, folded):
    before = on_pixels(make("distilled"))
    if folded:
        before = fold_tokens_and_positions(before)[0]
    after, _ = fold_input_normalization(before)
    mean, std = (np.asarray(values) for values in STATISTICS)
    old, new = before.params.embed, after.params.embed
    np.testing.assert_allclose(new.weight * (255 * std)[:, None, None], old.weight, rtol=1e-12)
    shift = -(old.weight.astype(np.float64).sum((2, 3)) @ (mean / std))
    if folded:
        assert new.bias is None
        np.testing.assert_allclose(new.table[2:] - old.table[2:], np.tile(shift, (16, 1)), rtol=0,
                                   atol=1e-12)  # fmt: skip
        assert np.array_equal(new.table[:2], old.table[:2])
    else:
        np.testing.assert_allclose(new.bias, old.bias + shift, rtol=0, atol=1e-12)
        assert new.positions is old.positions
    assert after.plan.pixels_folded
    assert after.plan.pixels == ((0.0, 0.0, 0.0), STATISTICS[1])
    assert after.params.blocks is before.params.blocks


def test_fold_input_normalization_leaves_the_model_it_was_given_alone(make):
    before = fold_tokens_and_positions(on_pixels(make("deit")))[0]
    table = before.params.embed.table.copy()
    fold_input_normalization(before)
    assert np.array_equal(before.params.embed.table, table)


def test_fold_input_normalization_does_not_fire_on_float32_input(small):
    assert_idle(fold_input_normalization, small)


def test_fold_input_normalization_does_not_fire_on_padded_patches_or_behind_a_norm(make):
    before = on_pixels(make("vit"))
    embedding = before.params.embed
    norm = BatchNorm(*(np.ones(48) for _ in range(4)))
    for changes in (dict(padding=1), dict(norm=norm)):
        odd = replace(embedding, **changes)
        assert_idle(
            fold_input_normalization,
            replace(before, params=replace(before.params, embed=odd)),
        )


def test_uint8_pixels_are_the_normalised_tensor(small, seed):
    deployed = run_passes(on_pixels(small))[-1].model
    pixels = inputs_of(deployed, seed)
    mean, std = (np.asarray(v)[:, None, None] for v in statistics_of(small))
    tensors = (np.moveaxis(pixels, -1, 1) / 255 - mean) / std
    name = small.plan.outputs[0]
    expected = small.forward(NumpyOps(), tensors)[name]
    found = deployed.forward(NumpyOps(), pixels)[name]
    assert np.abs(found - expected).max() <= EXACT * np.abs(expected).max()


# ---------------------------------------------------------------------------- the row of passes

OUTPUTS = {
    kind: [
        *((name,) for name in FAMILIES[family].outputs(TransformerConfig(
            **dict(image_size=(64, 64), patch_size=16, num_classes=7, width=48, depth=3, heads=3,
                   mlp_width=96) | own))),
        None,
    ]
    for kind, (family, own) in KINDS.items()
}  # fmt: skip


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
@pytest.mark.parametrize(
    ("kind", "outputs"), [(kind, outputs) for kind, sets in OUTPUTS.items() for outputs in sets]
)
def test_all_passes_in_a_row_are_exact(make, kind, outputs, pixels, seed):
    model = make(kind)
    model = every_output(model) if outputs is None else model.with_plan(outputs=outputs)
    model = on_pixels(model) if pixels else model
    deployed = run_passes(model)[-1].model
    assert relative_difference(model, deployed, seed) <= EXACT
    x = inputs_of(model, seed)
    assert prove("folding", model.forward(NumpyOps(), x), deployed, x) <= EXACT


_ROW = dict(
    fold_layernorm_affine=4, fold_query_scale=3, drop_key_bias=3, fold_value_bias=3, merge_heads=0,
    average_before_last_linear=0, keep_only_read_tokens=1, fold_position_attention=0, fold_gate=0,
    fold_tokens_and_positions=1, fold_input_normalization=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("deit", {}),
        ("distilled", dict(merge_heads=1)),
        ("class_token_only", {}),
        ("distilled_headless", dict(fold_layernorm_affine=3)),
        ("convit", dict(fold_position_attention=2, fold_gate=2)),
        ("convit_bias", dict(fold_position_attention=2, fold_gate=2)),
        (
            "convit_without_positions",
            dict(fold_position_attention=2, fold_gate=2, fold_tokens_and_positions=0),
        ),
        ("vit", {}),
        ("vit_silu_no_bias", {}),
        ("deit3", dict(fold_layer_scale=3)),
        ("average", dict(average_before_last_linear=1, keep_only_read_tokens=0)),
        ("average_of_normed", dict(keep_only_read_tokens=0)),
        ("gap", dict(fold_layer_scale=3, keep_only_read_tokens=0)),
        (
            "reg_gap",
            dict(fold_layer_scale=3, average_before_last_linear=1, keep_only_read_tokens=0),
        ),
        ("pre_norm", {}),
        ("token_fc_norm", {}),
        ("no_norm", dict(fold_layernorm_affine=3)),
        (
            "convit_average",
            dict(fold_position_attention=2, fold_gate=2, keep_only_read_tokens=0),
        ),
    ],
)
def test_counts_of_the_whole_row(make, kind, other):
    assert {e.name: e.count for e in run_passes(on_pixels(make(kind)))} == {**_ROW, **other}


def test_a_pass_that_has_run_finds_nothing_more_to_do(small):
    deployed = run_passes(on_pixels(small))[-1].model
    for function in PASSES:
        assert_idle(function, deployed)


def test_what_is_deployed_has_no_scales_and_no_biases_of_keys_and_values(small):
    deployed = run_passes(default_output(small))[-1].model
    for attention in attentions(deployed):
        assert attention.scale is None
        assert attention.k.bias is None
        assert attention.v.bias is None
        assert attention.q.bias is not None
    for block in layers_of(deployed.params, TransformerBlock).values():
        assert block.norm1.weight is None
        assert block.norm2.bias is None
    assert all(linear.norm is None for linear in layers_of(deployed.params, Linear).values())
    (embedding,) = layers_of(deployed.params, Embedding).values()
    assert (embedding.table is not None) == small.config.positions


# What has to be before what: norms go into single heads, and a gate into values without a bias.
_BEFORE = (
    (fold_layernorm_affine, merge_heads),
    (fold_layernorm_affine, drop_key_bias),
    (fold_layernorm_affine, fold_value_bias),
    (fold_value_bias, fold_gate),
    (fold_position_attention, fold_gate),
)


def any_order(rng):
    while True:
        order = [PASSES[i] for i in rng.permutation(len(PASSES))]
        if all(order.index(one) < order.index(other) for one, other in _BEFORE):
            return order


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
def test_the_order_does_not_matter_but_where_one_waits_for_another(small, pixels, rng, seed):
    model = on_pixels(small) if pixels else small
    expected = run_passes(model)
    counts = {entry.name: entry.count for entry in expected}
    for _ in range(4):
        found = run_passes(model, any_order(rng))
        assert {entry.name: entry.count for entry in found} == counts
        assert found[-1].model.plan == expected[-1].model.plan
        assert relative_difference(model, found[-1].model, seed) <= EXACT


def test_without_one_of_them_the_others_are_exact_too(small, seed):
    model = on_pixels(default_output(small))
    for left_out in PASSES:
        passes = [function for function in PASSES if function is not left_out]
        deployed = run_passes(model, passes)[-1].model
        assert relative_difference(model, deployed, seed) <= EXACT, left_out.__name__


# ---------------------------------------------------------------------------- macs_saved


def saved(model):
    return {entry.name: entry.macs_saved for entry in run_passes(model)}


@pytest.mark.parametrize(("kind", "read"), [("deit", 1), ("distilled", 2), ("vit", 1)])
def test_macs_that_the_unread_tokens_save(make, kind, read):
    model = make(kind)
    tokens = model.config.tokens
    unread, width, hidden = tokens - read, 48, 96
    # Queries and projection, the MLP, scores and weighted sums.
    expected = unread * (2 * width**2 + 2 * width * hidden + 2 * tokens * width)
    assert saved(model)["keep_only_read_tokens"] == expected
    assert all(v == 0 for k, v in saved(model).items() if k != "keep_only_read_tokens")


def test_macs_that_a_static_positional_table_saves(make):
    found = saved(make("convit"))
    assert found["fold_position_attention"] == 2 * 16 * 16 * 3 * 3
    assert found["keep_only_read_tokens"] == 16 * (2 * 48**2 + 2 * 48 * 96 + 2 * 17 * 48)


def test_macs_are_saved_where_a_pass_fires_and_nowhere_else(small):
    for entry in run_passes(on_pixels(every_output(small))):
        assert entry.macs_saved >= 0
        if not entry.count:
            assert entry.macs_saved == 0
    assert saved(every_output(small))["keep_only_read_tokens"] == 0


# ---------------------------------------------------------------------------- other families


@pytest.mark.parametrize("name", ["tiny", "conv", "headless", "plain"])
@pytest.mark.parametrize("folded", [False, True])
def test_the_passes_of_transformers_do_not_fire_on_a_levit(make_small, name, folded):
    model = make_small(name).with_plan(pixels=STATISTICS)
    if folded:
        model = fold_batchnorm(model)[0]
    for function in NEW:
        assert_idle(function, model)
    counts = {entry.name: entry.count for entry in run_passes(model)}
    assert all(counts.get(function.__name__, 0) == 0 for function in NEW)


def test_the_passes_of_a_levit_do_not_fire_on_transformers(small):
    for function in (fold_batchnorm, fold_relative_bias, pool_before_last_linear):
        assert_idle(function, small)
