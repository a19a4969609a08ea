"""The operations that a model is written in, and the NumPy reference of them.

A layer calls these on values whose type only the implementation knows: `NumpyOps` computes,
the exporter's ops emit graph nodes, `ShapeOps` counts. Weights are always NumPy arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Array", "NumpyOps", "Ops", "Scopes", "attend"]

Array = NDArray[Any]


class Ops(Protocol):
    """Operations of a model. `x`, `a`, `b` are values of the implementation, batch first."""

    def scope(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Name the values made inside, so that graph, ranges and errors share names."""
        ...

    def full_precision(self) -> contextlib.AbstractContextManager[None]:
        """Compute inside in float32 at least, whatever the precision of the rest."""
        ...

    def constant(self, value: Array, name: str) -> Any:
        """A static table."""
        ...

    def take(self, table: Array, index: Array, name: str) -> Any:
        """``table[:, index]``: (H, P), (Nq, Nk) → (H, Nq, Nk)."""
        ...

    def linear(self, x: Any, weight: Array, bias: Array | None) -> Any:
        """(…, I) → (…, O), `weight` (O, I)."""
        ...

    def conv(self, x: Any, weight: Array, bias: Array | None, stride: int, padding: int) -> Any:
        """(B, I, H, W) → (B, O, H', W'), `weight` (O, I, k, k), zero padding."""
        ...

    def batch_norm(
        self, x: Any, scale: Array, shift: Array, mean: Array, var: Array, eps: float, axis: int
    ) -> Any:
        """``(x - mean) / sqrt(var + eps) * scale + shift`` along `axis`."""
        ...

    def matmul(self, a: Any, b: Any) -> Any:
        """Matrix product over the last two axes, batched over the others."""
        ...

    def add(self, a: Any, b: Any) -> Any:
        """Sum, broadcast from the right."""
        ...

    def multiply(self, a: Any, b: Any) -> Any:
        """Product, broadcast from the right."""
        ...

    def softmax(self, x: Any) -> Any:
        """Softmax over the last axis."""
        ...

    def attend(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        scale: float | None = None,
        bias: Callable[[Ops], Any] | None = None,
    ) -> Any:
        """Multi-head attention ``softmax(q·kᵀ·scale + bias)·v``, whole, at the path of its layer.

        (B, Nq, H, Dk), (B, N, H, Dk), (B, N, H, Dv) → (B, Nq, H, Dv); `bias` makes (H, Nq, N).
        The function `attend` is what it is by the other operations.
        """
        ...

    def layer_norm(self, x: Any, weight: Array | None, bias: Array | None, eps: float) -> Any:
        """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis."""
        ...

    def normalize_sum(self, x: Any) -> Any:
        """``x / sum(x)`` over the last axis."""
        ...

    def gelu(self, x: Any) -> Any:
        """``x * Φ(x)``, Φ the normal distribution's: ``(1 + erf(x / √2)) / 2``."""
        ...

    def sigmoid(self, x: Any) -> Any:
        """``1 / (1 + exp(-x))``."""
        ...

    def tanh(self, x: Any) -> Any:
        """The hyperbolic tangent."""
        ...

    def hard_swish(self, x: Any) -> Any:
        """``x * clip(x + 3, 0, 6) / 6``."""
        ...

    def silu(self, x: Any) -> Any:
        """``x * sigmoid(x)``."""
        ...

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        """Reshape as ONNX does: 0 keeps the axis at that place, one -1 takes the rest."""
        ...

    def transpose(self, x: Any, axes: Sequence[int]) -> Any:
        """Permute the axes."""
        ...

    def subsample(self, x: Any, axes: Sequence[int], stride: int) -> Any:
        """Every `stride`-th entry along each of `axes`, from the first."""
        ...

    def narrow(self, x: Any, axis: int, start: int, length: int) -> Any:
        """`length` entries of an axis, from `start`."""
        ...

    def prepend_zeros(self, x: Any, count: int) -> Any:
        """(B, N, C) → (B, count + N, C), the first `count` tokens zero."""
        ...

    def mean(self, x: Any, axes: tuple[int, ...]) -> Any:
        """Mean over `axes`, which go."""
        ...

    def cast(self, x: Any) -> Any:
        """uint8 input → a float type."""
        ...


def attend(
    ops: Ops,
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float | None = None,
    bias: Callable[[Ops], Any] | None = None,
    mix: Callable[[Any], Any] | None = None,
) -> Any:
    """`Ops.attend` by two products and a softmax.

    Args:
        mix: changes the weights (B, H, Nq, N) between the softmax and the values.
    """
    scores = ops.matmul(
        ops.transpose(q, (0, 2, 1, 3)),  # (B, H, Nq, Dk)
        ops.transpose(k, (0, 2, 3, 1)),  # (B, H, Dk, N)
    )
    if scale is not None:
        scores = ops.multiply(scores, ops.constant(np.array(scale), "scale"))
    if bias is not None:
        scores = ops.add(scores, bias(ops))
    weights = ops.softmax(scores)
    if mix is not None:
        weights = mix(weights)
    y = ops.matmul(weights, ops.transpose(v, (0, 2, 1, 3)))  # (B, H, Nq, Dv)
    return ops.transpose(y, (0, 2, 1, 3))


