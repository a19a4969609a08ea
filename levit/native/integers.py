"""Arithmetic of steps that read bytes, to the last bit.

Sums of integers are exact (and wrap at 32 bits), and of float32 each operation is rounded by
itself, in the order that stands here; a multiply-add that is fused is rounded once, on a CPU that
has no such instruction too. That leaves an instruction set nothing to choose, so bytes are the same
on every CPU. SiLU excepted: it is the nearest float32 here, and in the kernels a
formula, whose error `native/activations.h` states.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.native.program import SIGNED_BYTES, Numbers

__all__ = ["attention", "fused", "gelu", "hard_swish", "product", "to_bytes"]

Array = NDArray[Any]

# Queries, keys and values are signed bytes and this.
_SIGNED: Final = SIGNED_BYTES.zero_point
# 255 · 2^f for |f| <= 1/2, within 1e-4 of itself: of f³, f², f and 1.
_POWERS: Final = tuple(
    np.float32(255) * np.float32(x) for x in (0.05517166, 0.24261114, 0.69326099, 0.99992807)
)

# GELU's bump from 0 to 3.8, within 1.4e-4: powers of ``m * 2 / 3.8 - 1``, the highest first.
_BUMP: Final = tuple(
    np.float32(x)
    for x in (
        *(-0.03455868, 0.067654185, 0.028192846, -0.19158444),
        *(0.22671781, -0.12507144, 0.028685872),
    )
)


def fused(x: Array, y: Array | np.floating[Any], z: Array | np.floating[Any]) -> Array:
    """``x * y + z`` of float32, rounded once."""
    # The product is exact in float64. A sum that is not gets an odd last bit, and so lies halfway
    # between two float32 only where the exact one does.
    exact = x.astype(np.float64) * np.float64(y)
    total = np.asarray(exact + z)
    with np.errstate(invalid="ignore"):  # of infinities nothing is lost
        part = total - exact
        lost = (exact - (total - part)) + (z - part)
    bits = total.view(np.int64)
    is_even = (lost != 0) & np.isfinite(lost) & (bits % 2 == 0)
    bits[is_even] += np.where((lost > 0) == (total > 0), 1, -1)[is_even]
    result: Array = total.astype(np.float32)
    return result


def product(
    x: Array,
    zero_point: int,
    weight: Array,
    bias: Array | None,
    scale: Array,
    base: Array | None = None,
) -> Array:
    """``((x - zero_point) @ weight.T + bias) * scale + base``.

    Args:
        x: (…, I) uint8.
        weight: (O, I) int8.
        bias: (O,) int32, or None.
        scale: (O,) float32.
        base: (…, O) float32, or None.

    Returns:
        (…, O) float32.
    """
    sums = _sums(x, zero_point, weight.T, 0 if bias is None else bias)
    return _value(sums, scale) if base is None else fused(sums.astype(np.float32), scale, base)


def attention(
    q: Array,
    k: Array,
    v: Array,
    scales: tuple[Array, Array],
    table: Array,
    offset: Array,
) -> Array:
    """Attention in bytes: each row's powers of two are divided by the sum of the rounded ones.

    Args:
        q, k, v: (B, H, Nq, D), (B, H, N, D) and (B, H, N, Dv) uint8, with a zero point of 128.
        scales: (H,) of the scores and (H · Dv,) of the values, float32.
        table: (H, Nq, N) float32, or 0.
        offset: (H · Dv,) float32 that is added to what comes out, or 0.

    Returns:
        (B, H, Nq, Dv) float32.
    """
    of_scores, of_values = scales
    keys, values = (x.astype(np.int16) - _SIGNED for x in (k, v))
    sums = _sums(q, _SIGNED, keys.swapaxes(-1, -2), 0)
    powers = _powers(fused(sums.astype(np.float32), of_scores[:, None, None], table))
    total = powers.sum(-1, keepdims=True, dtype=np.int64).astype(np.float32)
    mixed = _value(_sums(powers, 0, values, 0), of_values.reshape(v.shape[1], 1, -1))
    shift = offset.reshape(v.shape[1], 1, -1) if offset.ndim else offset
    return fused(mixed, np.float32(1) / total, shift)


def hard_swish(x: Array) -> Array:
    """``x * clip(x / 6 + 1/2, 0, 1)`` of float32."""
    gate = fused(x, np.float32(1) / np.float32(6), np.float32(0.5))
    result: Array = x * np.clip(gate, np.float32(0), np.float32(1))
    return result


def gelu(x: Array) -> Array:
    """``x * Φ(x)`` of float32, 1.4e-4 off: ``max(x, 0)`` less a bump that is even in x."""
    size = np.minimum(np.abs(x), np.float32(3.8))
    place = fused(size, np.float32(0.5263158), np.float32(-1))
    share = np.broadcast_to(_BUMP[0], x.shape)
    for coefficient in _BUMP[1:]:
        share = fused(share, place, coefficient)
    return fused(-size, share, np.maximum(x, np.float32(0)))


def to_bytes(x: Array, numbers: Numbers) -> Array:
    """The nearest bytes, or else the even ones: of what is beyond the grid its end, of NaN 0."""
    inverse, shift = np.float32(numbers.inverse_scale), np.float32(numbers.zero_point)
    with np.errstate(over="ignore"):
        places = fused(x.astype(np.float32), inverse, shift)
    # fmax and fmin take the other of two of which one is NaN.
    result: Array = np.rint(np.fmin(np.fmax(places, 0), 255)).astype(np.uint8)
    return result


def _sums(x: Array, zero_point: int, y: Array, start: Array | int) -> Array:
    """``(x - zero_point) @ y + start`` of integers, as int32."""
    # In float64, which is exact below 2^53, and fast.
    sums = (x.astype(np.float64) - zero_point) @ y.astype(np.float64) + start
    result: Array = sums.astype(np.int64).astype(np.int32)
    return result


def _value(sums: Array, scale: Array) -> Array:
    result: Array = sums.astype(np.float32) * scale.astype(np.float32)
    return result


def _powers(scores: Array) -> Array:
    """``rint(255 * 2^(score - the row's largest))``, 0 to 255: (…, N) float32 → uint8."""
    below = np.maximum(scores - scores.max(-1, keepdims=True), np.float32(-126))
    whole = np.rint(below)
    part = below - whole
    power = np.broadcast_to(_POWERS[0], part.shape)
    for coefficient in _POWERS[1:]:
        power = fused(power, part, coefficient)
    result: Array = np.rint(np.ldexp(power, whole.astype(np.int32))).astype(np.uint8)
    return result
