"""The walk along an IR that finds the shape of every value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from levit.runtime.graphs.budget import MOST_NODES, Budget
from levit.runtime.graphs.ir_operators import DTYPES, OPERATIONS
from levit.runtime.graphs.ir_text import (
    Layer,
    Port,
    check_texts,
    find_head,
    read_attributes,
    read_edges,
    read_layers,
)
from levit.runtime.graphs.shapes import (
    BATCH,
    ITEM_BYTES,
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
_STORED: Final = re.compile(
    rb'element_type="(\w+)" shape="((?:\d{1,10}(?:, \d{1,10})*)?)" '
    rb'offset="(0|[1-9]\d{0,14})" size="([1-9]\d{0,14})" '
)
_INPUT_SHAPE: Final = re.compile(r"(\?|\d{1,10}),(\d{1,10}),(\d{1,10}),(\d{1,10})")


def check_ir(text: bytes, weights: Buffer) -> dict[str, Tensor]:
    """Return the values of an IR by the names of the layers that make them.

    Raises:
        ValueError: it has something that `levit export` does not write.
    """
    layers, at = read_layers(text, find_head(text), _MOST_LAYERS)
    edges, at = read_edges(text, at)
    check_texts(text, at)
    # Older releases leave out numbers.
    places = {layer.number: place for place, layer in enumerate(layers)}
    if len(places) != len(layers):
        raise ValueError("it has two layers of one number")
    sources = [_sources(layer, edges, places) for layer in layers]
    if sum(map(len, sources)) != len(edges):
        raise ValueError("it has edges to nothing")
    return _Graph(layers, sources, weights).walk()


def _sources(
    layer: Layer,
    edges: Mapping[tuple[int, int], tuple[int, int]],
    places: Mapping[int, int],
) -> list[tuple[int, int]]:
    """Return the (place of the layer, its output) that each input of a layer reads."""
    sources = []
    for port in layer.inputs:
        source, output = edges.get((layer.number, port.number), (-1, 0))
        if source not in places:
            raise ValueError(f"{_named(layer)} has an input that reads nothing")
        sources.append((places[source], output))
    return sources


class _Graph:
    """The layers of a network, and their values as far as they have been walked."""

    def __init__(
        self,
        layers: Sequence[Layer],
        sources: Sequence[Sequence[tuple[int, int]]],
        weights: Buffer,
    ) -> None:
        self._layers = layers
        self._sources = sources
        self._weights = weights
        self._shared = _MOST_SHARED * len(weights)
        self._values: list[Tensor | None] = []
        self._types: dict[tuple[bytes, bytes], tuple[Tensor, int]] = {}
        self._made: dict[tuple[object, ...], Tensor] = {}
        self._last_reads: dict[object, int] = {}
        for place, parts in enumerate(sources):
            for source, _ in parts:
                self._last_reads[source] = place
        self._budget = Budget(len(weights), self._last_reads)

    def walk(self) -> dict[str, Tensor]:
        """Find every value, from the input to the outputs."""
        kinds = [layer.kind for layer in self._layers]
        if kinds.count(b"Parameter") != 1 or not 1 <= kinds.count(b"Result") <= 8:
            raise ValueError("it has more or less than one input, or no output")
        if len(kinds) - kinds.count(b"Const") > MOST_NODES:
            raise ValueError(f"it has over {MOST_NODES} operations")
        for place, layer in enumerate(self._layers):
            try:
                self._values.append(self._value(place, layer))
            except ValueError as error:
                raise ValueError(f"{_named(layer)} {error}") from None
        pairs = zip(self._layers, self._values, strict=True)
        return {layer.name.decode(): value for layer, value in pairs if value is not None}

    def _value(self, place: int, layer: Layer) -> Tensor | None:
        """Return what a layer makes, as the text states it too."""
        sources = self._sources[place]
        reads = self._reads(layer, sources) if sources else []
        if layer.kind == b"Const":
            made = self._stored(layer)
        elif layer.kind == b"Parameter":
            made = _input(layer)
            self._budget.start(place, made)
        elif layer.kind == b"Result":
            if layer.output is not None or len(reads) != 1 or reads[0].fixed or layer.attributes:
                raise ValueError("is no output of a network")
            return None
        else:
            # Blocks of a network repeat each other.
            key = (layer.kind, layer.version, layer.attributes, *reads)
            found = self._made.get(key)
            made = self._made[key] = _make(layer, reads) if found is None else found
            self._budget.add(place, place, made, {source for source, _ in sources})
        output = layer.output
        if output is None or output.number != len(reads) or not _states(output, made):
            raise ValueError("does not state the value that it makes")
        return made

    def _reads(self, layer: Layer, sources: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return the values that a layer reads."""
        reads: list[Tensor] = []
        for (source, output), port in zip(sources, layer.inputs, strict=True):
            value = self._values[source] if source < len(self._values) else None
            made = None if value is None else self._layers[source].output
            if value is None or made is None:
                raise ValueError(f"reads layer {source}, which makes nothing before it")
            number, precision, dims = port
            if precision != made[1] or dims != made[2] or output != made[0] or number != len(reads):
                raise ValueError(f"reads another value than layer {source} makes")
            reads.append(value)
        return reads

    def _stored(self, layer: Layer) -> Tensor:
        parts = _STORED.fullmatch(layer.attributes)
        if parts is None or layer.version != b"opset1" or layer.inputs:
            raise ValueError(f"is stored as {layer.attributes[:80].decode('latin-1')!r}")
        kind, sizes, offset, size = parts.groups()
        start, length = int(offset), int(size)
        if (kind, sizes) not in self._types:
            self._types[kind, sizes] = _type(kind, sizes)
        tensor, wanted = self._types[kind, sizes]
        if length != wanted:
            raise ValueError(f"has {length} bytes for the shape {tensor.shape}")
        if start + length > len(self._weights):
            raise ValueError("is one whose weights lie outside of their file")
        self._shared -= length
        if self._shared < 0:
            raise ValueError(f"is one of more than {_MOST_SHARED} in the same place")
        if tensor.dtype != "int64":
            return tensor
        raw = self._weights[start : start + length]
        return tensor._replace(numbers=stored_numbers(tensor.shape, raw))


