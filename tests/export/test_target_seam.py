"""A target that takes the folded model and writes no ONNX: one record, and nothing else knows it.

The smallest of its kind: its payload is the list of the model's layers.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from levit.artifact import describe_files, open_artifact
from levit.errors import ExportError
from levit.export import ExportOptions, export
from levit.export.onnx import graph
from levit.export.quantization.form import IntegerForm
from levit.export.targets import TARGETS, Target, Written, find_target
from levit.models.layers import Affine, layers_of
from levit.models.registry import digits_folder
from levit.runtime.cpus import cpu_features, cpu_precisions

REDUCED = not cpu_precisions(cpu_features())["int8"]


def write_names(order):
    """One line per layer: its name, its shape, and how it is stored."""
    integers = {} if order.quantization is None else order.quantization.layers
    lines = [
        {"name": name, "shape": layer.weight.shape, "int8": name in integers}
        for name, layer in layers_of(order.model.params, Affine).items()
    ]
    (order.folder / "layers.json").write_text(json.dumps(lines), encoding="utf-8")
    return Written(toolchain={"names": "1.0"}, requirements={"lines": len(lines)})


NAMES = Target(
    format="names",
    payload="layers.json",
    precisions=("fp32", "int8"),
    distribution="levit-names",
    min_version="1.0",
    prepare=lambda model, precision: model,
    write=write_names,
    integers=IntegerForm(symmetric_activations=True),
    unrunnable=lambda: "nothing runs a list of names",
)


@pytest.fixture
def names(monkeypatch):
    """The table of targets with one more line."""
    monkeypatch.setitem(TARGETS, "names", NAMES)


@pytest.fixture
def written(names, tmp_path, monkeypatch):
    """(options) → the artifact, made without a graph of ONNX."""

    def emit(*_, **__):
        raise AssertionError("a graph was emitted")

    monkeypatch.setattr(graph, "emit_onnx", emit)
    monkeypatch.setattr("levit.export.targets.graph.emit_onnx", emit)

    def run(**options):
        options = {"model": "levit_digits", "target": "names", **options}
        return export(ExportOptions(output=tmp_path / "out", **options))

    return run


def test_its_artifact_is_whole(written):
    artifact = written()
    lines = json.loads(artifact.payload.read_text())
    assert lines[0] == {"name": "stem.0", "shape": [4, 3, 3, 3], "int8": False}
    manifest = artifact.manifest
    assert (manifest.target, manifest.format, manifest.payload) == ("names", "names", "layers.json")
    assert manifest.files == describe_files(artifact.path)
    assert set(manifest.files) == {"layers.json", "labels.txt", "golden.npz"}
    assert set(manifest.toolchain) == {"levit", "python", "numpy", "names"}
    assert manifest.requirements["backend"] == "levit-names"
    assert manifest.requirements["backend_version"] == ">=1.0"
    assert manifest.requirements["lines"] == len(lines)
    assert "fold_batchnorm" in {entry["name"] for entry in manifest.passes}
    assert open_artifact(artifact.path).manifest == manifest


def test_nothing_runs_it_and_the_manifest_says_so(written):
    artifact = written()
    verification = artifact.manifest.verification
    assert verification["status"] == "unverified"
    assert verification["unverified_because"] == "nothing runs a list of names"
    assert verification["max_relative_error"] is None
    golden = artifact.golden()
    assert golden["output/logits"].shape == (3, 10)
    assert np.isfinite(golden["output/logits"]).all()


def test_it_takes_integers_in_its_own_form(written):
    artifact = written(
        precision="int8",
        calibration=digits_folder() / "images" / "7",
        reduce_range=REDUCED,
        verify="none",
        force=True,
    )
    quantized = artifact.manifest.passes[-1]
    assert quantized["activations"] == "int8, symmetric"
    lines = json.loads(artifact.payload.read_text())
    assert sorted(line["name"] for line in lines if line["int8"]) == quantized["layers"]


def test_it_is_asked_for_its_precisions_and_needs(names):
    with pytest.raises(ExportError, match=r"'names' has no precision 'bf16'.*it has: fp32, int8"):
        find_target("names", "bf16")


def test_auto_leaves_out_what_nothing_runs(names, tmp_path, monkeypatch):
    monkeypatch.setattr("levit.export.auto.TARGETS", {"names": NAMES})
    with pytest.raises(ExportError, match="no target runs fp32"):
        export(ExportOptions(model="levit_digits", target="auto", output=tmp_path / "out"))


def test_auto_asks_it_for_its_ways(names, tmp_path, monkeypatch):
    """Which it may say by model and precision; here, none at int8."""
    asked = []

    def ways(model, precision):
        asked.append((model.family.name, precision))
        return ()

    lists = replace(NAMES, ways=ways, unrunnable=lambda: "")
    monkeypatch.setattr("levit.export.auto.TARGETS", {"names": lists})
    with pytest.raises(ExportError, match="no target runs"):
        export(ExportOptions(model="levit_digits", target="auto", output=tmp_path / "out"))
    assert asked == [("levit", "fp32")]
