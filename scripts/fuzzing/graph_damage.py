"""Hypothesis strategies of graphs of levit's own operators that levit does not write."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import numpy_helper

from fuzzing.damage import few, one_of
from levit.runtime.graphs.onnx_operators import OPERATORS

__all__ = ["NUMBERS", "damaged_graph"]

NUMBERS: Final = (-1, 0, 1, 2, 3, 4, 5, 8, 16, 24, 2**31 - 1, 2**63 - 1)
_MOST_NODES: Final = 40


def _number(draw: Any, old: int) -> int:
    return draw(st.sampled_from((old - 1, old + 1, old * 2, -old, *NUMBERS)))


def _integers(draw: Any, graph: onnx.GraphProto) -> None:
    """Change a list of sizes, axes or places."""
    lists = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64]
    if lists:
        tensor = draw(one_of(lists))
        values = numpy_helper.to_array(tensor).copy()
        i = draw(st.integers(0, len(values) - 1))
        values[i] = np.clip(_number(draw, int(values[i])), -(2**63), 2**63 - 1)
        if draw(st.integers(0, 9)) == 0:
            values = values[:-1] if len(values) > 1 else np.repeat(values, 2)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _dims(draw: Any, graph: onnx.GraphProto) -> None:
    """Give a weight another shape, or another size."""
    tensor = draw(one_of(graph.initializer))
    values = numpy_helper.to_array(tensor)
    if draw(st.booleans()) and values.ndim > 1:
        values = values.reshape(draw(st.permutations(values.shape)))
    elif values.ndim and draw(st.booleans()):
        values = np.repeat(values, 2, axis=draw(st.integers(0, values.ndim - 1)))
    elif values.ndim:
        values = values.take(range(1), axis=draw(st.integers(0, values.ndim - 1)))
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _attribute(draw: Any, graph: onnx.GraphProto) -> None:
    nodes = [node for node in graph.node if node.attribute]
    if not nodes:
        return
    node = draw(one_of(nodes))
    attribute = draw(one_of(node.attribute))
    if attribute.ints:
        i = draw(st.integers(0, len(attribute.ints) - 1))
        attribute.ints[i] = max(-(2**63), min(_number(draw, attribute.ints[i]), 2**63 - 1))
    elif draw(st.integers(0, 9)) == 0:
        node.attribute.remove(attribute)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = max(-(2**63), min(_number(draw, attribute.i), 2**63 - 1))
    else:
        attribute.f = draw(st.floats(width=32))


def _operator(draw: Any, graph: onnx.GraphProto) -> None:
    """Change an operator to another that takes as many inputs."""
    node = draw(one_of(graph.node))
    alike = [name for name, one in OPERATORS.items() if len(node.input) in one.inputs]
    node.op_type = draw(st.sampled_from(alike))
    if not OPERATORS[node.op_type].needs:
        node.ClearField("attribute")


def _input(draw: Any, graph: onnx.GraphProto) -> None:
    """Read another value or weight."""
    node = draw(one_of(graph.node))
    names = [tensor.name for tensor in graph.initializer] + [n.output[0] for n in graph.node]
    node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(names))


def _order(draw: Any, graph: onnx.GraphProto) -> None:
    """Remove a node and read what it read, or read a node's result twice."""
    place = draw(st.integers(0, len(graph.node) - 1))
    gone = graph.node[place]
    for node in graph.node[place + 1 :]:
        for i, name in enumerate(node.input):
            if name == gone.output[0] and gone.input:
                node.input[i] = gone.input[0]
    del graph.node[place]


def _image(draw: Any, graph: onnx.GraphProto) -> None:
    """Change the image's sizes or its type."""
    kind = graph.input[0].type.tensor_type
    dim = draw(one_of(kind.shape.dim))
    if draw(st.integers(0, 4)) == 0:
        kind.elem_type = draw(st.sampled_from((1, 2, 10)))
    elif dim.HasField("dim_value"):
        dim.dim_value = max(0, min(_number(draw, dim.dim_value), 2**63 - 1))
    else:
        dim.dim_value = draw(st.sampled_from((1, 2, 3, 2**31)))


# The first more often: of them most that are taken come.
_CHANGES: Final = (
    _integers,
    _integers,
    _dims,
    _attribute,
    _operator,
    _input,
    _input,
    _order,
    _image,
)


@st.composite
def damaged_graph(draw: Any, data: bytes) -> bytes:
    """Draw some nodes of a model in a row, with a few things about them changed."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    graph = model.graph
    length = draw(st.integers(1, min(_MOST_NODES, len(graph.node))))
    del graph.node[length:]
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for _ in range(draw(few)):
        if graph.node and graph.initializer:
            draw(st.sampled_from(_CHANGES))(draw, graph)
    return model.SerializeToString(deterministic=True)
