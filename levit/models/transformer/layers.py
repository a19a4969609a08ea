"""Blocks of vision transformers. Shapes: B images, N tokens, H heads of width D, C = H·D."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from levit.models.layers import Conv, DotProductAttention, LayerNorm, Linear, Mlp
from levit.models.ops import Array, NumpyOps, Ops, attend

__all__ = [
    "Attention",
    "Embedding",
    "GatedAttention",
    "Head",
    "LayerScale",
    "PositionAttention",
    "TransformerBlock",
    "TransformerParams",
]


@dataclass(frozen=True, eq=False)
class Attention(DotProductAttention):
    """Multi-head self-attention. What comes out belongs to the queries' tokens."""

    def apply(self, ops: Ops, queries: Any, x: Any) -> Any:
        """(B, Nq, C), (B, N, C) → (B, Nq, C)."""
        q, k, v = self._parts(ops, queries, x)
        y = ops.reshape(self._attend(ops, q, k, v), (0, 0, len(self.v.weight)))  # (B, Nq, C)
        with ops.scope("proj"):
            return self.proj.apply(ops, y)

    def _attend(self, ops: Ops, q: Any, k: Any, v: Any) -> Any:
        """(B, Nq, H, D), (B, N, H, D) twice → (B, Nq, H, D)."""
        return ops.attend(q, k, v, scale=self.scale)


@dataclass(frozen=True, eq=False)
class PositionAttention:
    """Attention by relative position alone, and the gate between it and that by content.

    ``softmax(w·(Δcolumn, Δrow, Δcolumn² + Δrow²) + b)`` over the keys (ConViT, equation 5), with
    ``weight`` (H, 3), ``bias`` (H,), ``gate`` (H,). Once folded, ``table`` (H, N, N) is that times
    σ(gate), and ``rest`` (H, 1, 1) is 1 - σ(gate); or that times e^gate, and ``rest`` is None
    because the values have it.
    """

    weight: Array
    bias: Array
    gate: Array
    grid: tuple[int, int]
    table: Array | None = None
    rest: Array | None = None

    @property
    def is_open(self) -> bool:
        """True where the values hold the gate's remainder, so that rows sum to ``1 + e^gate``."""
        return self.table is not None and self.rest is None

    def mix(self, ops: Ops, weights: Any) -> Any:
        """(B, H, N, N) by content → by content and position."""
        if self.table is not None:
            if self.rest is not None:
                weights = ops.multiply(weights, ops.constant(self.rest, "rest"))
            return ops.add(weights, ops.constant(self.table, "table"))
        table, gate = self._positions(ops)
        one = ops.constant(np.array(1.0), "one")
        minus = ops.multiply(gate, ops.constant(np.array(-1.0), "minus"))
        kept = ops.multiply(weights, ops.add(one, minus))
        return ops.normalize_sum(ops.add(kept, ops.multiply(table, gate)))

    def _positions(self, ops: Ops) -> tuple[Any, Any]:
        """(H, N, N) softmax over the keys, (H, 1, 1) gate."""
        offsets = ops.constant(relative_offsets(self.grid), "offsets")  # (N, N, 3)
        scores = ops.linear(offsets, self.weight, self.bias)
        table = ops.softmax(ops.transpose(scores, (2, 0, 1)))
        return table, ops.sigmoid(ops.constant(self.gate[:, None, None], "gate"))

    def fold(self) -> PositionAttention:
        """The static table, in float64."""
        if self.table is not None:
            return self
        table, gate = self._positions(NumpyOps())
        # The sigmoid of the opposite: 1 - σ(g) has no digits left where σ(g) is close to 1.
        rest = NumpyOps().sigmoid(-self.gate.astype(np.float64)[:, None, None])
        return replace(self, table=table * gate, rest=rest)

    def ungated(self) -> PositionAttention:
        """The table for weights by content that the gate has left as they are, in float64."""
        table, _ = self._positions(NumpyOps())
        gate = np.exp(self.gate.astype(np.float64))[:, None, None]
        return replace(self, table=table * gate, rest=None)


