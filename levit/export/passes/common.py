"""Passes of every family: norms, queries, keys, heads, input normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from levit.export.passes.shared import scaled_rows, with_params
from levit.models.layers import Conv, DotProductAttention, Linear, layers_of, transform
from levit.models.model import Model
from levit.models.transformer.layers import Embedding, Head

__all__ = [
    "drop_key_bias",
    "fold_batchnorm",
    "fold_input_normalization",
    "fold_query_scale",
    "merge_heads",
]


def fold_batchnorm(model: Model) -> tuple[Model, int]:
    """Fold a BatchNorm into the layer before it, and a head's into the Linear after it.

    ``BN(Wx + b) = (s·W)x + (s·b + t)`` with ``s = γ/√(σ² + ε)``, ``t = β - s·μ``, and
    ``W·BN(x) + b = (W·s)x + (W·t + b)``. Exact: at inference a BatchNorm is affine with
    constants, and every one here has a single producer or consumer to go into. Each head
    has its own.
    """
    params, convs = transform(model.params, Conv, lambda _, conv: conv.fold())
    params, linears = transform(params, Linear, lambda _, linear: linear.fold())
    return with_params(model, params, convs + linears)


def fold_query_scale(model: Model) -> tuple[Model, int]:
    """Move the score scale into the query's weights and bias: ``(q·k)/√d = (q/√d)·k``.

    Fires only where the query is a plain affine map: behind a BatchNorm the scale would have
    to go into the norm.
    """

    def fold(_: str, attention: DotProductAttention) -> DotProductAttention:
        if attention.scale is None or not attention.q.is_plain:
            return attention
        return replace(attention, q=scaled_rows(attention.q, attention.scale), scale=None)

    params, count = transform(model.params, DotProductAttention, fold)
    return with_params(model, params, count)


def drop_key_bias(model: Model) -> tuple[Model, int]:
    """Drop the key's bias, which adds ``q·b_k`` to every score of a query: softmax ignores it.

    ``softmax(x + c·1) = softmax(x)``, whatever is added per (query, key) beside it. After
    fold_batchnorm, which makes such biases. Fires only where a plain bias is left to drop.
    """

    def drop(_: str, attention: DotProductAttention) -> DotProductAttention:
        if attention.k.bias is None or not attention.k.is_plain:
            return attention
        return replace(attention, k=replace(attention.k, bias=None))

    params, count = transform(model.params, DotProductAttention, drop)
    return with_params(model, params, count)


def merge_heads(model: Model) -> tuple[Model, int]:
    """Merge two heads into one Linear.

    On one embedding it has the mean of their weights: ``(W₁x + b₁ + W₂x + b₂)/2 =
    ((W₁+W₂)/2)x + (b₁+b₂)/2``. On two tokens it reads both: ``(W₁x₁ + b₁ + W₂x₂ + b₂)/2 =
    [W₁/2 W₂/2](x₁, x₂) + (b₁+b₂)/2``. Not when a head is an output of its own, and only once both
    are plain (their norms differ).
    """
    one, other = model.params.head, model.params.head_dist
    if {"logits_head", "logits_dist"} & set(model.plan.outputs) or not _can_merge(one, other):
        return model, 0
    bias = (one.bias.astype(np.float64) + other.bias) / 2
    if isinstance(one, Head):
        weight = np.concatenate([one.weight, other.weight], axis=1).astype(np.float64) / 2
        both = replace(one, weight=weight, bias=bias, count=one.count + other.count)
    else:
        both = replace(one, weight=(one.weight.astype(np.float64) + other.weight) / 2, bias=bias)
    return with_params(model, replace(model.params, head=both, head_dist=None), 1)


def _can_merge(*heads: Linear | None) -> bool:
    return all(head and head.is_plain and head.bias is not None for head in heads)


def fold_input_normalization(model: Model) -> tuple[Model, int]:
    """Move ``1/(255·std)`` into the first convolution, where the input is uint8 pixels.

    ``W·((x/255 - μ)/σ) = (W/(255·σ))·(x - 255·μ)``, per input channel. The subtraction stays
    in front: the convolution's zero padding happens after normalisation and stands for the
    mean, so the border is exact; folding it too would need a border correction, which costs
    as much as it saves (docs/decisions.md). Patches are not padded: there it goes into the bias.
    """
    if model.plan.pixels is None or model.plan.pixels_folded:
        return model, 0
    if layers_of(model.params, Embedding):
        return _fold_into_patches(model, *model.plan.pixels)
    std = np.asarray(model.plan.pixels[1], np.float64)
    first = next(iter(layers_of(model.params, Conv)), None)

    def fold(path: str, conv: Conv) -> Conv:
        if path != first or not conv.is_plain:
            return conv
        return replace(conv, weight=conv.weight / (255 * std)[None, :, None, None])

    params, count = transform(model.params, Conv, fold)
    model, count = with_params(model, params, count)
    return (model.with_plan(pixels_folded=True) if count else model), count


def _fold_into_patches(
    model: Model, means: Sequence[float], deviations: Sequence[float]
) -> tuple[Model, int]:
    """``W·((x/255 - μ)/σ) + b = (W/(255·σ))·x + (b - W·(μ/σ))``."""
    mean, std = np.asarray(means, np.float64), np.asarray(deviations, np.float64)

    def fold(_: str, embedding: Embedding) -> Embedding:
        if not embedding.is_plain or embedding.padding:
            return embedding
        shift = -np.einsum("oikl,i->o", embedding.weight.astype(np.float64), mean / std)
        weight = embedding.weight / (255 * std)[None, :, None, None]
        if embedding.table is None:
            bias = shift if embedding.bias is None else shift + embedding.bias
            return replace(embedding, weight=weight, bias=bias)
        # The bias stands there, in the rows of the patches.
        table = embedding.table.copy()
        table[len(table) - math.prod(embedding.grid) :] += shift
        return replace(embedding, weight=weight, table=table)

    params, count = transform(model.params, Embedding, fold)
    if not count:
        return model, 0
    pixels = ((0.0,) * len(mean), tuple(deviations))
    return replace(model, params=params).with_plan(pixels=pixels, pixels_folded=True), count
