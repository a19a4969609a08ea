"""Parameters and multiply-accumulates of a config, without its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from levit.models.model import Family, Model, Plan
from levit.models.ops import Array, Ops, Scopes, attend

__all__ = ["Counts", "ShapeOps", "count"]

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Sizes of a model and of its work on one image.

    Attributes:
        parameters: learnable values: weights, biases, norm scales and shifts, bias tables.
        macs: multiply-accumulates of convolutions, linears and both attention products.
    """

    parameters: int
    macs: int


class ShapeOps(Scopes):
    """Ops whose values are shapes, and which add up multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def constant(self, value: Array, name: str) -> Shape:
        return np.shape(value)

    def take(self, table: Array, index: Array, name: str) -> Shape:
        return (len(table), *index.shape)

    def linear(self, x: Shape, weight: Array, bias: Array | None) -> Shape:
        self.macs += math.prod(x) * len(weight)
        return (*x[:-1], len(weight))

    def conv(self, x: Shape, weight: Array, bias: Array | None, stride: int, padding: int) -> Shape:
        out_channels, _, *kernel = weight.shape
        size = [(n + 2 * padding - k) // stride + 1 for n, k in zip(x[2:], kernel, strict=True)]
        self.macs += x[0] * math.prod(size) * math.prod(weight.shape)
        return (x[0], out_channels, *size)

    def batch_norm(self, x: Shape, *parameters: Any, **options: Any) -> Shape:
        return x

    def matmul(self, a: Shape, b: Shape) -> Shape:
        self.macs += math.prod(a) * b[-1]
        return (*a[:-1], b[-1])

    def add(self, a: Shape, b: Shape) -> Shape:
        return np.broadcast_shapes(a, b)

    multiply = add

    def softmax(self, x: Shape) -> Shape:
        return x

    def attend(
        self,
        q: Shape,
        k: Shape,
        v: Shape,
        *,
        scale: float | None = None,
        bias: Callable[[Ops], Shape] | None = None,
    ) -> Shape:
        shape: Shape = attend(self, q, k, v, scale=scale, bias=bias)
        return shape

    cast = sigmoid = tanh = normalize_sum = gelu = silu = hard_swish = softmax

    def layer_norm(self, x: Shape, weight: Array | None, bias: Array | None, eps: float) -> Shape:
        return x

    def reshape(self, x: Shape, shape: Sequence[int]) -> Shape:
        kept = [x[i] if n == 0 else n for i, n in enumerate(shape)]
        rest = math.prod(x) // -math.prod(kept) if -1 in kept else 0
        return tuple(rest if n == -1 else n for n in kept)

    def transpose(self, x: Shape, axes: Sequence[int]) -> Shape:
        return tuple(x[axis] for axis in axes)

    def subsample(self, x: Shape, axes: Sequence[int], stride: int) -> Shape:
        return tuple(-(-n // stride) if i in axes else n for i, n in enumerate(x))

    def narrow(self, x: Shape, axis: int, start: int, length: int) -> Shape:
        return tuple(length if i == axis else n for i, n in enumerate(x))

    def prepend_zeros(self, x: Shape, count: int) -> Shape:
        return (x[0], count + x[1], *x[2:])

    def mean(self, x: Shape, axes: tuple[int, ...]) -> Shape:
        return tuple(n for i, n in enumerate(x) if i not in axes)


class _CountingWeights:
    """Tensors of the right shape that take no memory, counted as they are handed out."""

    def __init__(self, unlearned: Sequence[str]) -> None:
        self.parameters = 0
        self._unlearned = tuple(unlearned)

    def tensor(self, key: str, shape: Shape) -> Array:
        if not key.endswith(self._unlearned):
            self.parameters += math.prod(shape)
        return np.broadcast_to(np.float32(1), shape)

    def constant(self, key: str, value: Array) -> None:
        pass


def count(family: Family, config: Any) -> Counts:
    """Count by building the model out of shapes and applying it once.

    count(FAMILIES["levit"], config).macs
    """
    weights = _CountingWeights(("running_mean", "running_var"))
    params = family.build(config, family.keymaps[0], weights)
    plan = Plan(outputs=family.outputs(config)[:1])
    ops = ShapeOps()
    Model(family, config, params, plan).forward(ops, (1, config.in_channels, *config.image_size))
    return Counts(parameters=weights.parameters, macs=ops.macs)
