"""Small ONNX files, with one thing about them that levit does not write."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = ("batch", 3, 8, 8)


def network(nodes, weights=(), *, image=IMAGE, output=IMAGE, dtype=TensorProto.FLOAT, opset=17):
    """A model of ``image`` → ``y``, in the form in which levit writes one."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", dtype, image)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        initializer=[numpy_helper.from_array(array, name) for name, array in weights],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
        producer_name="levit",
        producer_version="0",
    )


def node(op_type, inputs, output="y", **attributes):
    return helper.make_node(op_type, inputs, [output], name=output, **attributes)


def ints(*values):
    return np.array(values, np.int64)


def floats(*shape):
    return np.ones(shape, np.float32)


def written(model):
    return model.SerializeToString(deterministic=True)


def field(number, kind, value):
    """One field of protobuf's encoding; `value` is bytes, or a varint's."""
    key = bytes([number << 3 | kind])
    return key + (varint(len(value)) + value if kind == 2 else value)


def varint(number):
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def split(model):
    """(fields before the graph, the graph, fields after) of a file, to put others between."""
    graph = model.graph.SerializeToString(deterministic=True)
    data = written(model)
    whole = field(7, 2, graph)
    at = data.index(whole)
    return data[:at], graph, data[at + len(whole) :]


PLAIN = network([node("Sigmoid", ["image"])])
assert isinstance(PLAIN, onnx.ModelProto)
