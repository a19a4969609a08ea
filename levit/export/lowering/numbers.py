"""A program in float32 → the same with bytes or bfloat16 where its layers are computed in them.

A lowering knows nothing of numbers. Here each step gets those that it multiplies in, by the path of
its layer; and so it is known in which numbers each value is wanted until it is written again. A
step writes it in these: most often in one; float32 and a copy where both a residual sum and a
product read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from levit.export.grids import AttentionGrids, LayerGrids, PixelGrid, Quantization
from levit.export.lowering.builder import Lowered, specs_of
from levit.export.precision import to_bfloat16
from levit.models.ops import Array
from levit.native import program as p
from levit.native.lifetimes import reads, writes
from levit.native.placement import place
from levit.native.program import FLOAT32, SIGNED_BYTES, Buffer, Numbers, View, padded

__all__ = ["BFLOAT16", "with_numbers"]

BFLOAT16: Final = Numbers(dtype="bfloat16")

_Layer: TypeAlias = p.Conv | p.Linear
_LAYERS: Final = (p.Conv, p.Linear)
_Writing: TypeAlias = (
    _Layer | p.Attention | p.Subsample | p.Mean | p.Patches | p.LayerNorm | p.Stack | p.Rows
)
# A value: number of a buffer of the old program, and of the step that has written it.
_Value: TypeAlias = tuple[int, int]


def with_numbers(lowered: Lowered, floats: Numbers, quantization: Quantization | None) -> Lowered:
    """Compute in other numbers than float32.

    Args:
        lowered: whose buffers are float32.
        floats: in which all is multiplied that is not int8: float32 or `BFLOAT16`.
        quantization: of int8 layers and attentions; None for none.
    """
    quantization = quantization or Quantization.none()
    return _Rewriting(lowered, floats, quantization).run()


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A step's wish: a value in some numbers."""

    buffer: int
    numbers: Numbers