def _make(layer: Layer, reads: Sequence[Tensor]) -> Tensor:
    operation = OPERATIONS.get(layer.kind.decode())
    version = layer.version.decode()
    if operation is None:
        raise ValueError(f"of {version!r} is none that levit writes")
    if version != operation.version:
        raise ValueError(f"is of {version!r}")
    return operation.apply(reads, read_attributes(layer.attributes))


def _type(kind: bytes, sizes: bytes) -> tuple[Tensor, int]:
    """Return a constant of this type and shape, and its size in bytes."""
    dtype = DTYPES.get(kind.decode(), "")
    shape = tuple(map(int, sizes.split(b", "))) if sizes else ()
    if not dtype or len(shape) > 4:
        raise ValueError(f"is of type {kind.decode()!r} and shape {shape}")
    return Tensor(dtype, shape, fixed=True), math.prod(shape) * ITEM_BYTES[dtype]


def _input(layer: Layer) -> Tensor:
    attributes = read_attributes(layer.attributes)
    shape = _INPUT_SHAPE.fullmatch(attributes.get("shape", ""))
    dtype = attributes.get("element_type", "")
    if shape is None or dtype not in ("f32", "u8") or len(attributes) != 2:
        raise ValueError("is no image")
    sizes = (BATCH if size == "?" else int(size) for size in shape.groups())
    return Tensor(DTYPES[dtype], tuple(sizes))


def _states(port: Port, made: Tensor) -> bool:
    shape = made.shape
    if shape and shape[0] >= BATCH:
        shape = (-1, *shape[1:])
    return port.dims == shape and port.precision == _PORTS[made.dtype]


def _named(layer: Layer) -> str:
    return f"its operation {layer.kind.decode()!r} {layer.name[:60].decode()!r}"
