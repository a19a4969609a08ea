"""Operators that a file may have and levit does not write; each once ended a process, or could."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_files import IMAGE, PLAIN, field, floats, ints, network, node, split, varint, written

from levit.errors import CorruptArtifactError
from levit.runtime.graphs.budget import MOST_LIVE, MOST_NODES
from levit.runtime.graphs.shapes import BATCH
from levit.runtime.onnx_file import check_onnx_file

RELU6 = [node("Sigmoid", ["image"])]


def two(first, **attributes):
    """A node that reads the image and a weight w."""
    return [node(first, ["image", "w"], **attributes)]


# name → (nodes, weights, pattern of the refusal)
OPERATORS = {
    "integer division": (
        [node("Div", ["a", "b"], "q"), *RELU6],
        [("a", ints(-(2**63))), ("b", ints(-1))],
        r"integers \(-92",
    ),
    "integer division of small numbers": (
        [node("Div", ["a", "b"], "q"), *RELU6],
        [("a", ints(7)), ("b", ints(0))],
        "Div 'q' computes with weights alone",
    ),
    "gathernd": (
        [node("GatherND", ["image", "w"], batch_dims=-5)],
        [("w", ints(0))],
        "operator 'GatherND'",
    ),
    "einsum": ([node("Einsum", ["image"], equation="." * 12)], [], "operator 'Einsum'|a text"),
    "expand": (two("Expand"), [("w", ints(40000, 40000))], "operator 'Expand'"),
    "range": ([node("Range", ["w", "w", "w"])], [("w", ints(1))], "operator 'Range'"),
    "constantofshape": ([node("ConstantOfShape", ["w"])], [("w", ints(1))], "'ConstantOfShape'"),
    "tile": (two("Tile"), [("w", ints(1, 1, 9999, 9999))], "operator 'Tile'"),
    "gather": (two("Gather", axis=1), [("w", ints(2**31))], "operator 'Gather'|integers"),
    "mod": (two("Mod"), [("w", floats(1))], "operator 'Mod'"),
    "resize": (two("Resize"), [("w", floats(4))], "operator 'Resize'"),
    "random": ([node("RandomNormal", [], shape=[9])], [], "operator 'RandomNormal'"),
    "its own spelling": ([node("sigmoid", ["image"])], [], "operator 'sigmoid'"),
    "no operator": ([node("", ["image"])], [], "operator ''"),
    "pad": (
        [node("Reshape", ["image", "s"], "r"), node("Pad", ["r", "p"])],
        [("s", ints(0, 3, 64)), ("p", ints(0, 10**9, 0, 0, 0, 0))],
        "Pad 'y' needs more than the 536870912 elements",
    ),
    "pad at the end": (
        [node("Reshape", ["image", "s"], "r"), node("Pad", ["r", "p"])],
        [("s", ints(0, 3, 64)), ("p", ints(0, 1, 0, 0, 9, 0))],
        r"Pad 'y' pads \(N, 3, 64\)",
    ),
    "pad by less than nothing": (
        [node("Reshape", ["image", "s"], "r"), node("Pad", ["r", "p"])],
        [("s", ints(0, 3, 64)), ("p", ints(0, -1, 0, 0, 0, 0))],
        "Pad 'y' pads",
    ),
    "huge pads": (two("Conv", kernel_shape=[1, 1], strides=[1, 1], pads=[10**6] * 4),
                  [("w", floats(3, 3, 1, 1))], "Conv 'y' has kernel .* and pads"),
    "stride of nothing": (two("Conv", kernel_shape=[1, 1], strides=[0, 0], pads=[0] * 4),
                          [("w", floats(3, 3, 1, 1))], "Conv 'y' has kernel"),
    "no strides": (two("Conv", kernel_shape=[1, 1], pads=[0] * 4),
                   [("w", floats(3, 3, 1, 1))], "has strides None"),
    "group": (two("Conv", kernel_shape=[1, 1], strides=[1, 1], pads=[0] * 4, group=0),
              [("w", floats(3, 3, 1, 1))], "has group 0"),
    "another kernel": (two("Conv", kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4),
                       [("w", floats(3, 3, 1, 1))], "has a kernel of|has kernel"),
    "reshape": (two("Reshape"), [("w", ints(-1, -1))], r"reshapes \(N, 3, 8, 8\)"),
    "reshape to nothing": (two("Reshape"), [("w", ints(0, 0, 0, 0, 0))], "makes 5 axes"),
    "reshape to more": (two("Reshape"), [("w", ints(0, 3, 8, 9))], "reshapes"),
    "reshape to a huge size": (two("Reshape"), [("w", ints(0, 2**62))], "integers"),
    "reshape to the scan's own number": (two("Reshape"), [("w", ints(BATCH, 192))], "integers"),
    "the batch moves": (two("Reshape"), [("w", ints(3, -1, 64))], "whose batch is not the first"),
    "permutation": ([node("Transpose", ["image"], perm=[1, 0, 2, 3])], [], "permutes"),
    "permutation of a huge axis": ([node("Transpose", ["image"], perm=[0, 2, 1, 2**40])], [],
                                   "permutes"),
    "long permutation": ([node("Transpose", ["image"], perm=list(range(5000)))], [],
                         "too many fields 'ints'"),
    "no permutation": ([node("Transpose", ["image"])], [], "has perm None"),
    "softmax": ([node("Softmax", ["image"], axis=-5)], [], "has axis -5"),
    "softmax by a float": ([node("Softmax", ["image"], axis=-1.0)], [], r"has axis -1\.0"),
    "softmax by a list": ([node("Softmax", ["image"], axis=[-1])], [], r"has axis \(-1,\)"),
    "a text for a number": ([node("Softmax", ["image"], axis="x")], [], "a text"),
    "cast": ([node("Cast", ["image"], to=8)], [], "has to 8"),
    "cast to a larger type": ([node("Cast", ["image"], to=11)], [], "has to 11"),
    "epsilon": ([node("LayerNormalization", ["image", "w"], axis=-1, epsilon=float("nan"))],
                [("w", floats(8))], "has epsilon nan"),
    "another attribute": ([node("Sigmoid", ["image"], alpha=1.0)], [], "has alpha"),
    "another number of inputs": ([node("Sigmoid", ["image", "image"])], [], "has 2 inputs"),
    "more inputs than any": ([node("Add", ["image"] * 99)], [], "too many fields 'input'"),
    "outer sum": ([node("Reshape", ["image", "s"], "r"), node("Add", ["r", "w"])],
                  [("s", ints(0, 192, 1)), ("w", floats(1, 1, 4096))],
                  r"Add 'y' combines \(N, 192, 1\) with \(1, 1, 4096\)"),
    "outer product": ([node("Reshape", ["image", "s"], "r"), node("MatMul", ["r", "w"])],
                      [("s", ints(0, 192, 1)), ("w", floats(1, MOST_LIVE // 192 + 1))],
                      "MatMul 'y' needs more than"),
    "of weights alone": ([node("Add", ["w", "w"], "a"), *RELU6], [("w", floats(4))],
                         "Add 'a' computes with weights alone"),
    "weights made of the image": ([node("MatMul", ["image", "image"], "m"),
                                   node("LayerNormalization", ["image", "m"], axis=-1,
                                        epsilon=0.1)],
                                  [], "LayerNormalization 'y' computes what is a weight"),
    "sizes made of the image": (two("Reshape"), [("w", floats(4))], "computes one of its sizes"),
    "types": (two("Add"), [("w", np.ones(8, np.float16))], "reads float32, float16"),
    "doubles": (two("Add"), [("w", np.ones(8))], "has no type that levit writes"),
    "strings": (two("Add"), [("w", np.array(["a"] * 8, object))], "field 6|no type"),
    "slice": ([node("Slice", ["image", "s", "e", "a"])],
              [("s", ints(-1)), ("e", ints(4)), ("a", ints(1))], "takes"),
    "slice of a far axis": ([node("Slice", ["image", "s", "e", "a"])],
                            [("s", ints(0)), ("e", ints(4)), ("a", ints(9))], "takes"),
    "slice of the batch": ([node("Slice", ["image", "s", "e", "a"])],
                           [("s", ints(0)), ("e", ints(1)), ("a", ints(0))], "takes"),
    "slice by nothing": ([node("Slice", ["image", "s", "e", "a", "n"])],
                         [("s", ints(0)), ("e", ints(2)), ("a", ints(1)), ("n", ints(0))], "takes"),
    "slice of different lists": ([node("Slice", ["image", "s", "e", "a"])],
                                 [("s", ints(0)), ("e", ints(2)), ("a", ints(1, 2))], "takes"),
    "cycle": ([node("Add", ["image", "b"], "a"), node("Add", ["image", "a"], "b"),
               node("Sigmoid", ["b"])], [], "reads 'b', which is not written before it"),
    "unwritten": ([node("Sigmoid", ["nothing"])], [], "reads 'nothing'"),
    "two of a name": ([node("Sigmoid", ["image"]), node("Tanh", ["image"])], [], "two values 'y'"),
    "a weight of the input's name": (RELU6, [("image", floats(1))], "two values 'image'"),
    "thousands of nodes": ([node("Sigmoid", ["image"], f"n{i}") for i in range(MOST_NODES + 1)],
                           [], "too many fields 'node'"),
    "a control character": ([node("Sigmoid", ["image"], "\x1b[2J\x07"), *RELU6], [], "has a name"),
    "a bidirectional name": ([node("Sigmoid", ["image"], "\u202e"), *RELU6], [], "has a name"),
    "a long name": ([node("Sigmoid", ["image"], "a" * 201), *RELU6], [], "has a name"),
    "a weight with a control character": (RELU6, [("\x9b", floats(1))], "has a name"),
    "no name": ([helper.make_node("Sigmoid", ["image"], ["", "y"])], [], "many fields|a name"),
    "a comment": ([helper.make_node("Sigmoid", ["image"], ["y"], doc_string="\x1b")], [],
                  "field 6"),
}  # fmt: skip


@pytest.fixture
def refused(tmp_path):
    """(bytes, pattern): one line that says so, in less time and memory than anything takes."""

    def check(data, pattern):
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        started = time.monotonic()
        for contents in (None, data, memoryview(data)):
            with pytest.raises(CorruptArtifactError, match=f"levit has written.*({pattern})") as e:
                check_onnx_file(path, contents)
            assert str(e.value).isprintable()
        assert time.monotonic() - started < 10

    return check


@pytest.mark.parametrize("name", OPERATORS)
def test_what_levit_never_writes_is_refused_by_name(refused, name):
    nodes, weights, pattern = OPERATORS[name]
    refused(written(network(nodes, weights)), pattern)


def test_the_smallest_network_is_let_through(tmp_path):
    data = written(PLAIN)
    check_onnx_file(tmp_path / "model.onnx", data)
    assert len(data) < 200


# -------------------------------------------------------------------------------- amounts


def test_values_that_live_at_once(refused, tmp_path):
    """Each of half the limit: two are one too many, and ten in a row are not."""
    width = MOST_LIVE // 192 // 2 - 100
    shapes = [("s", ints(0, 192, 1)), ("w", floats(1, width)), ("v", floats(width, 1))]
    begin = node("Reshape", ["image", "s"], "r0")
    end = node("Reshape", ["r10", "t"])
    rows = [
        part
        for i in range(10)
        for part in (
            node("MatMul", [f"r{i}", "w"], f"m{i}"),
            node("MatMul", [f"m{i}", "v"], f"r{i + 1}"),
        )
    ]
    weights = [*shapes, ("t", ints(0, 3, 8, 8))]
    check_onnx_file(tmp_path / "model.onnx", written(network([begin, *rows, end], weights)))
    again = [node("MatMul", ["r0", "w"], f"k{i}") for i in range(3)]
    refused(written(network([begin, *again, *rows, end], weights)), "'k2' needs more than")


def test_work_without_end(refused):
    """A product of activations costs what no weight in the file pays for."""
    nodes = [node("Reshape", ["image", "s"], "r"), node("MatMul", ["r", "w"], "m0")]
    nodes += [node("MatMul", [f"m{i}", "v"], f"m{i + 1}") for i in range(4000)]
    weights = [("s", ints(0, 192, 1)), ("w", floats(1, 4096)), ("v", floats(4096, 4096))]
    refused(written(network(nodes, weights)), "goes beyond the work")


def test_weights_that_are_made_again_and_again(refused):
    weights = [("w", np.ones((1000, 1000), np.int8)), ("s", floats(1000)),
               ("z", np.zeros(1000, np.int8))]  # fmt: skip
    nodes = [node("DequantizeLinear", ["w", "s", "z"], f"d{i}", axis=0) for i in range(9)]
    refused(written(network([*nodes, *RELU6], weights)), "'d4' makes more of the weights")


def test_a_batch_that_the_file_fixes(refused, tmp_path):
    image = (65536, 3, 8, 8)
    small = network(RELU6, image=image, output=image)
    check_onnx_file(tmp_path / "model.onnx", written(small))
    weights = [("s", ints(0, 192, 1)), ("w", floats(1, 4096))]
    nodes = [node("Reshape", ["image", "s"], "r"), node("MatMul", ["r", "w"])]
    large = network(nodes, weights, image=image, output=(65536, 192, 4096))
    refused(written(large), "needs more than the 8589934592 elements")


@pytest.mark.parametrize(
    "image",
    [("N", 3, 8, 8), ("batch", "batch", 8, 8), (0, 3, 8, 8), ("batch", 3, 8), (BATCH, 3, 8, 8),
     ("batch", 3, 2**31, 2**31), ("batch", 3, 2**20, 2**20)],
)  # fmt: skip
def test_inputs_that_are_no_image(refused, image):
    refused(written(network(RELU6, image=image, output=image)), "axis|its input|at once")


def test_an_output_that_is_another(refused):
    refused(written(network(RELU6, output=("batch", 3, 8, 9))), "output 'y' is not what it states")
    refused(written(network([node("Tanh", ["image"], "z")])), "output 'y' is not what it states")


# -------------------------------------------------------------------------------- the encoding


def test_fields_that_libraries_read_differently(refused):
    """The last of two is taken, or halves are joined, or what is of another type is skipped."""
    before, graph, after = split(PLAIN)
    refused(before + field(7, 2, graph) * 2 + after, "too many fields 'graph'")
    refused(before + field(7, 2, graph[:0]) + field(7, 2, graph) + after, "too many fields")
    refused(field(7, 2, graph) + before + after, "'ir_version' near byte .* too late")
    refused(before + field(7, 2, graph) + after + field(25, 2, b"")[1:], ".")
    refused(before + field(7, 0, varint(1)) + after, "field 7 of type 0")
    node_bytes = RELU6[0].SerializeToString(deterministic=True)
    kind = field(4, 2, b"Sigmoid")
    twice = field(1, 2, node_bytes.replace(kind, kind + field(4, 2, b"Einsum")))
    changed = graph.replace(field(1, 2, node_bytes), twice)
    assert changed != graph
    refused(before + field(7, 2, changed) + after, "too many fields 'op_type'")


def test_numbers_that_are_cut_when_read(refused):
    """2^32 + 1 is a type of 1 to a reader of 32 bits; 2^64 + 1 to one of 64."""
    weight = TensorProto(name="w", data_type=1, dims=[1], raw_data=b"\0\0\x80?")
    model = network(RELU6)
    model.graph.initializer.append(weight)
    before, graph, after = split(model)
    plain = weight.SerializeToString(deterministic=True)
    for number in (2**32 + 1, 2**64 + 1):
        other = plain.replace(field(2, 0, varint(1)), field(2, 0, varint(number)))
        changed = graph.replace(field(5, 2, plain), field(5, 2, other))
        assert changed != graph
        refused(before + field(7, 2, changed) + after, "no type|damaged")


@pytest.mark.parametrize("dims", [[2**62, 4], [2**32, 2**32], [0], [3], [1] * 9, [-1]])
def test_weights_of_another_size_than_they_state(refused, dims):
    model = network(RELU6)
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=dims, raw_data=b"abcd"))
    refused(written(model), "its weight 'w'|too many fields 'dims'")


def test_numbers_beside_raw_data(refused):
    model = network(RELU6)
    weight = TensorProto(name="w", data_type=1, dims=[1], raw_data=b"abcd", float_data=[1.0])
    model.graph.initializer.append(weight)
    refused(written(model), "field 4")


@pytest.mark.parametrize(("field", "value"), [("ir_version", 3), ("ir_version", 99)])
def test_versions_of_the_format(refused, field, value):
    model = network(RELU6)
    setattr(model, field, value)
    refused(written(model), f"of version {value}")


@pytest.mark.parametrize(("domain", "version"), [("", 13), ("", 23), ("com.microsoft", 17)])
def test_versions_of_the_operators(refused, domain, version):
    model = network(RELU6)
    model.opset_import[0].domain, model.opset_import[0].version = domain, version
    refused(written(model), "it is in opset")


def test_metadata_of_others(refused):
    model = network(RELU6)
    model.metadata_props.add(key="ep_context", value="x")
    refused(written(model), "it has metadata b'ep_context'")


def test_a_file_of_fields_that_are_empty(refused):
    """Half a gigabyte of them in memory, were they listed before they are counted."""
    before, graph, after = split(PLAIN)
    many = graph + field(12, 2, b"") * 2_000_000
    refused(before + field(7, 2, many) + after, "no type|too many fields|a name")


# -------------------------------------------------------------------------------- the process


@pytest.mark.slow
def test_the_process_of_a_hostile_artifact_goes_on(tampered):
    """Run files that once ended the process, by the command line in a process of its own."""
    nodes, weights, _ = OPERATORS["integer division of small numbers"]

    def change(folder, values):
        (folder / "model.onnx").write_bytes(written(network(nodes, weights, image=IMAGE)))

    folder = tampered(change)
    done = subprocess.run(
        [sys.executable, "-m", "levit", "check", str(folder)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=120,
    )  # fmt: skip
    assert done.returncode not in (0, -8, -11)
    assert done.stderr.count("\n") == 1
    assert "not an ONNX file that levit has written" in done.stderr
