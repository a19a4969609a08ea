"""Places of buffers in memory: two that some step needs at once never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from levit.native.lifetimes import Lifetime, lifetimes
from levit.native.program import Buffer, Step, padded

__all__ = ["place"]


def place(buffers: Sequence[Buffer], steps: Sequence[Step]) -> tuple[Buffer, ...]:
    """Give each buffer its offset, and say which are carried from stage to stage.

    The largest first, each at the lowest offset that is free for as long as it lives: within a
    few percent of the least that any order needs. Local memory and what is carried are apart.

    Args:
        buffers: whose offsets mean nothing yet; each is used by some step.
    """
    lives = lifetimes(steps)
    carried = {i for i, life in lives.items() if life.first_stage != life.last_stage}
    placed: dict[int, Buffer] = {}
    for number in sorted(lives, key=lambda i: (-buffers[i].size, i)):
        others = [(placed[i], lives[i]) for i in placed if (i in carried) == (number in carried)]
        placed[number] = replace(
            buffers[number],
            offset=_lowest(buffers[number].size, lives[number], others),
            carried=number in carried,
        )
    return tuple(placed[i] for i in range(len(buffers)))


def _lowest(size: int, life: Lifetime, others: Sequence[tuple[Buffer, Lifetime]]) -> int:
    """The lowest offset with `size` words that no buffer needs meanwhile."""
    offset = 0
    for other in sorted((b for b, theirs in others if life.meets(theirs)), key=lambda b: b.offset):
        if offset + size <= other.offset:
            break
        offset = max(offset, padded(other.offset + other.size))
    return offset
