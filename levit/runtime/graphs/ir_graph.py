"""The walk along an IR that finds the shape of every value."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from levit.runtime.graphs.budget import MOST_NODES, Budget
from levit.runtime.graphs.ir_operators import DTYPES, OPERATIONS, Operation
from levit.runtime.graphs.ir_text import (
    Layer,
    Port,
    check_texts,
    find_head,
    read_edges,
    read_layers,
)
from levit.runtime.graphs.shapes import (
    BATCH,
    ITEM_BYTES,
    LARGEST_SIZE,
    Shape,
    Tensor,
    stored_numbers,
)
from levit.runtime.graphs.wire import Buffer

__all__ = ["check_ir"]

# Weights are operations too.
_MOST_LAYERS: Final = 4 * MOST_NODES
# OpenVINO stores equal constants once: this many layers may share them.
_MOST_SHARED: Final = 4
_PORTS: Final = {
    "float32": b"FP32", "float16": b"FP16", "bfloat16": b"BF16", "uint8": b"U8", "int8": b"I8",
    "int64": b"I64",
}  # fmt: skip
_SHAPE: Final = re.compile(r"(?:\d{1,10}(?:, \d{1,10})*)?")
_INPUT_SHAPE: Final = re.compile(r"(\?|\d{1,10}),(\d{1,10}),(\d{1,10}),(\d{1,10})")
_PLACE: Final = re.compile(r"0|[1-9]\d{0,14}")


def check_ir(text: bytes, weights: Buffer) -> None:
    """Raise ValueError at the first thing in an IR that `levit export` does not write."""
    layers, at = [], find_head(text)
    for layer, end in read_layers(text, at, _MOST_LAYERS):
        if layer.number != b"%d" % len(layers):
            raise ValueError(f"its layer {layer.number.decode()} is not the next one")
        layers.append(layer)
        at = end
    edges, at = read_edges(text, at)
    check_texts(text, at)
    sources = [_sources(layer, edges) for layer in layers]
    if sum(map(len, sources)) != len(edges):
        raise ValueError("it has edges to nothing")
    _Graph(layers, sources, weights).walk()


def _sources(
    layer: Layer, edges: dict[tuple[bytes, bytes], tuple[int, bytes]]
) -> list[tuple[int, bytes]]:
    """Return the (layer, output) that each input of a layer reads."""
    try:
        return [edges[layer.number, port.number] for port in layer.inputs]
    except KeyError:
        raise ValueError(f"{_named(layer)} has an input that reads nothing") from None


class _Graph:
    """The layers of a network, and their values as far as they have been walked."""

    def __init__(
        self, layers: Sequence[Layer], sources: Sequence[Sequence[tuple[int, bytes]]],
        weights: Buffer,
    ) -> None:
        self._layers = layers
        self._sources = sources
        self._weights = weights
        self._shared = _MOST_SHARED * len(weights)
        self._values: list[Tensor | None] = []
        self._last_reads: dict[object, int] = {}
        for place, parts in enumerate(sources):
            for source, _ in parts:
                self._last_reads[source] = place
        self._budget = Budget(len(weights), self._last_reads)

    def walk(self) -> None:
        """Find the shape of every value, from the input to the outputs."""
        kinds = [layer.kind for layer in self._layers]
        if kinds.count("Parameter") != 1 or not 1 <= kinds.count("Result") <= 8:
            raise ValueError("it has more or less than one input, or no output")
        for place, layer in enumerate(self._layers):
            try:
                self._values.append(self._value(place, layer))
            except ValueError as error:
                raise ValueError(f"{_named(layer)} {error}") from None

    def _value(self, place: int, layer: Layer) -> Tensor | None:
        """Return what a layer makes, as the text states it too."""
        parts = zip(layer.inputs, self._sources[place], strict=True)
        reads = [self._read(i, port, *source) for i, (port, source) in enumerate(parts)]
        if layer.kind == "Result":
            if layer.output is not None or len(reads) != 1 or reads[0].fixed or layer.attributes:
                raise ValueError("is no output of a network")
            self._last_reads[place] = -1
            return None
        if layer.kind in ("Parameter", "Const"):
            if layer.version != "opset1" or reads:
                raise ValueError(f"is of {layer.version!r}, with {len(reads)} inputs")
            made = self._input(layer) if layer.kind == "Parameter" else self._stored(layer)
            if layer.kind == "Parameter":
                self._budget.start(place, made)
        else:
            made = _made(layer, reads)
            self._budget.add(place, place, made, {source for source, _ in self._sources[place]})
        output = layer.output
        if output is None or not _states(output, made) or output.number != b"%d" % len(reads):
            raise ValueError("does not state the value that it makes")
        return made

    def _read(self, place: int, port: Port, source: int, number: bytes) -> Tensor:
        """Return the value that the input at `place` reads."""
        value = self._values[source] if source < len(self._values) else None
        if value is None:
            raise ValueError(f"reads layer {source}, which makes nothing before it")
        output = self._layers[source].output
        if output is None or output.number != number or output[1:] != port[1:]:
            raise ValueError(f"reads another value than layer {source} makes")
        if port.number != b"%d" % place:
            raise ValueError("has its inputs in another order")
        return value

    def _input(self, layer: Layer) -> Tensor:
        shape = _INPUT_SHAPE.fullmatch(layer.attributes.get("shape", ""))
        dtype = layer.attributes.get("element_type")
        if shape is None or dtype not in ("f32", "u8") or len(layer.attributes) != 2:
            raise ValueError("is no image")
        sizes = (BATCH if size == "?" else int(size) for size in shape.groups())
        return Tensor(DTYPES[dtype], tuple(sizes))

    def _stored(self, layer: Layer) -> Tensor:
        names = ("element_type", "shape", "offset", "size")
        if layer.attributes.keys() != set(names):
            raise ValueError("is no constant as OpenVINO stores it")
        kind, sizes, offset, size = (layer.attributes[name] for name in names)
        dtype = DTYPES.get(kind, "")
        if not dtype or not _SHAPE.fullmatch(sizes):
            raise ValueError(f"has type {kind!r} and shape {sizes!r}")
        if not _PLACE.fullmatch(offset) or not _PLACE.fullmatch(size):
            raise ValueError(f"has {size!r} bytes from {offset!r}")
        shape: Shape = tuple(map(int, sizes.split(", "))) if sizes else ()
        start, length = int(offset), int(size)
        if length != math.prod(shape) * ITEM_BYTES[dtype] or not length or len(shape) > 4:
            raise ValueError(f"has {length} bytes for the shape {shape}")
        if start + length > len(self._weights):
            raise ValueError("lies outside of its file")
        self._shared -= length
        if self._shared < 0:
            raise ValueError(f"is one of more than {_MOST_SHARED} in the same place")
        raw = self._weights[start : start + length] if dtype == "int64" else b""
        numbers = stored_numbers(shape, raw) if dtype == "int64" else None
        return Tensor(dtype, shape, fixed=True, numbers=numbers)


def _made(layer: Layer, reads: Sequence[Tensor]) -> Tensor:
    operation: Operation | None = OPERATIONS.get(layer.kind)
    if operation is None:
        raise ValueError(f"of {layer.version!r} is none that levit writes")
    operation.check(layer.version, layer.attributes)
    if len(reads) != operation.inputs:
        raise ValueError(f"has {len(reads)} inputs")
    for value in reads[operation.moving :]:
        if not value.fixed:
            raise ValueError("computes what is a weight in levit's networks")
    if not reads[0].fixed:
        return operation.make(reads, layer.attributes)
    if not operation.of_weights or not all(value.fixed for value in reads):
        raise ValueError("computes with weights alone")
    return operation.make(reads, layer.attributes)._replace(fixed=True)


def _states(port: Port, made: Tensor) -> bool:
    dims = tuple(-1 if size >= BATCH else size for size in made.shape)
    return port.dims == dims and port.precision == _PORTS[made.dtype]


def _named(layer: Layer) -> str:
    return f"operation {layer.kind!r} {layer.name[:60].decode()!r}"
