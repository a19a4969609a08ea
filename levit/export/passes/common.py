"""Passes of every family: norms, queries, keys, heads, input normalisation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from levit.export.passes.shared import is_plain, scaled, with_params
from levit.models.layers import Conv, DotProductAttention, Linear, transform
from levit.models.levit.layers import LevitParams
from levit.models.model import Model
from levit.models.ops import Array
from levit.models.transformer.layers import Head, TransformerParams

__all__ = [
    "drop_key_bias",
    "fold_batchnorm",
    "fold_input_normalization",
    "fold_query_scale",
    "merge_heads",
]


def fold_batchnorm(model: Model) -> tuple[Model, int]:
    """BatchNorm into the convolution or Linear before it, and a head's into the Linear after it.

    ``BN(Wx + b) = (s·W)x + (s·b + t)`` with ``s = γ/√(σ² + ε)``, ``t = β - s·μ``, and
    ``W·BN(x) + b = (W·s)x + (W·t + b)``. Exact: at inference a BatchNorm is affine with
    constants, and every one here has a single producer or consumer to go into. Each head
    has its own.
    """
    params, convs = transform(model.params, Conv, Conv.fold)
    params, linears = transform(params, Linear, Linear.fold)
    return with_params(model, params, convs + linears)


def fold_query_scale(model: Model) -> tuple[Model, int]:
    """The score scale into the query's weights and bias: ``(q·k)/√d = (q/√d)·k``.

    Fires only where the query is a plain affine map: behind a BatchNorm the scale would have
    to go into the norm.
    """

    def fold(attention: DotProductAttention) -> DotProductAttention:
        if attention.scale is None or not is_plain(attention.q):
            return attention
        return replace(attention, q=scaled(attention.q, attention.scale), scale=None)

    params, count = transform(model.params, DotProductAttention, fold)
    return with_params(model, params, count)


def drop_key_bias(model: Model) -> tuple[Model, int]:
    """The key's bias adds ``q·b_k`` to every score of a query; softmax over keys ignores it.

    ``softmax(x + c·1) = softmax(x)``, whatever is added per (query, key) beside it. After
    fold_batchnorm, which makes such biases. Fires only where a plain bias is left to drop.
    """

    def drop(attention: DotProductAttention) -> DotProductAttention:
        if attention.k.bias is None or not is_plain(attention.k):
            return attention
        return replace(attention, k=replace(attention.k, bias=None))

    params, count = transform(model.params, DotProductAttention, drop)
    return with_params(model, params, count)


def merge_heads(model: Model) -> tuple[Model, int]:
    """Two heads into one Linear.

    On one embedding it has the mean of their weights: ``(W₁x + b₁ + W₂x + b₂)/2 =
    ((W₁+W₂)/2)x + (b₁+b₂)/2``. On two tokens it reads both: ``(W₁x₁ + b₁ + W₂x₂ + b₂)/2 =
    [W₁/2 W₂/2](x₁, x₂) + (b₁+b₂)/2``. Not when a head is an output of its own, and only once both
    are plain (their norms differ).
    """
    params = model.params
    if {"logits_head", "logits_dist"} & set(model.plan.outputs):
        return model, 0
    if isinstance(params, LevitParams) and params.head and params.head_dist:
        one, other = params.head, params.head_dist
        if not _can_merge(one, other):
            return model, 0
        weight = (one.weight.astype(np.float64) + other.weight) / 2
        merged = Linear(weight, _mean_bias(one, other))
        return with_params(model, replace(params, head=merged, head_dist=None), 1)
    if isinstance(params, TransformerParams) and params.head and params.head_dist:
        one, other = params.head.linear, params.head_dist.linear
        if not _can_merge(one, other):
            return model, 0
        weight = np.concatenate([one.weight, other.weight], axis=1).astype(np.float64) / 2
        both = Head(Linear(weight, _mean_bias(one, other)), first=0, count=2)
        return with_params(model, replace(params, head=both, head_dist=None), 1)
    return model, 0


def _can_merge(one: Linear, other: Linear) -> bool:
    return all(is_plain(head) and head.bias is not None for head in (one, other))


def _mean_bias(one: Linear, other: Linear) -> Array:
    assert one.bias is not None
    assert other.bias is not None
    bias: Array = (one.bias.astype(np.float64) + other.bias) / 2
    return bias


def fold_input_normalization(model: Model) -> tuple[Model, int]:
    """``1/(255·std)`` into the first convolution, where the input is uint8 pixels.

    ``W·((x/255 - μ)/σ) = (W/(255·σ))·(x - 255·μ)``, per input channel. The subtraction stays
    in front: the convolution's zero padding happens after normalisation and stands for the
    mean, so the border is exact; folding it too would need a border correction, which costs
    as much as it saves (docs/decisions.md). Patches are not padded: there it goes into the bias.
    """
    plan = model.plan
    if isinstance(model.params, TransformerParams):
        return _fold_into_patches(model)
    stem = getattr(model.params, "stem", ())
    if plan.pixels is None or plan.pixels_folded or not stem or stem[0].norm is not None:
        return model, 0
    std = np.asarray(plan.pixels[1], np.float64)
    weight = stem[0].weight / (255 * std)[None, :, None, None]
    params = replace(model.params, stem=(replace(stem[0], weight=weight), *stem[1:]))
    return replace(model, params=params).with_plan(pixels_folded=True), 1


def _fold_into_patches(model: Model) -> tuple[Model, int]:
    """``W·((x/255 - μ)/σ) + b = (W/(255·σ))·x + (b - W·(μ/σ))``."""
    plan, embedding = model.plan, model.params.embedding
    patch = embedding.patch
    if plan.pixels is None or plan.pixels_folded or patch.norm is not None or patch.padding:
        return model, 0
    mean, std = (np.asarray(values, np.float64) for values in plan.pixels)
    shift = -np.einsum("oikl,i->o", patch.weight.astype(np.float64), mean / std)
    weight = patch.weight / (255 * std)[None, :, None, None]
    if embedding.table is None:
        bias = shift if patch.bias is None else shift + patch.bias
        embedding = replace(embedding, patch=replace(patch, weight=weight, bias=bias))
    else:  # the bias stands there, in the rows of the patches
        table = embedding.table.copy()
        table[len(table) - math.prod(model.config.grid) :] += shift
        embedding = replace(embedding, patch=replace(patch, weight=weight), table=table)
    params = replace(model.params, embedding=embedding)
    pixels = ((0.0,) * len(mean), plan.pixels[1])
    return replace(model, params=params).with_plan(pixels=pixels, pixels_folded=True), 1
