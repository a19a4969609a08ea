"""Statements of a manifest, which no hash covers, must be those of the network beside it."""

import json
import shutil

import pytest

from levit.errors import CorruptArtifactError
from levit.runtime.backends import BACKENDS
from levit.runtime.predictor import Predictor


@pytest.mark.parametrize(("side", "layout"), [("inputs", "NHWC"), ("outputs", "NCHW")])
def test_layout_that_is_not_the_tensors(side, layout, make_artifact, tmp_path):
    folder = tmp_path / "artifact"
    shutil.copytree(make_artifact("layouts"), folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest[side][0]["layout"] = layout
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifactError, match=f"the {side} that it states"):
        Predictor(folder)


@pytest.mark.parametrize("target", ["onnx", "openvino", "native"])
def test_precision_that_is_not_the_networks(target, make_artifact, tmp_path):
    if BACKENDS[target].obstacle("cpu") is not None:
        pytest.skip(f"no {target} here")
    folder = tmp_path / "artifact"
    shutil.copytree(make_artifact(f"precision-{target}", target=target), folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["precision"] = "fp16"
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifactError, match="the precision that it states"):
        Predictor(folder)


@pytest.mark.parametrize("format_name", ["openvino", "native", "tensorrt"])
def test_format_of_another_backend(format_name, make_artifact, tmp_path):
    folder = tmp_path / "artifact"
    shutil.copytree(make_artifact("layouts"), folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["format"] = format_name
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifactError, match="but it was made for onnxruntime"):
        Predictor(folder)
