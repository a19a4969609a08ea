"""Sizes of all values of a graph, and limits of what a backend may be made to hold and compute.

A small file can ask for any memory and any time by operations that are all fine by themselves. So
values are counted as a backend holds them: from the operation that makes one to the last that
reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from levit.runtime.graphs.shapes import BATCH, Tensor, elements, shown

__all__ = ["MOST_NODES", "Budget"]

# The largest networks of `levit list` have 1,700, at int8 with 24 blocks. OpenVINO takes 14 seconds
# to compile 10,000 in a row.
MOST_NODES: Final = 5_000
# Elements that live at once for one picture: 2 GiB of float32. DINOv2 L/14 at 518 pixels has 65
# million (two scores of 16 heads); patches of 8 at that size, beyond anything published, 420.
MOST_LIVE: Final = 2**29
# The same for a whole batch, where the file fixes it: 32 GiB. 64 pictures of DINOv2 L/14 are 4
# billion.
MOST_LIVE_IN_BATCH: Final = 2**33
# Multiplications for one picture. DINOv2 L/14 needs 2^39: 10 seconds of one core.
MOST_WORK: Final = 2**43
# Elements that backends may make of weights when they load them, per byte of the file: int8
# becomes float32 by a Convert and then its product with the scale; equal ones are stored once.
MOST_FIXED: Final = 4


class Budget:
    """Count of values that live, of those that never die, and of work.

    Args:
        file_bytes: of the weights.
        last_reads: place of the last node that reads each value.
    """

    def __init__(self, file_bytes: int, last_reads: Mapping[object, int]) -> None:
        self._fixed = MOST_FIXED * file_bytes
        self._last_reads = last_reads
        self._live = 0
        self._sizes: dict[object, int] = {}  # of values that live, without weights
        self._work = MOST_WORK
        self._most = MOST_LIVE

    def start(self, name: object, image: Tensor) -> None:
        """Begin with the input, whose first axis is the batch."""
        shape = image.shape
        if len(shape) != 4 or min(shape) < 1 or max(shape[1:]) >= BATCH:
            raise ValueError(f"its input has the shape {shown(shape)}")
        if shape[0] != BATCH:
            self._most = min(MOST_LIVE * shape[0], MOST_LIVE_IN_BATCH)
            self._work = MOST_WORK * shape[0]
        self._grow(name, elements(shape))

    def add(self, place: int, name: object, made: Tensor, reads: Iterable[object]) -> None:
        """Count what the node at `place` makes, then release what nobody reads after it.

        Raises:
            ValueError: it is too large, or no size of this kind is written.
        """
        shape = made.shape
        if max(shape[1:], default=0) >= BATCH or (shape and shape[0] >= BATCH and shape[0] % BATCH):
            raise ValueError(f"makes {shown(shape)}, whose batch is not the first axis")
        size = elements(shape)
        self._work -= size * made.depth
        if self._work < 0:
            raise ValueError("goes beyond the work of any network that levit writes")
        if made.fixed:
            self._fixed -= size
            if self._fixed < 0:
                raise ValueError("makes more of the weights than there is in the file")
            return
        self._grow(name, size)
        for read in reads:
            if self._last_reads[read] == place:
                self._live -= self._sizes.pop(read, 0)

    def _grow(self, name: object, size: int) -> None:
        self._sizes[name] = size
        self._live += size
        if self._live > self._most:
            raise ValueError(f"needs more than the {self._most} elements at once that are allowed")