class _Rewriting:
    """One pass over a program, which makes new buffers, steps and arrays."""

    def __init__(self, lowered: Lowered, floats: Numbers, quantization: Quantization) -> None:
        self._program = lowered.program
        self._old = lowered.arrays
        self._factors = lowered.factors
        self._floats = floats
        self._quantization = quantization
        self._buffers: list[Buffer] = []
        self._steps: list[p.Step] = []
        self._arrays: dict[str, Array] = {}
        # Where a value is now: by its old buffer and numbers.
        self._places: dict[tuple[int, Numbers], int] = {}
        # Where a part of a Project is now: by its old buffer and column.
        self._views: dict[tuple[int, int], tuple[int, int]] = {}
        self._wanted = _wanted_numbers(self._program, self._readings)

    def run(self) -> Lowered:
        """The new program and its arrays."""
        first = self._program.steps[0]
        for number, step in enumerate(self._program.steps):
            self._rewrite(number, step)
        program = p.Program(
            input=self._input(first),
            buffers=place(self._buffers, self._steps),
            steps=tuple(self._steps),
            arrays=specs_of(self._arrays),
        )
        return Lowered(program=program, arrays=self._arrays, factors=self._factors)

    def _input(self, first: p.Step) -> p.Input:
        """The input as the first step reads it."""
        path = first.name
        if isinstance(first, p.Patches):  # which leave it in the numbers of the layer behind it
            return self._program.input
        grids = self._quantization.layers.get(path)
        border = grids.input.border if grids and isinstance(grids.input, PixelGrid) else None
        return replace(self._program.input, numbers=self._read_numbers(path), border=border)

    def _read_numbers(self, path: str) -> Numbers:
        """The numbers in which the layer of a path reads its source."""
        grids = self._quantization.layers.get(path)
        if grids is None:
            return self._floats
        return Numbers(dtype="uint8", scale=grids.input.scale, zero_point=grids.input.zero_point)

    def _attention_numbers(self, path: str) -> Numbers:
        # Their scales are in the products that make them.
        return SIGNED_BYTES if path in self._quantization.attentions else self._floats

    def _readings(self, step: p.Step) -> Iterator[_Reading]:
        """The values that a step reads, but for those of an attention, which are found by view."""
        match step:
            case p.Conv() | p.Linear():
                if step.source is not None:
                    numbers = self._read_numbers(step.name)
                    yield _Reading(buffer=step.source, numbers=numbers)
                if isinstance(step, p.Linear) and step.residual is not None:
                    yield _Reading(buffer=step.residual, numbers=FLOAT32)
            case p.Project():
                for part in step.parts:
                    yield _Reading(
                        buffer=step.source, numbers=self._read_numbers(_path_of(part.weight))
                    )
            case p.Attention():
                return
            case _:
                yield from (_Reading(buffer=number, numbers=FLOAT32) for number in reads(step))

    def _rewrite(self, number: int, step: p.Step) -> None:
        match step:
            case p.Conv() | p.Linear():
                self._layer(number, step)
            case p.Project():
                self._project(step)
            case p.Attention():
                self._attention(number, step)
            case p.Output():
                self._steps.append(replace(step, source=self._places[step.source, FLOAT32]))
            case p.Patches():
                self._write(number, step, step.target)
            case p.Stack():
                self._keep(step.rows, self._old[step.rows])
                below = None if step.source is None else self._places[step.source, FLOAT32]
                self._write(number, replace(step, source=below), step.target)
            case _:
                if isinstance(step, p.LayerNorm):
                    self._keep_all(step.weight, step.bias)
                source = self._places[step.source, FLOAT32]
                self._write(number, replace(step, source=source), step.target)

    def _layer(self, number: int, step: _Layer) -> None:
        numbers = self._read_numbers(step.name)
        weight, bias, scale = self._weights(step.name, step.weight, step.bias, numbers)
        changed = replace(step, weight=weight, bias=bias, scale=scale)
        if step.source is not None:
            changed = replace(changed, source=self._places[step.source, numbers])
        if isinstance(changed, p.Linear) and changed.residual is not None:
            changed = replace(changed, residual=self._places[changed.residual, FLOAT32])
        self._write(number, changed, step.target)

    def _write(self, number: int, step: _Writing, target: int) -> None:
        """Append a step that writes a value, in all numbers in which it is wanted."""
        wanted = list(self._wanted[target, number])
        residual = step.residual if isinstance(step, p.Linear) else None
        if FLOAT32 in wanted or residual is not None or len(wanted) > 1:
            wanted = [FLOAT32, *(numbers for numbers in wanted if numbers != FLOAT32)]
        old = self._places.get((target, FLOAT32))
        for key in [key for key in self._places if key[0] == target]:
            del self._places[key]
        made: list[int] = []
        for numbers in wanted:
            in_place = numbers == FLOAT32 and residual is not None and residual == old
            made.append(old if in_place and old is not None else self._buffer(target, numbers))
            self._places[target, numbers] = made[-1]
        step = replace(step, target=made[0])
        if isinstance(step, _LAYERS) and len(made) > 1:
            step = replace(step, copy=made[1])
        self._steps.append(step)
        for copy in made[2 if isinstance(step, _LAYERS) else 1 :]:
            self._steps.append(self._conversion(step, made[0], copy))

    def _conversion(self, step: p.Step, source: int, target: int) -> p.Step:
        rows = self._buffers[source].rows
        name = f"{step.name}.convert"
        return p.Subsample(
            name=name, stage=step.stage, source=source, target=target, grid=(1, rows), step=1
        )

    def _buffer(self, old: int, numbers: Numbers) -> int:
        """The number of a new buffer like an old one, in some numbers."""
        buffer = self._program.buffers[old]
        stride = padded(buffer.columns)
        if buffer.grid is not None:
            stride = numbers.grid_stride(buffer.columns)
        self._buffers.append(replace(buffer, numbers=numbers, stride=stride))
        return len(self._buffers) - 1

    def _project(self, step: p.Project) -> None:
        """Parts that read the same numbers and are read in the same stay together."""
        groups: dict[tuple[Numbers, Numbers], list[tuple[int, p.Part]]] = {}
        column = 0
        for part in step.parts:
            path = _path_of(part.weight)
            attention, role = path.rsplit(".", 1)
            key = self._read_numbers(path), self._attention_numbers(attention)
            groups.setdefault(key, []).append((column, self._part(part, step.heads, role)))
            column += step.heads * padded(part.width)
        for (source, target), parts in groups.items():
            columns = sum(step.heads * padded(part.width) for _, part in parts)
            rows = self._program.buffers[step.target].rows
            self._buffers.append(
                Buffer(rows=rows, columns=columns, stride=columns, offset=0, numbers=target)
            )
            number, at = len(self._buffers) - 1, 0
            for old, part in parts:
                self._views[step.target, old] = number, at
                at += step.heads * padded(part.width)
            self._steps.append(
                replace(
                    step,
                    source=self._places[step.source, source],
                    target=number,
                    parts=tuple(part for _, part in parts),
                )
            )

    def _part(self, part: p.Part, heads: int, role: str) -> p.Part:
        path = _path_of(part.weight)
        grids = self._quantization.attentions.get(path.rsplit(".", 1)[0])
        shares = offset = None
        if grids is not None:
            scales = {"q": grids.queries, "k": grids.keys, "v": grids.values}[role]
            offset = {"q": None, "k": grids.key_offset, "v": grids.value_offset}[role]
            # A scale a head, or a channel; the factor of the queries is in the scores.
            each = np.repeat(scales.astype(np.float64), heads * part.width // len(scales))
            shares = 1 / (each * self._factors.get(part.weight, 1.0))
        numbers = self._read_numbers(path)
        weight, bias, scale = self._weights(
            path, part.weight, part.bias, numbers, shares=shares, offset=offset
        )
        return replace(part, weight=weight, bias=bias, scale=scale)

    def _attention(self, number: int, step: p.Attention) -> None:
        grids = self._quantization.attentions.get(step.name)
        views = [self._view(view) for view in (step.queries, step.keys, step.values)]
        self._keep_all(step.table, step.positions, step.rest)
        queries, keys, values = views
        step = replace(step, queries=queries, keys=keys, values=values)
        self._write(number, step if grids is None else self._scaled(step, grids), step.target)

    def _scaled(self, step: p.Attention, grids: AttentionGrids) -> p.Attention:
        # What the lowering has multiplied the queries with, and their integers are without.
        factor = self._factors.get(f"{step.name}.q.weight", 1.0)
        scores = grids.queries.astype(np.float64) * grids.keys * factor
        return replace(
            step,
            score_scale=self._keep(f"{step.name}.score_scale", scores),
            value_scale=self._keep(f"{step.name}.value_scale", grids.values),
            value_offset=self._keep(f"{step.name}.value_offset", grids.value_offset),
        )

    def _view(self, view: View) -> View:
        buffer, column = self._views[view.buffer, view.column]
        return replace(view, buffer=buffer, column=column)

    def _keep(self, name: str, array: Array) -> str:
        self._arrays[name] = array
        return name

    def _keep_all(self, *names: str | None) -> None:
        """Keep arrays as they are."""
        for name in names:
            if name is not None:
                self._keep(name, self._old[name])

    def _weights(
        self,
        path: str,
        weight: str,
        bias: str | None,
        numbers: Numbers,
        *,
        shares: Array | None = None,
        offset: Array | None = None,
    ) -> tuple[str, str | None, str | None]:
        """Names of a layer's weights, bias and scale in the numbers that it multiplies in.

        Args:
            shares: (O,) by which its results are multiplied beside; None for 1.
            offset: (O,) that is taken off them before; None for 0.
        """
        values, added = self._old[weight], None if bias is None else self._old[bias]
        if offset is not None:
            bias = bias or f"{path}.bias"
            added = (0 if added is None else added) - offset.astype(np.float64)
        if numbers.dtype == "uint8":
            return self._integers(path, weight, values, bias, added, shares)
        if shares is not None:
            values = values.astype(np.float64) * _along(shares, values)
            added = None if added is None else added.astype(np.float64) * shares
        if numbers.dtype == "bfloat16":
            values = to_bfloat16(values)
        name = None if bias is None or added is None else self._keep(bias, added)
        return self._keep(weight, values), name, None

    def _integers(
        self,
        path: str,
        weight: str,
        values: Array,
        bias: str | None,
        added: Array | None,
        shares: Array | None,
    ) -> tuple[str, str | None, str]:
        grids: LayerGrids = self._quantization.layers[path]
        factor = self._factors.get(weight, 1.0)
        step = grids.weight_scale.astype(np.float64) * factor
        integers = np.rint(values / _along(step, values)).astype(np.int8)
        unit = grids.bias_scale.astype(np.float64) * factor
        name = None
        if isinstance(grids.input, PixelGrid) and any(grids.input.offset):
            # The pixels' offset is in the bias; of patches it is there already.
            bias = bias or f"{path}.bias"
            share = grids.input.share(values)
            added = -share if added is None else added - share
        if bias is not None and added is not None:
            limits = np.iinfo(np.int32)
            whole = np.clip(np.rint(added / unit), limits.min, limits.max)
            name = self._keep(bias, whole.astype(np.int32))
        scale = unit if shares is None else unit * shares
        return self._keep(weight, integers), name, self._keep(f"{path}.scale", scale)


def _along(vector: Array, array: Array) -> Array:
    """A vector with an entry for each row of an array, to be multiplied with it."""
    result: Array = vector.reshape(-1, *[1] * (array.ndim - 1))
    return result


def _path_of(weight: str) -> str:
    """The path of the layer whose weights have this name."""
    return weight.removesuffix(".weight")


def _wanted_numbers(
    program: p.Program, readings: Callable[[p.Step], Iterable[_Reading]]
) -> Mapping[_Value, Sequence[Numbers]]:
    """Find the numbers in which each value is read, by its buffer and the step that writes it."""
    wanted: dict[_Value, list[Numbers]] = {}
    writers: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        for reading in readings(step):
            found = wanted[reading.buffer, writers[reading.buffer]]
            if reading.numbers not in found:
                found.append(reading.numbers)
        target = writes(step)
        if target is not None:
            writers[target] = number
            wanted[target, number] = []
    # What nothing reads is written all the same.
    return {value: found or [FLOAT32] for value, found in wanted.items()}
