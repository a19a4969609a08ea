"""LeViT's residual stream: what adds to it in a stage, what reads it, its channels scaled."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from levit.models.layers import Conv, Linear
from levit.models.levit.layers import Attention, LevitBlock, LevitParams, LevitStage
from levit.models.ops import Array

__all__ = [
    "is_folded",
    "named_blocks",
    "scaled_columns",
    "scaled_rows",
    "stream_layers",
    "with_stream",
]

_Layer = TypeVar("_Layer", Conv, Linear)


def named_blocks(stage: LevitStage, s: int) -> list[tuple[str, LevitBlock]]:
    """(name, block) of stage number `s`, a downsampling one first."""
    named = [(f"stages.{s}.blocks.{b}", block) for b, block in enumerate(stage.blocks)]
    first = [] if stage.downsample is None else [(f"stages.{s}.downsample", stage.downsample)]
    return first + named


def stream_layers(params: LevitParams, s: int) -> tuple[list[Conv | Linear], list[Linear]]:
    """(those that add to the stream of stage `s`, those that read it)."""
    stage = params.stages[s]
    rows: list[Conv | Linear] = [] if s else [params.stem[-1]]
    columns: list[Linear] = []
    for _, block in named_blocks(stage, s):
        rows += [block.attn.proj, block.mlp.down]
        columns.append(block.mlp.up)
        if block is not stage.downsample:
            columns += [block.attn.q, block.attn.k, block.attn.v]
    if s + 1 < len(params.stages):
        following = params.stages[s + 1].downsample
        assert following is not None
        columns += [following.attn.q, following.attn.k, following.attn.v]
    else:
        columns += [head for head in (params.head, params.head_dist) if head is not None]
    return rows, columns


def with_stream(params: LevitParams, s: int, factor: Array) -> LevitParams:
    """Times `factor` (C,), channel by channel, in all that adds to it; divided in all that reads.

    Exact: between those there are only sums, and the token mean is linear.
    """
    stages = list(params.stages)

    def read(attention: Attention) -> Attention:
        q, k, v = (scaled_columns(x, 1 / factor) for x in (attention.q, attention.k, attention.v))
        return replace(attention, q=q, k=k, v=v)

    def scaled(block: LevitBlock, *, downsamples: bool) -> LevitBlock:
        attention = block.attn if downsamples else read(block.attn)
        mlp = block.mlp
        return LevitBlock(
            replace(attention, proj=scaled_rows(attention.proj, factor)),
            replace(mlp, up=scaled_columns(mlp.up, 1 / factor), down=scaled_rows(mlp.down, factor)),
        )

    stage = stages[s]
    downsample = stage.downsample
    stages[s] = LevitStage(
        None if downsample is None else scaled(downsample, downsamples=True),
        tuple(scaled(block, downsamples=False) for block in stage.blocks),
    )
    if s == 0:
        params = replace(params, stem=(*params.stem[:-1], scaled_rows(params.stem[-1], factor)))
    if s + 1 < len(stages):
        following = stages[s + 1].downsample
        assert following is not None
        following = replace(following, attn=read(following.attn))
        stages[s + 1] = replace(stages[s + 1], downsample=following)
    else:
        head, dist = (
            None if layer is None else scaled_columns(layer, 1 / factor)
            for layer in (params.head, params.head_dist)
        )
        params = replace(params, head=head, head_dist=dist)
    return replace(params, stages=tuple(stages))


def is_folded(params: LevitParams) -> bool:
    """Whether every layer is a plain affine map, so that a scale has somewhere to go."""
    blocks = [b for s, stage in enumerate(params.stages) for _, b in named_blocks(stage, s)]
    linears = [x for b in blocks for x in (b.attn.q, b.attn.k, b.attn.v, b.attn.proj)]
    linears += [x for b in blocks for x in (b.mlp.up, b.mlp.down)]
    linears += [head for head in (params.head, params.head_dist) if head is not None]
    plain = all(x.norm is None and x.norm_before is None for x in linears)
    return plain and all(conv.norm is None for conv in params.stem)


def scaled_rows(layer: _Layer, factor: Array | float) -> _Layer:
    """What the layer makes, times `factor` (O,)."""
    factors = np.broadcast_to(np.asarray(factor, np.float64), len(layer.weight))
    shape = (-1,) + (1,) * (layer.weight.ndim - 1)
    bias = None if layer.bias is None else layer.bias * factors
    return replace(layer, weight=layer.weight * factors.reshape(shape), bias=bias)


def scaled_columns(layer: _Layer, factor: Array | float) -> _Layer:
    """The layer on an input that is ``1 / factor`` (I,) of what it was."""
    factors = np.broadcast_to(np.asarray(factor, np.float64), layer.weight.shape[1])
    shape = (1, -1) + (1,) * (layer.weight.ndim - 2)
    return replace(layer, weight=layer.weight * factors.reshape(shape))
