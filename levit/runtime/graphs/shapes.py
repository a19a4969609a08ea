"""Shapes of values, from the shapes of what an operation reads, for levit's few operations.

The size of a dynamic batch is a prime that no other size can be: a shape is plain integers, and a
multiple of the prime is a size that grows with the batch. It may be the first of a shape only.
Every function raises ValueError with the end of a sentence about the operation.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from levit.runtime.graphs.wire import Buffer

__all__ = [
    "BATCH",
    "FLOATS",
    "INTEGERS",
    "ITEM_BYTES",
    "LARGEST_SIZE",
    "NO_END",
    "Shape",
    "Tensor",
    "averaged",
    "broadcast",
    "convolved",
    "elements",
    "numbers_of",
    "padded",
    "product",
    "reshaped",
    "shown",
    "sliced",
    "stored_numbers",
    "transposed",
]

Shape: TypeAlias = tuple[int, ...]

BATCH: Final = 2**61 - 1

ITEM_BYTES: Final = {
    "float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "int8": 1, "int32": 4, "int64": 8,
}  # fmt: skip
FLOATS: Final = frozenset({"float32", "float16", "bfloat16"})
INTEGERS: Final = frozenset({"uint8", "int8"})  # of a grid

# Orders of axes that are written. All leave the batch where it is.
_PERMUTATIONS: Final = {(0, 2, 1), (0, 2, 1, 3), (0, 2, 3, 1), (0, 1, 3, 2), (0, 3, 1, 2)}
# End of a slice that goes to the end of its axis.
NO_END: Final = 2**63 - 1
# The most axes that a value has.
_MOST_AXES: Final = 4
# Sizes in a file are far below; those above are of a batch.
LARGEST_SIZE: Final = 2**31


class Tensor(NamedTuple):
    """One value of a graph.

    Attributes:
        dtype: as NumPy spells it, and ``bfloat16``.
        depth: products that are summed for each of its elements.
        fixed: the same whatever the input.
        numbers: of a stored list of int64.
    """

    dtype: str
    shape: Shape
    depth: int = 1
    fixed: bool = False
    numbers: Shape | None = None


def elements(shape: Shape) -> int:
    """Count the elements; those of one picture, where the batch is dynamic."""
    count = math.prod(shape)
    return count // BATCH if shape and shape[0] >= BATCH else count


def stored_numbers(shape: Shape, raw: Buffer) -> Shape:
    """Read a list of int64: sizes, axes, or places on them."""
    if len(shape) != 1 or shape[0] > 2 * _MOST_AXES:
        raise ValueError(f"has integers of shape {shown(shape)}")
    numbers = struct.unpack(f"<{shape[0]}q", raw)
    if any(not -1 <= n < LARGEST_SIZE and n != NO_END for n in numbers):
        raise ValueError(f"has integers {numbers}")
    return numbers


def numbers_of(x: Tensor) -> Shape:
    """Return the integers of a list that is stored."""
    if x.numbers is None:
        raise ValueError("computes one of its sizes or axes")
    return x.numbers


def broadcast(a: Shape, b: Shape) -> Shape:
    """Shape of an elementwise operation whose second operand is repeated over the first."""
    tail = a[len(a) - len(b) :]
    if len(b) <= len(a) and (b == tail or all(m in (1, n) for m, n in zip(b, tail, strict=True))):
        return a
    raise ValueError(f"combines {shown(a)} with {shown(b)}")


def product(a: Shape, b: Shape) -> Shape:
    """(…, N, K), (K, M) or (…, K, M) → (…, N, M)."""
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2] or b[:-2] not in ((), a[:-2]):
        raise ValueError(f"multiplies {shown(a)} by {shown(b)}")
    return (*a[:-1], b[-1])


def convolved(x: Shape, weight: Shape, strides: Sequence[int], pads: Sequence[int]) -> Shape:
    """(B, I, H, W), (O, I, K, K) → (B, O, H', W').

    Args:
        pads: at the beginnings, then at the ends.
    """
    if len(x) != 4 or len(weight) != 4 or x[1] != weight[1]:
        raise ValueError(f"convolves {shown(x)} with {shown(weight)}")
    kernel, stride, pad = weight[2], strides[0], pads[0]
    fits = list(strides) == [stride] * 2 and list(pads) == [pad] * 4 and weight[3] == kernel
    # A stride beyond the kernel skips pixels, which only a subsampling by 2 does.
    if not fits or not 0 <= pad <= kernel // 2 or not 1 <= stride <= max(2, kernel):
        raise ValueError(f"has kernel {weight[2:]}, strides {[*strides]} and pads {[*pads]}")
    grid = tuple((side + 2 * pad - kernel) // stride + 1 for side in x[2:])
    if min(grid) < 1:
        raise ValueError(f"has kernels of {kernel} for {shown(x)}")
    return (x[0], weight[0], *grid)


def reshaped(x: Shape, target: Shape) -> Shape:
    """Give the elements of `x` another shape: 0 keeps an axis, and one -1 takes the rest."""
    if not 1 <= len(target) <= _MOST_AXES:
        raise ValueError(f"makes {len(target)} axes")
    if min(target) < -1 or target.count(-1) > 1 or 0 in target[len(x) :]:
        raise ValueError(f"reshapes {shown(x)} to {target}")
    sizes = [x[i] if n == 0 else n for i, n in enumerate(target)]
    count = math.prod(x)
    if -1 in target:
        rest = count // max(1, -math.prod(sizes))
        sizes[target.index(-1)] = rest
    if math.prod(sizes) != count:
        raise ValueError(f"reshapes {shown(x)} to {target}")
    return tuple(sizes)


def transposed(x: Shape, axes: Shape) -> Shape:
    """Permute the axes in one of the orders that are written."""
    if axes not in _PERMUTATIONS or len(axes) != len(x):
        raise ValueError(f"permutes {shown(x)} by {axes}")
    return tuple(x[i] for i in axes)


def sliced(x: Shape, starts: Shape, ends: Shape, axes: Shape, steps: Shape | None) -> Shape:
    """Take a part of one axis, or every n-th entry of some, never of the first axis."""
    steps = (1,) * len(axes) if steps is None else steps
    shape = list(x)
    fits = 1 <= len(axes) == len(starts) == len(ends) == len(steps)
    fits = fits and list(axes) == sorted(set(axes))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=fits):
        size = x[axis] if 1 <= axis < len(x) else 0
        end = size if end == NO_END else end
        fits = fits and 0 <= start < end <= size and 1 <= step <= size
        if fits:
            shape[axis] = -(-(end - start) // step)
    if not fits:
        raise ValueError(f"takes {starts} to {ends} by {steps} of axes {axes} of {shown(x)}")
    return tuple(shape)


def padded(x: Shape, before: Shape, after: Shape) -> Shape:
    """(B, N, C) → (B, count + N, C)."""
    count = before[1] if len(before) == 3 else 0
    if len(x) != 3 or count < 1 or before != (0, count, 0) or any(after) or len(after) != 3:
        raise ValueError(f"pads {shown(x)} by {before} and {after}")
    return (x[0], count + x[1], x[2])


def averaged(x: Shape, axes: Shape, *, keep: bool) -> Shape:
    """(B, N, C) → (B, C) over axis 1; (B, C, H, W) → (B, C, 1, 1) over (2, 3)."""
    if len(x) == 3 and axes == (1,) and not keep:
        return (x[0], x[2])
    if len(x) == 4 and axes == (2, 3) and keep:
        return (*x[:2], 1, 1)
    raise ValueError(f"averages {shown(x)} over {axes}")


def shown(shape: Shape) -> str:
    """Write a shape, with N for what grows with the batch."""
    return f"({', '.join('N' if n >= BATCH else str(n) for n in shape)})"
