import onnx
import pytest
from onnx import TensorProto, helper

from levit.artifact import open_artifact
from levit.errors import CorruptArtifactError
from levit.runtime.onnx_file import check_onnx_file

EXTERNAL = ("../../etc/passwd", "/etc/passwd", "labels.txt", "")


@pytest.fixture
def write(tiny_artifact, tmp_path):
    """(change) → the path of a network that `change` has been at."""

    def make(change, name="model.onnx"):
        model = onnx.load(tiny_artifact / "model.onnx")
        change(model)
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return make


def move_outside(location):
    def change(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location

    return change


def constant_outside(model):
    """The same in an attribute of a node."""
    tensor = TensorProto(data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../x")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def loop(model):
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["x"], body=body))


def branches(model):
    body = helper.make_graph([], "body", [], [])
    attribute = helper.make_attribute("bodies", [body, body])
    model.graph.node[0].attribute.append(attribute)


def function(model):
    opset = helper.make_opsetid("", 17)
    model.functions.append(helper.make_function("own", "f", [], [], [], [opset]))


def foreign(model):
    model.graph.node[0].domain = "com.microsoft"


def sparse(model):
    model.graph.sparse_initializer.add()


def test_every_artifact_of_ours_passes(tiny_artifact, static_artifact, uint8_artifact):
    for folder in (tiny_artifact, static_artifact, uint8_artifact):
        check_onnx_file(open_artifact(folder).payload)


def test_unchanged_network_passes_through_the_fixture(write):
    check_onnx_file(write(lambda model: None))


@pytest.mark.parametrize("location", EXTERNAL)
def test_weights_in_another_file_are_refused(write, location):
    with pytest.raises(CorruptArtifactError, match="weights in another file"):
        check_onnx_file(write(move_outside(location)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (constant_outside, "operator 'Constant'"),
        (loop, "operator 'Loop'"),
        (branches, "sub-graphs"),
        (function, "functions of its own"),
        (foreign, "an operator of another domain"),
        (sparse, "sparse weights"),
    ],
)
def test_what_levit_does_not_write_is_refused(write, change, message):
    with pytest.raises(CorruptArtifactError, match=message):
        check_onnx_file(write(change))


def test_the_format_of_onnx_runtime_is_refused(write):
    with pytest.raises(CorruptArtifactError, match=r"not called \.onnx"):
        check_onnx_file(write(lambda model: None, "model.ort"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x3a",
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\xff" * 20,
        b"\x0b",
        b"\x08",
        b"\x3a\x02\x0a\x05",
    ],
)
def test_bytes_that_are_no_message(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match="not an ONNX file that levit has written"):
        check_onnx_file(path)


def test_absent_file(tmp_path):
    with pytest.raises(CorruptArtifactError):
        check_onnx_file(tmp_path / "model.onnx")