class Scopes:
    """The stack of names behind ``ops.scope``."""

    def __init__(self) -> None:
        self._names: list[str] = []

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Enter a name for the length of a block."""
        self._names.append(name)
        try:
            yield
        finally:
            self._names.pop()

    def full_precision(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to do where all is of one type."""
        return contextlib.nullcontext()

    @property
    def path(self) -> str:
        """The names that are entered, joined by dots."""
        return ".".join(self._names)


class NumpyOps(Scopes):
    """The reference: plain NumPy, float64 unless told otherwise."""

    def __init__(self, dtype: DTypeLike = np.float64) -> None:
        super().__init__()
        self.dtype = np.dtype(dtype)

    def _array(self, value: Array) -> Array:
        return np.asarray(value, self.dtype)

    def constant(self, value: Array, name: str) -> Array:
        return self._array(value)

    def take(self, table: Array, index: Array, name: str) -> Array:
        return self._array(table)[:, index]

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        # One 2-D product, not a stack of small ones: BLAS runs it several times faster.
        rows = x.reshape(-1, x.shape[-1]) @ self._array(weight).T
        product: Array = rows.reshape(*x.shape[:-1], weight.shape[0])
        return product if bias is None else product + self._array(bias)

    def conv(self, x: Array, weight: Array, bias: Array | None, stride: int, padding: int) -> Array:
        out_channels, in_channels, kernel_h, kernel_w = weight.shape
        batch, _, height, width = x.shape
        if (kernel_h, kernel_w, padding) == (1, 1, 0):
            return self._pointwise(x[:, :, ::stride, ::stride], weight, bias)
        padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        out_h = (height + 2 * padding - kernel_h) // stride + 1
        out_w = (width + 2 * padding - kernel_w) // stride + 1
        columns = np.empty((batch, in_channels, kernel_h, kernel_w, out_h, out_w), x.dtype)
        for i in range(kernel_h):
            for j in range(kernel_w):
                columns[:, :, i, j] = padded[
                    :, :, i : i + stride * out_h : stride, j : j + stride * out_w : stride
                ]
        flat = self._array(weight).reshape(out_channels, -1)
        y: Array = flat @ columns.reshape(batch, -1, out_h * out_w)
        y = y.reshape(batch, out_channels, out_h, out_w)
        return y if bias is None else y + self._array(bias)[:, None, None]

    def _pointwise(self, x: Array, weight: Array, bias: Array | None) -> Array:
        batch, channels, height, width = x.shape
        flat = self._array(weight[:, :, 0, 0])
        y: Array = flat @ x.reshape(batch, channels, height * width)
        y = y.reshape(batch, len(weight), height, width)
        return y if bias is None else y + self._array(bias)[:, None, None]

    def batch_norm(
        self, x: Array, scale: Array, shift: Array, mean: Array, var: Array, eps: float, axis: int
    ) -> Array:
        shape = [1] * x.ndim
        shape[axis] = -1
        scale, shift, mean, var = (self._array(v).reshape(shape) for v in (scale, shift, mean, var))
        y: Array = (x - mean) / np.sqrt(var + eps) * scale + shift
        return y

    def matmul(self, a: Array, b: Array) -> Array:
        y: Array = a @ b
        return y

    def add(self, a: Array, b: Array) -> Array:
        y: Array = a + b
        return y

    def multiply(self, a: Array, b: Array) -> Array:
        y: Array = a * b
        return y

    def softmax(self, x: Array) -> Array:
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        y: Array = e / e.sum(axis=-1, keepdims=True)
        return y

    def attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        scale: float | None = None,
        bias: Callable[[Ops], Array] | None = None,
    ) -> Array:
        y: Array = attend(self, q, k, v, scale=scale, bias=bias)
        return y

    def layer_norm(self, x: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        y: Array = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + eps)
        y = y if weight is None else y * self._array(weight)
        return y if bias is None else y + self._array(bias)

    def normalize_sum(self, x: Array) -> Array:
        y: Array = x / x.sum(axis=-1, keepdims=True)
        return y

    def gelu(self, x: Array) -> Array:
        # Not at the top: only networks with GELU pay for its import.
        from scipy.special import erf

        y: Array = x * (1 + erf(x * self.dtype.type(np.sqrt(0.5)))) / 2
        return y

    def sigmoid(self, x: Array) -> Array:
        e = np.exp(-np.abs(x))  # which cannot overflow, whichever the sign
        y: Array = np.where(x >= 0, 1, e) / (1 + e)
        return y

    def tanh(self, x: Array) -> Array:
        y: Array = np.tanh(x)
        return y

    def hard_swish(self, x: Array) -> Array:
        y: Array = x * np.clip(x + 3, 0, 6) / 6
        return y

    def silu(self, x: Array) -> Array:
        y: Array = x * self.sigmoid(x)
        return y

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        # Contiguous, or NumPy multiplies the batched matrices without BLAS.
        return np.ascontiguousarray(x.transpose(axes))

    def subsample(self, x: Array, axes: Sequence[int], stride: int) -> Array:
        index = [slice(None)] * x.ndim
        for axis in axes:
            index[axis] = slice(None, None, stride)
        return x[tuple(index)]

    def narrow(self, x: Array, axis: int, start: int, length: int) -> Array:
        return x.take(np.arange(start, start + length), axis)

    def prepend_zeros(self, x: Array, count: int) -> Array:
        return np.pad(x, ((0, 0), (count, 0), (0, 0)))

    def mean(self, x: Array, axes: tuple[int, ...]) -> Array:
        y: Array = x.mean(axis=axes)
        return y

    def cast(self, x: Array) -> Array:
        return x.astype(self.dtype)
