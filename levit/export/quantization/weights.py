"""A layer's weights in integers: the scales, the rounding, and the bias that makes up for it."""

from __future__ import annotations

from typing import Final

import numpy as np

from levit.export.grids import Scheme
from levit.models.ops import Array

__all__ = ["correct_bias", "round_weight"]

# Of a channel's largest weight, what its largest integer may stand for.
_SHRINKING: Final = np.linspace(1.0, 0.5, 26)
# Columns whose input hardly varies say little of what rounding them does.
_DAMPING: Final = 0.01
_BLOCK: Final = 64
_CACHED: Final = 2**16


def round_weight(
    weight: Array, rows: Array, scheme: Scheme, *, compensate: bool = True
) -> tuple[Array, Array]:
    """Weights on a grid, such that products with `rows` change least.

    Each channel has a scale, which minimises the error that rounding to the nearest has, column by
    column. Then columns are rounded one after the other, and what is lost is made up for by
    those that are still to come (Frantar et al., GPTQ, arXiv:2210.17323, of OBQ's
    equation: ``w_F -= (w_q - round(w_q)) / [H⁻¹]_qq · (H⁻¹)_qF``, ``H = XᵀX``).

    Args:
        weight: (O, K) float64.
        rows: (n, K).
        scheme: of the integers and their scales.
        compensate: whether columns make up for others, or are rounded to the nearest: quick.

    Returns:
        (weights that are whole multiples of their scale, (O,) float32 scales).
    """
    largest = scheme.largest_weight
    if not compensate:
        scale = _scales(weight, np.square(rows).mean(axis=0, dtype=np.float64), scheme)
        return _nearest(weight, scale[:, None].astype(np.float64), largest), scale
    # In float32, where rows are: its sums are off by less than a thousandth of the damping.
    hessian = (rows.T @ rows).astype(np.float64) / len(rows)
    scale = _scales(weight, np.diag(hessian), scheme)
    return _compensated(weight, hessian, scale.astype(np.float64), largest), scale


def _scales(weight: Array, energy: Array, scheme: Scheme) -> Array:
    """(O,) float32."""
    largest = scheme.largest_weight
    peaks = np.abs(weight).max(axis=1)
    peaks = np.where(peaks > 0, peaks, 1.0)
    # To choose one of a few, float32 is enough, in half of the time; no peak is above 1 in it.
    single = (weight / peaks[:, None]).astype(np.float32)
    shares = (energy / max(energy.max(), np.finfo(float).tiny)).astype(np.float32)
    # Some channels at a time: all the tries find them in a core's cache.
    together = max(1, _CACHED // single.shape[1])
    chosen = [
        _shrinking(single[i : i + together], shares, largest)
        for i in range(0, len(single), together)
    ]
    return scheme.scales(peaks * np.concatenate(chosen) / largest)


def _shrinking(weight: Array, shares: Array, largest: int) -> Array:
    """(O,) of the tries, those that cost least, for weights (O, K) of which no peak is above 1."""
    best = np.full(len(weight), np.inf)
    chosen = np.ones(len(weight))
    for shrinking in _SHRINKING:
        error = _nearest(weight, np.asarray(shrinking / largest, np.float32), largest)
        error -= weight
        cost = np.square(error, out=error) @ shares
        better = cost < best
        best, chosen = np.where(better, cost, best), np.where(better, shrinking, chosen)
    return chosen


def _nearest(weight: Array, scale: Array, largest: int) -> Array:
    result: Array = weight / scale
    np.rint(result, out=result)
    # Not np.clip, which takes longer to call than a channel's column takes to be rounded.
    np.minimum(result, largest, out=result)
    np.maximum(result, -largest, out=result)
    result *= scale
    return result


def _compensated(weight: Array, hessian: Array, scale: Array, largest: int) -> Array:
    count = len(hessian)
    mean = np.diag(hessian).mean()
    if not mean > 0:
        return _nearest(weight, scale[:, None], largest)
    damped = hessian + np.eye(count) * mean * _DAMPING
    # The columns that matter most first, while there are others left to make up for them.
    order = np.argsort(-np.diag(hessian), kind="stable")
    upper = _root_of_inverse(damped[np.ix_(order, order)])
    left = weight.T[order]  # (K, O): a column of weights is a row of memory
    rounded = np.empty_like(left)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        lost = np.empty((stop - start, len(weight)))
        for i in range(start, stop):
            # What the columns before it in the block have lost; of earlier blocks it is in there.
            left[i] -= upper[start:i, i] @ lost[: i - start]
            rounded[i] = _nearest(left[i], scale, largest)
            lost[i - start] = (left[i] - rounded[i]) / upper[i, i]
        left[stop:] -= upper[start:stop, stop:].T @ lost
    result = np.empty_like(weight)
    result[:, order] = rounded.T
    return result


def _root_of_inverse(matrix: Array) -> Array:
    """Upper triangular U with ``H⁻¹ = UᵀU``, of a positive definite H.

    With the order of rows and columns turned round, ``H = L·Lᵀ`` is ``U⁻¹·U⁻ᵀ``: one
    factorisation and the inverse of a triangle, in a third of the time of H's own inverse.
    """
    # Not at the top: loading it takes a tenth of a second.
    from scipy.linalg import lapack

    lower, failed = lapack.dpotrf(np.ascontiguousarray(matrix[::-1, ::-1]), lower=1, clean=1)
    if failed:
        raise np.linalg.LinAlgError("a damped Hessian is not positive definite")
    inverse, _ = lapack.dtrtri(lower, lower=1)
    turned: Array = np.ascontiguousarray(inverse[::-1, ::-1])
    return turned


def correct_bias(
    weight: Array, bias: Array | None, rounded: Array, rows: Array, rounded_rows: Array
) -> Array:
    """The bias that leaves each channel's mean where it was.

    ``b + mean(W·x) - mean(W'·x')`` of weights W' and inputs x' on their grids.
    """
    shift = rows.mean(axis=0, dtype=np.float64) @ weight.T
    shift = shift - rounded_rows.mean(axis=0, dtype=np.float64) @ rounded.T
    result: Array = shift if bias is None else bias + shift
    return result
