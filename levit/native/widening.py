"""Programs in bfloat16 for CPUs that do not multiply it: the same values, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.native.placement import place
from levit.native.program import FLOAT32, Buffer, Numbers, Program, padded

__all__ = ["uses_bfloat16", "widened", "widened_array"]


def uses_bfloat16(program: Program) -> bool:
    """Tell whether anything in a program is bfloat16."""
    return "bfloat16" in {
        program.input.numbers.dtype,
        *(buffer.numbers.dtype for buffer in program.buffers),
        *(spec.dtype for spec in program.arrays.values()),
    }


def widened(program: Program) -> Program:
    """The program with float32 wherever it has bfloat16; itself where it has none."""
    if not uses_bfloat16(program):
        return program
    buffers = [_widened(buffer) for buffer in program.buffers]
    return replace(
        program,
        input=replace(program.input, numbers=_numbers(program.input.numbers)),
        buffers=place(buffers, program.steps),
        arrays={
            name: replace(spec, dtype="float32") if spec.dtype == "bfloat16" else spec
            for name, spec in program.arrays.items()
        },
    )


def _numbers(numbers: Numbers) -> Numbers:
    return FLOAT32 if numbers.dtype == "bfloat16" else numbers


def _widened(buffer: Buffer) -> Buffer:
    numbers = _numbers(buffer.numbers)
    stride = padded(buffer.columns)
    if buffer.grid is not None:
        stride = numbers.grid_stride(buffer.columns)
    return replace(buffer, numbers=numbers, stride=stride)


def widened_array(arrays: Callable[[str], NDArray[Any]]) -> Callable[[str], NDArray[Any]]:
    """Arrays by name with the bits of bfloat16, uint16, made float32."""

    def read(name: str) -> NDArray[Any]:
        array = arrays(name)
        if array.dtype != np.uint16:
            return array
        return (array.astype(np.uint32) << 16).view(np.float32)

    return read
