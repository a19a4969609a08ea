"""Buffers that steps read and write, and how long each must keep its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from levit.native.program import Attention, Linear, Output, Patches, Step

__all__ = ["Lifetime", "lifetimes", "reads", "targets", "writes"]


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """Numbers of the first and the last step that need a buffer's memory, and their stages."""

    first: int
    last: int
    first_stage: int
    last_stage: int

    def meets(self, other: Lifetime) -> bool:
        """Return True where some step needs both: a step's target too must not lie in a source."""
        return self.first <= other.last and other.first <= self.last


def reads(step: Step) -> tuple[int, ...]:
    """Numbers of the buffers that a step reads; without the input, which is none."""
    if isinstance(step, Attention):
        return (step.queries.buffer, step.keys.buffer, step.values.buffer)
    residual = step.residual if isinstance(step, Linear) else None
    source = None if isinstance(step, Patches) else step.source
    return tuple(number for number in (source, residual) if number is not None)


def writes(step: Step) -> int | None:
    """Number of the buffer that a step writes; None for an output."""
    return None if isinstance(step, Output) else step.target


def targets(step: Step) -> tuple[int, ...]:
    """Numbers of all buffers that a step writes: its target, and a copy in other numbers."""
    found = (writes(step), getattr(step, "copy", None))
    return tuple(number for number in found if number is not None)


def lifetimes(steps: Sequence[Step]) -> dict[int, Lifetime]:
    """The lifetime of every buffer that some step uses, by its number.

    A buffer of several stages needs its memory for all of the first and all of the last: a stage
    runs for one group of images after another, and the last steps of one group come before the
    first steps of the next.
    """
    found: dict[int, Lifetime] = {}
    for i, step in enumerate(steps):
        for number in (*reads(step), *targets(step)):
            begin = found.get(number)
            found[number] = Lifetime(
                first=i if begin is None else begin.first,
                last=i,
                first_stage=step.stage if begin is None else begin.first_stage,
                last_stage=step.stage,
            )
    begins = {step.stage: i for i, step in reversed(list(enumerate(steps)))}
    ends = {step.stage: i for i, step in enumerate(steps)}
    for number, life in found.items():
        if life.first_stage != life.last_stage:
            found[number] = replace(
                life, first=begins[life.first_stage], last=ends[life.last_stage]
            )
    return found
