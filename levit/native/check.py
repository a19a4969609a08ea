"""Proof that a program keeps within its memory, before the library sees it.

The library trusts what is found here, and nothing else: numbers of buffers and names of arrays
that exist, shapes that fit, buffers that do not overlap while some step needs both, values that are
there before they are read.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping
from typing import Final

from levit.errors import CorruptArtifactError
from levit.json_values import shown
from levit.native.lifetimes import lifetimes, reads, targets
from levit.native.program import (
    ITEM_SIZES,
    LANES,
    ArraySpec,
    Buffer,
    Input,
    Numbers,
    Program,
    Step,
    padded,
)
from levit.native.step_shapes import StepShapes, require

__all__ = ["check"]

# Far beyond use: what is computed from numbers within these stays far within 64 bits.
_MOST_FLOATS: Final = 2**31
_MOST_ENTRIES: Final = 2**24
_MOST_STEPS: Final = 2**14
_LARGEST_FLOAT32: Final = 3.4e38
_SMALLEST_SCALE: Final = 2.0**-126
# The library keeps a row of 48 scales, in which these numbers of channels repeat.
_MOST_PIXEL_CHANNELS: Final = 4


def check(program: Program, arrays: Mapping[str, ArraySpec]) -> None:
    """Prove that a program can be run.

    Args:
        arrays: dtypes and shapes of the arrays that are there.

    Raises:
        CorruptArtifactError: it cannot be run: the first reason why.
    """
    try:
        _check_arrays(program.arrays, arrays)
        _check_input(program.input)
        _check_count(len(program.buffers), "buffers")
        _check_count(len(program.steps), "steps")
        for i, buffer in enumerate(program.buffers):
            _check_buffer(buffer, f"buffer {i}")
        _check_steps(program)
        _check_memory(program)
    except ValueError as error:
        raise CorruptArtifactError(f"the program cannot be run ({error}); export again") from error


def _check_count(count: int, name: str) -> None:
    require(1 <= count <= _MOST_STEPS, f"it has {count} {name}")


def _check_arrays(stated: Mapping[str, ArraySpec], there: Mapping[str, ArraySpec]) -> None:
    for name in sorted(stated.keys() ^ there.keys()):
        where = "is missing" if name in stated else "is not of the program"
        raise ValueError(f"array {shown(name)} {where}")
    for name, spec in stated.items():
        found = there[name]
        require(
            found == spec,
            f"array {shown(name)} is {found}, and the program says {spec}",
        )
        shape = spec.shape
        sizes = all(1 <= n <= _MOST_ENTRIES for n in shape) and math.prod(shape) <= _MOST_FLOATS
        require(sizes, f"array {shown(name)} of shape {shown(shape)}")


def _check_numbers(numbers: Numbers, name: str) -> None:
    require(numbers.dtype in ITEM_SIZES, f"{name} has values of {shown(numbers.dtype)}")
    if numbers.dtype == "uint8":
        # The inverse must be a number, too.
        require(
            _SMALLEST_SCALE <= numbers.scale <= _LARGEST_FLOAT32 and 0 <= numbers.zero_point <= 255,
            f"{name} has the scale {numbers.scale} and the zero point {numbers.zero_point}",
        )
        return
    require((numbers.scale, numbers.zero_point) == (1, 0), f"{name} has a scale, and no bytes")


def _check_input(source: Input) -> None:
    size = (source.channels, source.height, source.width)
    fits = all(1 <= n <= _MOST_ENTRIES for n in size) and math.prod(size) <= _MOST_FLOATS
    require(fits, f"an input of {size}")
    _check_numbers(source.numbers, "the input")
    integers = source.numbers.dtype == "uint8"
    if source.border is not None:
        require(
            source.dtype == "uint8"
            and source.numbers == Numbers(dtype="uint8")
            and len(source.border) == source.channels
            and all(0 <= value <= 255 for value in source.border),
            f"a border of {shown(source.border)}",
        )
    # The border of a pixel is one word.
    require(not integers or source.channels <= _MOST_PIXEL_CHANNELS, f"bytes of {size[0]} channels")
    if source.dtype == "float32":
        require(source.scale is None and source.shift is None, "a scale of a float32 input")
        return
    require(source.dtype == "uint8", f"an input of {shown(source.dtype)}")
    require(source.channels <= _MOST_PIXEL_CHANNELS, f"uint8 pixels of {source.channels} channels")
    for values in (source.scale, source.shift):
        require(
            values is not None
            and len(values) == source.channels
            and all(abs(value) <= _LARGEST_FLOAT32 for value in values),
            f"{shown(values)} is not a scale or shift of {source.channels} channels",
        )


def _check_buffer(buffer: Buffer, name: str) -> None:
    require(
        1 <= buffer.rows <= _MOST_ENTRIES and 1 <= buffer.columns <= _MOST_ENTRIES,
        f"{name} has {buffer.rows} x {buffer.columns} values",
    )
    _check_numbers(buffer.numbers, name)
    stride = padded(buffer.columns)
    if buffer.grid is not None:
        stride = buffer.numbers.grid_stride(buffer.columns)
    require(buffer.stride == stride, f"{name} has a stride of {buffer.stride}, not {stride}")
    if buffer.grid is not None:
        height, width = buffer.grid
        require(
            1 <= height <= _MOST_ENTRIES
            and 1 <= width <= _MOST_ENTRIES
            and buffer.rows == (height + 1) * (width + 1),
            f"{name} has {buffer.rows} rows for a grid of {shown(buffer.grid)}",
        )
    require(
        buffer.offset >= 0
        and buffer.offset % LANES == 0
        and buffer.offset + buffer.size <= _MOST_FLOATS,
        f"{name} of {buffer.size} words has the offset {buffer.offset}",
    )


def _check_steps(program: Program) -> None:
    shapes = StepShapes(program)
    written: set[int] = set()
    stage = 0
    for i, step in enumerate(program.steps):
        name = f"step {i} {shown(step.name)}"
        try:
            # Stages follow each other without a gap, and the first is 0.
            require(step.stage in ((stage, stage + 1) if i else (0,)), f"stage {step.stage}")
            stage = step.stage
            _check_dataflow(program, step, written)
            shapes.check(i, step)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        written.update(targets(step))
    require(bool(shapes.outputs), "it has no output")
    unread = sorted(program.arrays.keys() - shapes.arrays_read)
    require(not unread, f"no step reads array {shown(next(iter(unread), None))}")


def _check_dataflow(program: Program, step: Step, written: set[int]) -> None:
    for number in (*reads(step), *targets(step)):
        require(0 <= number < len(program.buffers), f"there is no buffer {shown(number)}")
    for number in reads(step):
        require(number in written, f"it reads buffer {number}, which nothing has written")
    in_place = getattr(step, "residual", None)
    # What is added may be where the sum goes: each value is read before it is written.
    sources = list(reads(step))
    if in_place is not None:
        sources.remove(in_place)
    written_here = targets(step)
    for target in written_here:
        require(target not in sources, f"it writes buffer {target}, which it reads")
    require(len(set(written_here)) == len(written_here), "it writes one buffer twice")
    require(in_place is None or in_place not in written_here[1:], "it copies to what it adds")


def _check_memory(program: Program) -> None:
    """No two buffers overlap that some step needs at once, and local ones keep to their stage."""
    lives = lifetimes(program.steps)
    # (offset, end, number) of the buffers that are needed, in order of their offsets.
    needed: dict[bool, list[tuple[int, int, int]]] = {False: [], True: []}
    begins: dict[int, list[int]] = {}
    ends_before: dict[int, list[int]] = {}
    for number in range(len(program.buffers)):
        require(number in lives, f"no step uses buffer {number}")
        begins.setdefault(lives[number].first, []).append(number)
        ends_before.setdefault(lives[number].last + 1, []).append(number)
    for i in range(len(program.steps)):
        for number in ends_before.get(i, ()):
            buffer = program.buffers[number]
            memory = needed[buffer.carried]
            del memory[bisect(memory, (buffer.offset, buffer.offset + buffer.size, number)) - 1]
        for number in begins.get(i, ()):
            buffer, life = program.buffers[number], lives[number]
            require(
                buffer.carried or life.first_stage == life.last_stage,
                f"buffer {number} is not carried, and stage {life.last_stage} needs it too",
            )
            memory, end = needed[buffer.carried], buffer.offset + buffer.size
            at = bisect(memory, (buffer.offset, end, number))
            for start, stop, other in memory[max(at - 1, 0) : at + 1]:
                apart = stop <= buffer.offset or end <= start
                require(apart, f"buffers {other} and {number} overlap at step {i}")
            memory.insert(at, (buffer.offset, end, number))
