"""Target `native`: its file, its manifest, and what it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from levit import Predictor
from levit.artifact import open_artifact
from levit.errors import CorruptArtifactError, ExportError, ManifestVersionError
from levit.export import ExportOptions, export
from levit.export.targets import TARGETS
from levit.native.interpreter import interpret
from levit.native.payload import open_payload, write_payload
from levit.native.program_file import PROGRAM, read_program

ALL = ("logits", "embedding", "features")


@pytest.fixture(scope="module", params=["float32", "uint8"])
def artifact(request, tmp_path_factory):
    return export(
        ExportOptions(
            model="levit_digits", target="native", input=request.param, verify="none",
            outputs=ALL if request.param == "uint8" else None,
            output=tmp_path_factory.mktemp("native") / "out",
        )
    )  # fmt: skip


def test_its_program_gives_the_golden_answers(artifact):
    golden = artifact.golden()
    with open_payload(artifact.payload) as payload:
        program = read_program(payload)
        arrays = {name: payload.read(name) for name in payload.specs}
    found = interpret(program, arrays, golden["input"])
    assert list(found) == [output.name for output in artifact.manifest.outputs]
    for output in artifact.manifest.outputs:
        expected = golden[f"output/{output.name}"]
        assert found[output.name].shape == (len(golden["input"]), *output.shape[1:])
        # Weights are rounded to float32 once, and nothing else is.
        error = np.abs(found[output.name] - expected).max() / np.abs(expected).max()
        assert error < 1e-6, output.name


def test_its_artifact_is_whole(artifact):
    manifest = artifact.manifest
    assert (manifest.target, manifest.format, manifest.precision) == ("native", "native", "fp32")
    assert manifest.payload == "model.safetensors"
    assert set(manifest.files) == {"model.safetensors", "labels.txt", "golden.npz"}
    assert manifest.requirements["backend"] == "levit"
    assert set(manifest.toolchain) == {"levit", "python", "numpy"}
    assert open_artifact(artifact.path).manifest == manifest


def test_the_file_stands_by_itself(artifact):
    with open_payload(artifact.payload) as payload:
        texts = payload.metadata
    of_all = {f"levit.{name}" for name in ("batch", "variant", "preprocess", "labels", "precision")}
    assert set(texts) == {PROGRAM, *of_all}
    assert json.loads(texts["levit.labels"]) == list(map(str, range(10)))
    stated = artifact.manifest.preprocess.to_dict()
    assert json.loads(texts["levit.preprocess"]) == json.loads(json.dumps(stated))
    assert texts["levit.variant"] == "levit_digits"


def test_same_file_every_time(artifact, tmp_path):
    again = export(
        ExportOptions(
            model="levit_digits", target="native", verify="none", output=tmp_path / "out",
            input="float32" if artifact.manifest.inputs[0].dtype == "float32" else "uint8",
            outputs=[output.name for output in artifact.manifest.outputs],
        )
    )  # fmt: skip
    assert again.payload.read_bytes() == artifact.payload.read_bytes()


@pytest.mark.native
@pytest.mark.parametrize("input_", ["float32", "uint8"])
@pytest.mark.parametrize(
    ("name", "size"), [("deit_tiny_distilled_patch16_224", 64), ("convit_tiny", 32)]
)
def test_other_families(tmp_path, name, size, input_):
    """Verified where it is made, and the same answers as those of ONNX Runtime."""
    options = dict(model=name, random_weights=0, image_size=size, input=input_)
    ours = export(ExportOptions(target="native", output=tmp_path / "ours", **options))
    assert ours.manifest.verification["status"] == "passed"
    theirs = export(ExportOptions(target="onnx", output=tmp_path / "theirs", **options))
    pixels = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), np.uint8)
    with Predictor(ours.path, threads=2) as one, Predictor(theirs.path) as other:
        batch = other.preprocess(list(pixels))
        found, expected = (each.forward(batch)["logits"] for each in (one, other))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_precisions_that_it_has_not(tmp_path):
    with pytest.raises(
        ExportError, match=r"'native' has no precision 'fp16'.*it has: fp32, bf16, int8$"
    ):
        export(
            ExportOptions(
                model="levit_digits", target="native", precision="fp16", output=tmp_path / "out"
            )
        )


def test_an_opset_means_nothing_to_it(tmp_path):
    with pytest.raises(ExportError, match="writes no ONNX: leave out --opset"):
        export(
            ExportOptions(model="levit_digits", target="native", opset=17, output=tmp_path / "out")
        )


@pytest.mark.parametrize("ways", [1, 0])
def test_auto_tries_it_where_it_has_kernels(make_small, ways):
    model = make_small("tiny")
    if not ways:
        model = replace(model, params=())  # a tree that is no family's
    assert len(TARGETS["native"].ways(model, "fp32")) == ways


def rewritten(artifact, path, change):
    """A file whose program is another."""
    with open_payload(artifact.payload) as payload:
        arrays = {name: payload.read(name) for name in payload.specs}
        texts = dict(payload.metadata)
    change(texts)
    write_payload(path, arrays, texts)
    return path


def program_with(**changes):
    def change(texts):
        texts[PROGRAM] = json.dumps({**json.loads(texts[PROGRAM]), **changes})

    return change


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda texts: texts.pop(PROGRAM), CorruptArtifactError, "holds arrays and no program"),
        (lambda texts: texts.update(program="{"), CorruptArtifactError, "its program is no JSON"),
        (lambda texts: texts.update(program="[" * 9999), CorruptArtifactError, "is no JSON"),
        (program_with(steps=[]), CorruptArtifactError, "cannot be run .it has 0 steps"),
        (program_with(loops=1), CorruptArtifactError, "missing or unknown fields"),
        (program_with(version=2), ManifestVersionError, "upgrade levit"),
    ],
)
def test_program_that_cannot_be_run(artifact, tmp_path, change, kind, message):
    path = rewritten(artifact, tmp_path / "model.safetensors", change)
    with open_payload(path) as payload, pytest.raises(kind, match=message) as caught:
        read_program(payload)
    assert str(caught.value).startswith(str(path))


def test_machine_without_the_library_writes_it_unverified(tmp_path):
    environment = {**os.environ, "LEVIT_NATIVE_LIBRARY": str(tmp_path / "nothing.so")}
    command = ["export", "--model", "levit_digits", "--target", "native"]
    result = subprocess.run(
        [sys.executable, "-m", "levit", *command, "--output", str(tmp_path / "out")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "nothing.so" in result.stderr
    verification = open_artifact(tmp_path / "out").manifest.verification
    assert verification["status"] == "unverified"
    assert "the native engine cannot be loaded" in verification["unverified_because"]


@pytest.mark.native
def test_engine_proves_it(tmp_path):
    artifact = export(ExportOptions(model="levit_digits", target="native", output=tmp_path / "out"))
    assert artifact.manifest.verification["status"] == "passed"
    assert artifact.manifest.verification["max_relative_error"] < 1e-5
