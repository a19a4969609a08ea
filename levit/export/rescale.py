"""Rescaling: values that float16 cannot hold, by powers of two that cancel elsewhere.

Passes as in `passes.py`, which besides the model take the ranges of its values: each fires only
where a value, or a weight beside it, would leave float16. A power of two changes an exponent and
no digit, so that float64 gives the same numbers bit for bit. After fold_batchnorm and
drop_key_bias; the ranges stay true for the passes after, which read other values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from levit.export.passes.residual import (
    is_folded,
    named_blocks,
    scaled_columns,
    scaled_rows,
    stream_layers,
    with_stream,
)
from levit.export.precision import PRECISIONS
from levit.export.ranges import Ranges
from levit.models.layers import Conv, Linear, Mlp
from levit.models.levit.layers import Attention, LevitBlock, LevitParams, LevitStage
from levit.models.model import Model
from levit.models.ops import Array

__all__ = ["HEADROOM", "LIMIT", "RESCALINGS", "Rescaling"]

Rescaling = Callable[[Model, Ranges], tuple[Model, int]]

# The ranges are those of a few pictures: what another one does may be this much more.
HEADROOM: Final = 16.0
_HALF: Final = PRECISIONS["fp16"]
LIMIT: Final = _HALF.largest / HEADROOM

# Where the largest value of a rescaled channel comes to lie: 2^12 under the top of float16 for what
# other pictures do, and 2^18 over the smallest that has all its digits, for its small values.
_MIDDLE: Final = 2.0**4
# How far from there, or how unlike each other, values must be for weights to be mended by it.
_FAR: Final = 2.0**4
# The most that an activation is scaled by: HardSigmoid's alpha is s/6, and must be a float16.
_MOST: Final = 2.0**16


def rescale_stream(model: Model, ranges: Ranges) -> tuple[Model, int]:
    """The residual stream of a stage, channel by channel.

    ``x' = f·x`` with ``f = 2^n`` per channel: rows and biases of all that is added to the
    stream times f (the last convolution of the stem or the projection of the downsampling
    attention, every ``proj`` and every ``down``), columns of all that reads it divided by f
    (q, k, v and ``up``, the next stage's q, k and v, the heads); the token mean is linear.
    Exact: between those there are only sums. Fires for the channels out of range, and for
    those so large or small that the weights around them are out of range or all too small.
    Not for the last stage where its tokens or their mean are outputs.

    Returns:
        The model, and the number of stages.
    """
    params = model.params
    if not isinstance(params, LevitParams) or not is_folded(params):
        return model, 0
    count = 0
    for s in range(len(params.stages)):
        if s == len(params.stages) - 1 and {"features", "embedding"} & set(model.plan.outputs):
            continue
        names = _stream_names(params, s)
        peaks = np.max([ranges.channels(name) for name in names if name in ranges.high], axis=0)
        rows, columns = stream_layers(params, s)
        out = peaks > LIMIT
        # Weights are mended only by what is far from the middle: others are at fault elsewhere.
        heavy = np.max([np.abs(layer.weight).max(axis=0) for layer in columns], axis=0)
        if any(_is_too_small(layer.weight) for layer in columns):
            out |= peaks > _MIDDLE * _FAR
        if any(_is_too_small(layer.weight) for layer in rows):
            out |= peaks < _MIDDLE / _FAR
        out |= (heavy > _HALF.largest) & (peaks < _MIDDLE / _FAR)
        out &= peaks > 0
        factor = np.where(out, _power_of_two(_MIDDLE / np.where(out, peaks, 1)), 1)
        if (factor != 1).any():
            params = with_stream(params, s, factor)
            count += 1
    return (replace(model, params=params), count) if count else (model, 0)


def rescale_queries(model: Model, ranges: Ranges) -> tuple[Model, int]:
    """Queries times ``g = 2^n``, keys divided by it, channel by channel: ``(g·q)·(k/g) = q·k``.

    Exact: nothing else reads them. g makes the two as large as each other, which is the best
    that can be done for both. Fires for the channels where one is out of range, and where they
    are so unlike that the weights of one are out of range or all too small.

    Returns:
        The model, and the number of attentions.
    """

    def rescale(name: str, attention: Attention) -> Attention:
        q, k = attention.q, attention.k
        peaks = [ranges.channels(f"{name}.{part}/Conv") for part in ("q", "k")]
        alive = (peaks[0] > 0) & (peaks[1] > 0)
        ratio = np.where(alive, peaks[1], 1) / np.where(alive, peaks[0], 1)
        factor = _power_of_two(np.sqrt(ratio))
        out = np.maximum(*peaks) > LIMIT
        weights = np.max([_of_rows(layer) for layer in (q, k)], axis=0) > _HALF.largest
        if _is_too_small(q.weight) or _is_too_small(k.weight):
            weights[:] = True
        out |= weights & (np.maximum(factor, 1 / factor) > _FAR)
        if (factor[out] == 1).all():
            return attention
        factor = np.where(out, factor, 1.0)
        return replace(attention, q=scaled_rows(q, factor), k=scaled_rows(k, 1 / factor))

    return _each_attention(model, rescale)


def rescale_activations(model: Model, ranges: Ranges) -> tuple[Model, int]:
    """What goes through an activation, divided by ``s = 2^n`` before it and times s after it.

    ``h(y) = y·clip(y + 3, 0, 6)/6``, so ``h(y)/s = y'·clip(s·y' + 3, 0, 6)/6`` of
    ``y' = y/s``, which is ``y'·HardSigmoid(y', alpha = s/6)``; and ``silu(y)/s =
    y'·sigmoid(s·y')``. One s for all channels,
    the smallest that does, as what is small in front of an activation is what bends; larger
    where the weights after it would be all too small. In an MLP between ``up`` and ``down``; in
    an attention between v, whose means over tokens are linear, and ``proj``; in the stem
    between one convolution and the next, whose zero padding stays zero.

    Returns:
        The model, and the number of activations.
    """

    def scale_for(name: str, before: Conv | Linear, after: Conv | Linear) -> float:
        peak = ranges.peak(name)
        needed = max(peak / LIMIT, _of_rows(before).max() / _HALF.largest)
        if needed <= 1:
            return 1.0
        s = float(2.0 ** np.ceil(np.log2(needed)))
        while _is_too_small(after.weight * s) and peak / s > _MIDDLE * _FAR:
            s *= 2
        return min(_MOST, s)

    def in_mlp(name: str, mlp: Mlp) -> Mlp:
        s = scale_for(f"{name}.up/Conv", mlp.up, mlp.down)
        if s == 1:
            return mlp
        scale = mlp.activation_scale * s
        return replace(
            mlp,
            up=scaled_rows(mlp.up, 1 / s),
            down=scaled_columns(mlp.down, s),
            activation_scale=scale,
        )

    def in_attention(name: str, attention: Attention) -> Attention:
        s = scale_for(f"{name}.v/Conv", attention.v, attention.proj)
        if s == 1:
            return attention
        return replace(
            attention,
            v=scaled_rows(attention.v, 1 / s),
            proj=scaled_columns(attention.proj, s),
            activation_scale=attention.activation_scale * s,
        )

    model, count = _each_attention(model, in_attention)
    model, more = _each_mlp(model, in_mlp)
    model, in_stem = _each_stem_activation(model, scale_for)
    return model, count + more + in_stem


# The stream last: weights around it that the others have mended are no reason to.
RESCALINGS: Final[Sequence[Rescaling]] = (rescale_queries, rescale_activations, rescale_stream)


# ---------------------------------------------------------------------------- where


def _stream_names(params: LevitParams, s: int) -> list[str]:
    """What is added to the stream of stage `s`, and the stream after it, in a graph."""
    names = [] if s else [f"stem.{len(params.stem) - 1}/Conv"]
    for name, _ in named_blocks(params.stages[s], s):
        names += [f"{name}.attn.proj/Conv", f"{name}/Add", f"{name}.mlp.down/Conv"]
        names += [f"{name}.mlp/Add", f"{name}.mlp.down/Gemm", f"{name}.mlp.down/Add"]
    return names


def _each_attention(
    model: Model, function: Callable[[str, Attention], Attention]
) -> tuple[Model, int]:
    def change(name: str, block: LevitBlock) -> LevitBlock:
        attention = function(f"{name}.attn", block.attn)
        return block if attention is block.attn else replace(block, attn=attention)

    return _each_block(model, change)


def _each_mlp(model: Model, function: Callable[[str, Mlp], Mlp]) -> tuple[Model, int]:
    def change(name: str, block: LevitBlock) -> LevitBlock:
        mlp = function(f"{name}.mlp", block.mlp)
        return block if mlp is block.mlp else replace(block, mlp=mlp)

    return _each_block(model, change)


def _each_stem_activation(
    model: Model, scale_for: Callable[[str, Conv, Conv], float]
) -> tuple[Model, int]:
    params = model.params
    if not isinstance(params, LevitParams) or not is_folded(params):
        return model, 0
    stem, count = list(params.stem), 0
    scales = list(params.stem_scales or (1.0,) * (len(stem) - 1))
    for i in range(len(stem) - 1):
        s = scale_for(f"stem.{i}/Conv", stem[i], stem[i + 1])
        if s != 1:
            stem[i], stem[i + 1] = scaled_rows(stem[i], 1 / s), scaled_columns(stem[i + 1], s)
            scales[i] *= s
            count += 1
    if not count:
        return model, 0
    params = replace(params, stem=tuple(stem), stem_scales=tuple(scales))
    return replace(model, params=params), count


def _each_block(model: Model, change: Callable[[str, LevitBlock], LevitBlock]) -> tuple[Model, int]:
    params = model.params
    if not isinstance(params, LevitParams) or not is_folded(params):
        return model, 0
    count, stages = 0, []
    for s, stage in enumerate(params.stages):
        blocks = [(block, change(name, block)) for name, block in named_blocks(stage, s)]
        count += sum(new is not old for old, new in blocks)
        new = [block for _, block in blocks]
        downsample = None if stage.downsample is None else new.pop(0)
        stages.append(LevitStage(downsample, tuple(new)))
    if not count:
        return model, 0
    return replace(model, params=replace(params, stages=tuple(stages))), count


# ---------------------------------------------------------------------------- how


def _of_rows(layer: Conv | Linear) -> Array:
    """The largest weight or bias of each output channel."""
    rows: Array = np.abs(layer.weight).reshape(len(layer.weight), -1).max(axis=1)
    return rows if layer.bias is None else np.maximum(rows, np.abs(layer.bias))


def _is_too_small(weight: Array) -> bool:
    """Whether no weight has all its digits in float16."""
    return bool(0 < np.abs(weight).max() < _HALF.smallest)


def _power_of_two(value: Array) -> Array:
    """The nearest one, by its exponent."""
    powers: Array = np.exp2(np.round(np.log2(value)))
    return powers
