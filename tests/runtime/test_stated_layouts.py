"""Layouts of a manifest, which no hash covers, must be those of the tensors."""

import json
import shutil

import pytest

from levit.errors import CorruptArtifactError
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