def relative_offsets(grid: tuple[int, int]) -> Array:
    """(Δcolumn, Δrow, Δcolumn² + Δrow²) from each query to each key, in patches: (N, N, 3)."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    across = columns[None, :] - columns[:, None]
    down = rows[None, :] - rows[:, None]
    return np.stack([across, down, across**2 + down**2], axis=-1).astype(np.float64)


@dataclass(frozen=True, eq=False)
class GatedAttention(Attention):
    """Gated positional self-attention (ConViT, equation 7)."""

    mixes_weights: ClassVar[bool] = True

    position: PositionAttention

    def _attend(self, ops: Ops, q: Any, k: Any, v: Any) -> Any:
        def mix(weights: Any) -> Any:
            with ops.scope("position"):
                return self.position.mix(ops, weights)

        return attend(ops, q, k, v, scale=self.scale, mix=mix)


@dataclass(frozen=True, eq=False)
class LayerScale:
    """``gamma`` (C,) times what a branch adds, channel by channel (CaiT, arXiv:2103.17239)."""

    gamma: Array

    def apply(self, ops: Ops, x: Any) -> Any:
        """(B, N, C) → the same shape."""
        return ops.multiply(x, ops.constant(self.gamma, "gamma"))


@dataclass(frozen=True, eq=False)
class TransformerBlock:
    """Attention and MLP, each behind a LayerNorm and beside a residual.

    ``scale1`` and ``scale2`` are None where there are none, and once they are in the Linears before
    them.
    """

    norm1: LayerNorm
    attn: Attention
    norm2: LayerNorm
    mlp: Mlp
    scale1: LayerScale | None = None
    scale2: LayerScale | None = None

    def apply(self, ops: Ops, x: Any, queries: int | None = None) -> Any:
        """(B, N, C) → the same shape, or of the first `queries` tokens only (B, queries, C)."""
        x, normed = self._attend(ops, x, queries)
        with ops.scope("mlp"):
            added = self.mlp.apply(ops, normed)
        added = _scaled(ops, "scale2", self.scale2, added)
        with ops.scope("mlp"):
            return ops.add(x, added)

    def apply_averaged(self, ops: Ops, x: Any, average: Callable[[Any], Any]) -> Any:
        """(B, N, C) → the average over tokens of the result (B, C), before the last Linear.

        Args:
            average: (B, N, …) → (B, …).
        """
        x, normed = self._attend(ops, x, None)
        with ops.scope("mlp"):
            hidden = average(self.mlp.hidden(ops, normed))
            with ops.scope("down"):
                added = self.mlp.down.apply(ops, hidden)
        added = _scaled(ops, "scale2", self.scale2, added)
        with ops.scope("mlp"):
            return ops.add(average(x), added)

    def _attend(self, ops: Ops, x: Any, queries: int | None) -> tuple[Any, Any]:
        """The stream behind the attention, and normalised for the MLP."""
        with ops.scope("norm1"):
            normed = self.norm1.apply(ops, x)
        wanted = normed
        if queries is not None:
            with ops.scope("read"):
                x = ops.narrow(x, 1, 0, queries)
                wanted = ops.narrow(normed, 1, 0, queries)
        with ops.scope("attn"):
            added = self.attn.apply(ops, wanted, normed)
        added = _scaled(ops, "scale1", self.scale1, added)
        with ops.scope("attn"):
            x = ops.add(x, added)
        with ops.scope("norm2"):
            return x, self.norm2.apply(ops, x)


def _scaled(ops: Ops, name: str, scale: LayerScale | None, x: Any) -> Any:
    if scale is None:
        return x
    with ops.scope(name):
        return scale.apply(ops, x)


@dataclass(frozen=True, eq=False)
class Embedding(Conv):
    """Patches → tokens: a convolution, then tokens in front and positions added.

    As trained, ``tokens`` (T, C) are put in front of the patches of a `grid` and ``positions``
    (T + N, C) are added to all, or (N, C) to the patches alone. Once folded, ``tokens`` is None and
    ``table`` (T + N, C) holds both, and the convolution's bias.
    """

    grid: tuple[int, int] = (1, 1)
    tokens: Array | None = None
    positions: Array | None = None
    table: Array | None = None

    def apply(self, ops: Ops, x: Any) -> Any:
        """(B, channels, height, width) → (B, T + N, C)."""
        count = math.prod(self.grid)
        x = super().apply(ops, x)
        x = ops.transpose(x, (0, 2, 3, 1))  # (B, h, w, C)
        x = ops.reshape(x, (0, count, -1))  # (B, N, C)
        if self.table is not None:
            if len(self.table) > count:
                x = ops.prepend_zeros(x, len(self.table) - count)
            return ops.add(x, ops.constant(self.table, "table"))
        of_patches = self.positions is not None and len(self.positions) == count
        if of_patches:
            x = self._with_positions(ops, x)
        if self.tokens is not None:
            x = with_tokens(ops, x, self.tokens, count)
        return x if of_patches else self._with_positions(ops, x)

    def _with_positions(self, ops: Ops, x: Any) -> Any:
        if self.positions is None:
            return x
        return ops.add(x, ops.constant(self.positions, "positions"))


def with_tokens(ops: Ops, x: Any, tokens: Array, count: int) -> Any:
    """(B, N, C) with `tokens` (T, C) in front: (B, T + N, C), `count` being N."""
    table = np.pad(tokens, ((0, count), (0, 0)))
    return ops.add(ops.prepend_zeros(x, len(tokens)), ops.constant(table, "tokens"))


@dataclass(frozen=True, eq=False)
class Head(Linear):
    """A classifier over `count` tokens side by side, from the `first`: ``weight`` (K, count·C)."""

    first: int = 0
    count: int = 1

    def apply(self, ops: Ops, x: Any) -> Any:
        """(B, R, C) → (B, K)."""
        read = ops.narrow(x, 1, self.first, self.count)
        return super().apply(ops, ops.reshape(read, (0, self.weight.shape[1])))


@dataclass(frozen=True, eq=False)
class TransformerParams:
    """Root of the tree of layers.

    ``norm_pre`` stands before the blocks, ``norm`` behind them, or ``fc_norm`` behind the pooling.
    ``late_tokens`` (1, C) is the class token where it enters after the local blocks. ``head`` reads
    tokens, or as a plain Linear their mean. ``head_dist`` is None where there is none, and after
    merge_heads, when ``head`` reads both tokens. ``pooler`` is transformers' (P, C).
    """

    embed: Embedding
    blocks: tuple[TransformerBlock, ...]
    norm: LayerNorm | None
    late_tokens: Array | None = None
    head: Linear | None = None
    head_dist: Linear | None = None
    pooler: Linear | None = None
    norm_pre: LayerNorm | None = None
    fc_norm: LayerNorm | None = None
