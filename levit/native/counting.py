"""Work of a program, step by step: multiply-accumulates, and bytes of weights."""

from __future__ import annotations

import math
from typing import Final

from levit.native.program import (
    Attention,
    Conv,
    LayerNorm,
    Linear,
    Part,
    Program,
    Project,
    Stack,
    Step,
)

__all__ = ["dtype_of", "kind_of", "macs_of", "weight_bytes_of"]

_ITEMS: Final = {"float32": 4, "int32": 4, "bfloat16": 2, "int8": 1}


def kind_of(step: Step) -> str:
    """Name a step's kernel: ``attention``."""
    return type(step).__name__.lower()


def macs_of(program: Program, step: Step) -> int:
    """Count multiply-accumulates of one image: 0 for a step that only moves or adds values.

    Softmax and activations do not count, nor does padding: the same rule as
    `levit.models.counting`.
    """
    if isinstance(step, Conv):
        target = program.buffers[step.target]
        places = target.rows if target.grid is None else math.prod(target.grid)
        return places * math.prod(program.arrays[step.weight].shape)
    if isinstance(step, Linear):
        return program.buffers[step.target].rows * math.prod(program.arrays[step.weight].shape)
    if isinstance(step, Project):
        rows = program.buffers[step.target].rows
        return rows * sum(math.prod(program.arrays[part.weight].shape) for part in step.parts)
    if isinstance(step, Attention):
        queries = program.buffers[step.target].rows
        keys = program.buffers[step.keys.buffer].rows
        return step.heads * queries * keys * (step.queries.width + step.values.width)
    return 0


def dtype_of(program: Program, step: Step) -> str:
    """Name the numbers that a step multiplies, those of its source: ``float32``."""
    source = step.queries.buffer if isinstance(step, Attention) else getattr(step, "source", None)
    return (program.input if source is None else program.buffers[source]).numbers.dtype


def weight_bytes_of(program: Program, step: Step) -> int:
    """Count bytes of the arrays that a step reads: weights, biases, an attention's table."""
    names: list[str | None] = []
    if isinstance(step, Conv | Linear):
        names = [step.weight, step.bias, step.scale]
    elif isinstance(step, Project):
        names = [name for part in step.parts for name in _names(part)]
    elif isinstance(step, Attention):
        scales = step.score_scale, step.value_scale, step.value_offset
        names = [step.table, *scales, step.positions, step.rest]
    elif isinstance(step, LayerNorm):
        names = [step.weight, step.bias]
    elif isinstance(step, Stack):
        names = [step.rows]
    specs = [program.arrays[name] for name in names if name]
    return sum(_ITEMS[spec.dtype] * math.prod(spec.shape) for spec in specs)


def _names(part: Part) -> tuple[str | None, ...]:
    return part.weight, part.bias, part.scale
