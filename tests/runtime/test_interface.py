import json
import shutil

import onnx
import pytest

from levit.errors import CorruptArtifactError
from levit.export import ExportOptions, export
from levit.runtime.predictor import Predictor


def put(*path, value):
    """Set a value deep in a manifest."""

    def change(folder, values):
        *places, last = path
        for place in places:
            values = values[place]
        values[last] = value

    return change


def swap_outputs(folder, values):
    values["outputs"].reverse()


def add_output(folder, values):
    values["outputs"].append({**values["outputs"][0], "name": "extra"})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (put("inputs", 0, "name", value="pixels"), "inputs"),
        (put("inputs", 0, "dtype", value="uint8"), "inputs"),
        (put("inputs", 0, "dtype", value="flloat32"), "inputs"),
        (put("inputs", 0, "shape", value=["batch", 3, 96, 97]), "inputs"),
        (put("inputs", 0, "shape", value=["batch", 3, 96]), "inputs"),
        (put("inputs", 0, "shape", 0, value=8), "inputs and the batch sizes"),
        (put("outputs", 0, "name", value="loogits"), "outputs"),
        (put("outputs", 1, "shape", value=["batch", 0]), "outputs"),
        (put("outputs", 1, "shape", value=["batch"]), "outputs"),
        (put("outputs", 1, "dtype", value="float16"), "outputs"),
        (swap_outputs, "outputs"),
        (add_output, "outputs"),
        (put("batch", "static", value=True), "batch sizes"),
        (put("preprocess", "mean", value=[0.5, 0.5, 0.25]), "preprocessing"),
        (put("preprocess", "crop_pct", value=0.9), "preprocessing"),
        (put("preprocess", "interpolation", value="bilinear"), "preprocessing"),
        (put("preprocess", "image_size", value=[60_000, 60_000]), "preprocessing"),
        (put("preprocess", value=None), "preprocessing"),
        (put("scores", value="sigmoid"), "scores"),
        (put("scores", value="none"), "scores"),
    ],
)
def test_manifest_that_states_another_network_is_corrupt(
    tampered, embedding_artifact, change, what
):
    folder = tampered(change, embedding_artifact)
    with pytest.raises(CorruptArtifactError, match=rf"the {what} that it states are not those of"):
        Predictor(folder, threads=1)


@pytest.mark.parametrize("largest", [3, 8])
def test_static_batch_is_the_networks(tampered, static_artifact, largest):
    change = put("batch", value={"min": 1, "opt": 2, "max": largest, "static": True})
    with pytest.raises(CorruptArtifactError, match="the batch sizes that it states"):
        Predictor(tampered(change, static_artifact), threads=1)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", '{"image_size": 96}', '{"odd": 1}', "[" * 100_000, '"\\ud800"']
)
def test_network_whose_own_statement_is_damaged(tampered, text):
    def change(folder, values):
        model = onnx.load(folder / "model.onnx")
        next(p for p in model.metadata_props if p.key == "levit.preprocess").value = text
        onnx.save(model, folder / "model.onnx")

    with pytest.raises(CorruptArtifactError, match="preprocessing that it states"):
        Predictor(tampered(change), threads=1)


def test_network_whose_names_are_no_text(tampered):
    def change(folder, values):
        data = (folder / "model.onnx").read_bytes()
        assert data.count(b"levit.variant") == 1
        (folder / "model.onnx").write_bytes(data.replace(b"levit.variant", b"levit.\xffariant"))

    with pytest.raises(CorruptArtifactError, match="it has metadata"):
        Predictor(tampered(change), threads=1)


def test_network_with_weights_elsewhere_is_not_loaded(tampered, tmp_path):
    # The file is there and ONNX Runtime would read it; no hash covers it.
    def change(folder, values):
        model = onnx.load(folder / "model.onnx")
        tensor = model.graph.initializer[0]
        (folder / "weights.bin").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(CorruptArtifactError, match="weights in another file"):
        Predictor(tampered(change), threads=1)


def test_every_artifact_of_ours_states_its_own_network(
    tiny_artifact, embedding_artifact, static_artifact, uint8_artifact, headless_artifact,
    tensor_artifact,
):  # fmt: skip
    artifacts = (tiny_artifact, embedding_artifact, static_artifact, uint8_artifact)
    for folder in (*artifacts, headless_artifact, tensor_artifact):
        Predictor(folder, threads=1).close()
    assert json.loads((tensor_artifact / "manifest.json").read_text())["preprocess"] is None


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_sigmoid_is_never_read_as_a_softmax(tampered, tmp_path, target):
    """Neither under a manifest that says so, nor under one of before there were others."""
    export(
        ExportOptions(model="levit_digits", target=target, scores="sigmoid", output=tmp_path / "a")
    )
    Predictor(tmp_path / "a", threads=1).close()

    def first_version(folder, values):
        del values["scores"]
        values["schema_version"] = 1

    for change in (put("scores", value="softmax"), put("scores", value="none"), first_version):
        folder = tampered(change, tmp_path / "a")
        with pytest.raises(CorruptArtifactError, match="the scores that it states are not those"):
            Predictor(folder, threads=1)
        shutil.rmtree(folder)
