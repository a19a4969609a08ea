"""LeViT's blocks. Shapes: B images, N tokens of a stage, H heads of widths Dk and Dv."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from levit.models.layers import Conv, DotProductAttention, Linear, Mlp, RelativeBias, activate
from levit.models.ops import Ops

__all__ = ["Attention", "LevitBlock", "LevitParams", "LevitStage"]


@dataclass(frozen=True, eq=False)
class Attention(DotProductAttention):
    """Multi-head attention with a bias by relative position (paper, section 4.3).

    Queries come from every `stride`-th token along each side of the grid: 1 in a block, 2 in
    a downsampling block.
    """

    bias: RelativeBias
    grid: tuple[int, int]
    stride: int
    activation: str

    @property
    def query_grid(self) -> tuple[int, int]:
        """(height, width) of the queries, and so of what comes out."""
        height, width = self.grid
        return -(-height // self.stride), -(-width // self.stride)

    def apply(self, ops: Ops, x: Any) -> Any:
        """(B, N, C) → (B, Nq, C')."""
        queries = x
        if self.stride > 1:
            queries = ops.reshape(x, (0, *self.grid, -1))
            queries = ops.subsample(queries, (1, 2), self.stride)
            queries = ops.reshape(queries, (0, math.prod(self.query_grid), -1))  # (B, Nq, C)
        q, k, v = self._parts(ops, queries, x)
        y = ops.attend(q, k, v, scale=self.scale, bias=self.bias.apply)  # (B, Nq, H, Dv)
        y = ops.reshape(y, (0, math.prod(self.query_grid), -1))  # (B, Nq, H·Dv)
        with ops.scope("proj"):
            return self.proj.apply(ops, activate(ops, y, self.activation))

    def apply_channels_first(self, ops: Ops, x: Any) -> Any:
        """(B, C, h, w) → (B, C', h', w'): no token is moved, q·k and v·pᵀ read them in place."""
        parts = []
        for name, layer, stride in (("q", self.q, self.stride), ("k", self.k, 1), ("v", self.v, 1)):
            with ops.scope(name):
                y = layer.apply_pointwise(ops, x, stride)
                tokens = math.prod(self.query_grid if name == "q" else self.grid)
                parts.append(ops.reshape(y, (0, self.heads, -1, tokens)))  # (B, H, D, N)
        q, k, v = parts
        scores = ops.matmul(ops.transpose(q, (0, 1, 3, 2)), k)  # (B, H, Nq, N)
        if self.scale is not None:
            scores = ops.multiply(scores, ops.constant(np.array(self.scale), "scale"))
        weights = ops.softmax(ops.add(scores, self.bias.apply(ops)))
        y = ops.matmul(v, ops.transpose(weights, (0, 1, 3, 2)))  # (B, H, Dv, Nq)
        y = ops.reshape(y, (0, -1, *self.query_grid))  # (B, H·Dv, h', w')
        with ops.scope("proj"):
            y = activate(ops, y, self.activation)
            return self.proj.apply_pointwise(ops, y)


@dataclass(frozen=True, eq=False)
class LevitBlock:
    """Attention and MLP. The attention of a downsampling block has no residual around it."""

    attn: Attention
    mlp: Mlp


@dataclass(frozen=True, eq=False)
class LevitStage:
    """An optional downsampling block, then the stage's blocks."""

    downsample: LevitBlock | None
    blocks: tuple[LevitBlock, ...]


@dataclass(frozen=True, eq=False)
class LevitParams:
    """Root of LeViT's tree of layers.

    ``head_dist`` is the distillation head; None where there is none, and after merge_heads,
    when ``head`` is the mean of both.
    """

    stem: tuple[Conv, ...]
    stages: tuple[LevitStage, ...]
    head: Linear | None
    head_dist: Linear | None
