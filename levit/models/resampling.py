"""Tables over a grid of tokens, resampled to a grid of another size.

The filter is the one that timm resizes position embeddings with: PyTorch's
``interpolate(mode="bicubic", antialias=True)``, which is Pillow's bicubic. Of each axis it is one
matrix, so that what it does to a table is exact to rounding.
"""

from __future__ import annotations

import numpy as np

from levit.models.ops import Array

__all__ = ["resample_grid", "resample_offsets"]

# Keys' cubic with a = -0.5, as Pillow and PyTorch's antialiased bicubic have it.
_A = -0.5


def resample_grid(table: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """(h·w, C) values on a grid → (h'·w', C) in float64.

    Source: ``timm.layers.resample_abs_pos_embed``.
    """
    if old == new:
        return table
    values = table.astype(np.float64).reshape(*old, -1)  # (h, w, C)
    rows, columns = (_matrix(n, m) for n, m in zip(old, new, strict=True))
    result: Array = np.einsum("ai,bj,ijc->abc", rows, columns, values, optimize=True)
    return result.reshape(new[0] * new[1], -1)


def resample_offsets(table: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """(H, h·w) values by absolute offset (|Δrow|, |Δcolumn|) → (H, h'·w') in float64.

    The table is mirrored to signed offsets, (2h - 1, 2w - 1), stretched like a picture, and cut
    back: no offset stays none, the farthest stays the farthest. timm does this to the signed tables
    of Swin and BEiT; for LeViT's nobody does.
    """
    if old == new:
        return table
    values = table.astype(np.float64).reshape(-1, *old)
    signed = [np.abs(np.arange(1 - n, n)) for n in old]
    mirrored = values[:, signed[0]][:, :, signed[1]]  # (H, 2h - 1, 2w - 1)
    rows, columns = (_matrix(2 * n - 1, 2 * m - 1) for n, m in zip(old, new, strict=True))
    stretched = np.einsum("ai,bj,hij->hab", rows, columns, mirrored, optimize=True)
    result: Array = stretched[:, new[0] - 1 :, new[1] - 1 :]
    return result.reshape(len(values), -1)


def _matrix(old: int, new: int) -> Array:
    """(new, old): each row the weights of one new value, which sum to one."""
    step = old / new
    stretch = max(step, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * step
    places = np.arange(old)[None, :] + 0.5
    # Pillow cuts the window at whole pixels.
    first = np.maximum(np.floor(centres - 2 * stretch + 0.5), 0)
    last = np.minimum(np.floor(centres + 2 * stretch + 0.5), old)
    inside = (places - 0.5 >= first) & (places - 0.5 < last)
    weights = np.where(inside, _cubic((places - centres) / stretch), 0.0)
    result: Array = weights / weights.sum(axis=1, keepdims=True)
    return result


def _cubic(x: Array) -> Array:
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    result: Array = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return result
