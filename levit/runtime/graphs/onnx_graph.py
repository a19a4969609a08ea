"""Reading of an ONNX file's graph, and the walk along it that finds the shape of every value."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from levit.runtime.graphs.budget import MOST_NODES, Budget
from levit.runtime.graphs.onnx_operators import DTYPES, OPERATORS, OPSETS
from levit.runtime.graphs.operators import Operator
from levit.runtime.graphs.shapes import (
    BATCH,
    ITEM_BYTES,
    LARGEST_SIZE,
    Tensor,
    shown,
    stored_numbers,
)
from levit.runtime.graphs.wire import Buffer, Fields, read, signed

__all__ = ["check_graph", "graph_values", "metadata_of"]

_V, _B, _F32 = 0, 2, 5
_NOWHERE: Final = (0, 0)  # the place of a field that is not there
_MOST_INPUTS: Final = 5
_MOST_AXES: Final = 4
_MOST_WEIGHTS: Final = 4 * MOST_NODES


def _fields(**places: tuple[int, int] | tuple[int, int, int]) -> Fields:
    """Fields by name: (number, type, most of them)."""
    return {
        number << 3 | kind: (name, most[0] if most else 1)
        for name, (number, kind, *most) in places.items()
    }


_MODEL: Final = _fields(
    ir_version=(1, _V), producer_name=(2, _B), producer_version=(3, _B), graph=(7, _B),
    opset_import=(8, _B), metadata_props=(14, _B, 8),
)  # fmt: skip
_OPSET: Final = _fields(domain=(1, _B), version=(2, _V))
_ENTRY: Final = _fields(key=(1, _B), value=(2, _B))
_GRAPH: Final = _fields(
    node=(1, _B, MOST_NODES), name=(2, _B), initializer=(5, _B, _MOST_WEIGHTS), input=(11, _B),
    output=(12, _B, 8),
)  # fmt: skip
_NODE: Final = _fields(
    input=(1, _B, _MOST_INPUTS), output=(2, _B), name=(3, _B), op_type=(4, _B), attribute=(5, _B, 4)
)
_ATTRIBUTE: Final = _fields(
    name=(1, _B), f=(2, _F32), i=(3, _V), ints=(8, _V, _MOST_AXES), type=(20, _V)
)
_TENSOR: Final = _fields(
    dims=(1, _V, _MOST_AXES), data_type=(2, _V), name=(8, _B), raw_data=(9, _B)
)
_VALUE: Final = _fields(name=(1, _B), type=(2, _B))
_TYPE: Final = _fields(tensor_type=(1, _B))
_TENSOR_TYPE: Final = _fields(elem_type=(1, _V), shape=(2, _B))
_SHAPE: Final = _fields(dim=(1, _B, _MOST_AXES))
_DIM: Final = _fields(dim_value=(1, _V), dim_param=(2, _B))

_MODELS_OF_OTHERS: Final = {20: "training data", 25: "functions of its own"}
_GRAPHS_OF_OTHERS: Final = {15: "sparse weights"}
_ATTRIBUTES_OF_OTHERS: Final = {
    4: "a text",
    5: "a tensor in an attribute",
    6: "a sub-graph",
    11: "sub-graphs",
}
_TENSORS_OF_OTHERS: Final = {13: "weights in another file", 14: "weights in another file"}
_NODES_OF_OTHERS: Final = {7: "an operator of another domain"}

_IR_VERSIONS: Final = range(7, 11)
_METADATA: Final = frozenset(
    {
        b"levit.variant",
        b"levit.preprocess",
        b"levit.labels",
        b"levit.scores",
        b"levit.batch",
        b"levit.precision",
    }
)
# Names reach the terminal by the backends' messages. Ours are paths of layers, of 60 at most.
_NAME: Final = re.compile(rb"[!-~]+")
_LONGEST_NAME: Final = 200
_ATTRIBUTE_KINDS: Final = {1: "f", 2: "i", 7: "ints"}


class _Node(NamedTuple):
    """One operation: names as they stand in the file."""

    operator: Operator
    kind: str
    inputs: tuple[bytes, ...]
    output: bytes
    attributes: Mapping[str, Any]


def check_graph(data: Buffer) -> dict[bytes, Tensor]:
    """Return the values of an ONNX file's graph, by name.

    Raises:
        ValueError: it has something that `levit export` does not write.
    """
    parts: dict[str, tuple[int, int]] = {}
    for name, start, end in read(data, 0, len(data), _MODEL, _MODELS_OF_OTHERS):
        parts[name] = start, end
        if name == "metadata_props":
            key, value = _entry(data, start, end)
            if key not in _METADATA or value is None:
                raise ValueError(f"it has metadata {key!r}")
    missing = sorted({name for name, _ in _MODEL.values()} - {"metadata_props"} - parts.keys())
    if missing:
        raise ValueError(f"it has no {missing[0]}")
    if parts["ir_version"][0] not in _IR_VERSIONS:
        raise ValueError(f"it is of version {parts['ir_version'][0]}")
    _name(data, *parts["producer_name"])
    if parts["producer_version"][0] < parts["producer_version"][1]:
        _name(data, *parts["producer_version"])
    _check_opset(data, *parts["opset_import"])
    graph = _Graph(data, *parts["graph"])
    values = graph.walk()
    graph.check_outputs()
    return values


def graph_values(data: Buffer) -> dict[bytes, Tensor]:
    """Return the values of a graph alone (a ``GraphProto``), whatever it states of its outputs.

    Raises:
        ValueError: it has something that `levit export` does not write.
    """
    return _Graph(data, 0, len(data)).walk()


def metadata_of(data: Buffer) -> dict[str, str]:
    """Read the texts of a file that `check_graph` has let through."""
    places = (part for part in read(data, 0, len(data), _MODEL) if part[0] == "metadata_props")
    pairs = (_entry(data, start, end) for _, start, end in places)
    return {str(key, "utf-8"): str(value, "utf-8") for key, value in pairs if key and value}


def _check_opset(data: Buffer, start: int, end: int) -> None:
    parts = _parts(data, start, end, _OPSET)
    domain = bytes(data[slice(*parts.get("domain", _NOWHERE))])
    version = parts.get("version", _NOWHERE)[0]
    if domain or version not in OPSETS:
        raise ValueError(f"it is in opset {version} of {domain[:40]!r}")


class _Graph:
    """The nodes and values of a graph."""

    def __init__(self, data: Buffer, start: int, end: int) -> None:
        self._data = data
        self._nodes: list[_Node] = []
        self._values: dict[bytes, Tensor] = {}
        self._inputs: list[tuple[bytes, Tensor]] = []
        self._outputs: list[tuple[bytes, Tensor]] = []
        self._attributes: dict[bytes, tuple[str, Any]] = {}
        self._weights_bytes = 0
        for name, at, stop in read(data, start, end, _GRAPH, _GRAPHS_OF_OTHERS):
            if name == "node":
                self._nodes.append(self._node(at, stop))
            elif name == "initializer":
                self._define(*self._weight(at, stop))
            elif name == "name":
                _name(data, at, stop)
            else:
                (self._inputs if name == "input" else self._outputs).append(self._border(at, stop))
        if not self._inputs or not self._outputs:
            raise ValueError("it has no input, or no output")

    def walk(self) -> dict[bytes, Tensor]:
        """Find every value, from the input to the outputs."""
        last_reads: dict[object, int] = {}
        for place, node in enumerate(self._nodes):
            for name in node.inputs:
                last_reads[name] = place
        for name, _ in self._outputs:
            last_reads[name] = -1
        budget = Budget(self._weights_bytes, last_reads)
        ((name, image),) = self._inputs
        if image.dtype not in ("float32", "uint8"):
            raise ValueError(f"its input is of {image.dtype}")
        self._define(name, image)
        budget.start(name, image)
        for place, node in enumerate(self._nodes):
            try:
                reads = [self._values[name] for name in node.inputs]
            except KeyError as error:
                raise ValueError(
                    f"{node.kind} reads {_shown(error.args[0])}, which is not written before it"
                ) from None
            try:
                made = node.operator.apply(reads, node.attributes)
                budget.add(place, node.output, made, node.inputs)
            except ValueError as error:
                raise ValueError(f"{node.kind} {_shown(node.output)} {error}") from None
            self._define(node.output, made)
        return self._values

    def check_outputs(self) -> None:
        """Raise ValueError where an output is not what the graph states."""
        for name, stated in self._outputs:
            found = self._values.get(name)
            if found is None or found.fixed or (found.dtype, found.shape) != stated[:2]:
                raise ValueError(f"its output {_shown(name)} is not what it states")

    def _define(self, name: bytes, value: Tensor) -> None:
        if name in self._values:
            raise ValueError(f"it has two values {_shown(name)}")
        self._values[name] = value

    def _node(self, start: int, end: int) -> _Node:
        data, output, kind = self._data, b"", ""
        inputs: list[bytes] = []
        attributes: dict[str, Any] = {}
        for name, at, stop in read(data, start, end, _NODE, _NODES_OF_OTHERS):
            if name == "input":
                inputs.append(bytes(data[at:stop]))
            elif name == "output":
                output = _name(data, at, stop)
            elif name == "op_type":
                kind = bytes(data[at:stop]).decode("latin-1")
                if kind not in OPERATORS:
                    raise ValueError(f"it has an operator {_shown(kind.encode())}")
            elif name == "name":
                if data[at:stop] != output:
                    _name(data, at, stop)
            else:
                try:
                    key, value = self._attribute(at, stop)
                except ValueError as error:
                    raise ValueError(f"its {kind} {_shown(output)}: {error}") from None
                if key in attributes:
                    raise ValueError(f"it has two attributes {key}")
                attributes[key] = value
        if not kind or not output:
            raise ValueError(f"it has an operator {_shown(kind.encode())} without a result")
        return _Node(OPERATORS[kind], kind, tuple(inputs), output, attributes)

    def _attribute(self, start: int, end: int) -> tuple[str, Any]:
        """Read an attribute, once of all that are equal: (name, value)."""
        raw = bytes(self._data[start:end])
        if raw not in self._attributes:
            self._attributes[raw] = _read_attribute(raw)
        return self._attributes[raw]

    def _weight(self, start: int, end: int) -> tuple[bytes, Tensor]:
        data, dims = self._data, []
        dtype, name, place = "", b"", slice(0, 0)
        for field, at, stop in read(data, start, end, _TENSOR, _TENSORS_OF_OTHERS):
            if field == "dims":
                dims.append(at)
            elif field == "data_type":
                dtype = DTYPES.get(at, "")
            elif field == "name":
                name = _name(data, at, stop)
            else:
                place = slice(at, stop)
        shape = tuple(dims)
        size = place.stop - place.start
        if not dtype or not name:
            raise ValueError(f"its weight {_shown(name)} has no type that levit writes, or no name")
        if size != math.prod(shape) * ITEM_BYTES[dtype] or not size:
            raise ValueError(f"its weight {_shown(name)} of {shown(shape)} has {size} bytes")
        self._weights_bytes += size
        numbers = None
        if dtype == "int64":
            try:
                numbers = stored_numbers(shape, data[place])
            except ValueError as error:
                raise ValueError(f"its weight {_shown(name)} {error}") from None
        return name, Tensor(dtype, shape, fixed=True, numbers=numbers)

    def _border(self, start: int, end: int) -> tuple[bytes, Tensor]:
        """Read an input or output: (name, the value that it states)."""
        data = self._data
        value = _parts(data, start, end, _VALUE)
        name = _name(data, *value.get("name", _NOWHERE))
        kind = _parts(data, *value.get("type", _NOWHERE), _TYPE)
        tensor = _parts(data, *kind.get("tensor_type", _NOWHERE), _TENSOR_TYPE)
        dims = read(data, *tensor.get("shape", _NOWHERE), _SHAPE)
        shape = tuple(_dim(data, a, b, i) for i, (_, a, b) in enumerate(dims))
        return name, Tensor(DTYPES.get(tensor.get("elem_type", _NOWHERE)[0], "no type"), shape)


def _read_attribute(raw: bytes) -> tuple[str, Any]:
    name, kind, ints = "", 0, []
    values: dict[str, Any] = {}
    for field, at, stop in read(raw, 0, len(raw), _ATTRIBUTE, _ATTRIBUTES_OF_OTHERS):
        if field == "name":
            name = _name(raw, at, stop).decode()
        elif field == "type":
            kind = at
        elif field == "f":
            (values["f"],) = struct.unpack("<f", raw[at:stop])
        elif field == "i":
            values["i"] = signed(at)
        else:
            ints.append(signed(at))
            values["ints"] = tuple(ints)
    if not name or list(values) != [_ATTRIBUTE_KINDS.get(kind)]:
        raise ValueError(f"its attribute {name!r} is of type {kind}")
    return name, values[_ATTRIBUTE_KINDS[kind]]


def _dim(data: Buffer, start: int, end: int, axis: int) -> int:
    parts = _parts(data, start, end, _DIM)
    if axis == 0 and parts.keys() == {"dim_param"} and data[slice(*parts["dim_param"])] == b"batch":
        return BATCH
    if parts.keys() != {"dim_value"} or not 0 < parts["dim_value"][0] < LARGEST_SIZE:
        raise ValueError(f"its input or output has an axis {axis} of another kind")
    return parts["dim_value"][0]


def _entry(data: Buffer, start: int, end: int) -> tuple[bytes | None, bytes | None]:
    """Read a text of the metadata: (key, value), as far as they are there."""
    found = {name: bytes(data[a:b]) for name, a, b in read(data, start, end, _ENTRY)}
    return found.get("key"), found.get("value")


def _parts(data: Buffer, start: int, end: int, fields: Fields) -> dict[str, tuple[int, int]]:
    """Read a message whose fields stand once: their places, or numbers, by name."""
    return {name: (a, b) for name, a, b in read(data, start, end, fields)}


def _name(data: Buffer, start: int, end: int) -> bytes:
    name = bytes(data[start:end]) if end - start <= _LONGEST_NAME else b""
    if not _NAME.fullmatch(name):
        raise ValueError(f"it has a name {_shown(bytes(data[start : min(end, start + 99)]))}")
    return name


def _shown(name: bytes) -> str:
    text = name[:60].decode("latin-1")
    return repr(text if len(name) <= 60 else f"{text}…")
