"""Target that loads forged payloads of artifacts whose manifests fit them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzzing.artifact_seeds import export_bases, sealed_manifest
from fuzzing.folders import seal, write_folder
from fuzzing.onnx_damage import damaged_model
from fuzzing.target import WrongAnswerError
from levit.artifact import MANIFEST_FILE, Artifact, open_artifact
from levit.runtime.predictor import Predictor

__all__ = ["OnnxTarget"]

_PAYLOAD = "model.onnx"


class OnnxTarget:
    """A network that is damaged and hashed anew.

    ONNX Runtime may refuse it, in which case levit says so in a line; where it answers and
    ``levit check`` passes, the outputs for the golden inputs must really be those of the file.
    """

    name = "onnx"
    memory_bytes = 1 << 30
    seconds = 120.0

    def __init__(self) -> None:
        self._bases: dict[str, Path] = {}
        self._seeds: dict[str, bytes] = {}

    def prepare(self, folder: Path) -> None:
        self._bases = export_bases(folder)
        self._seeds = {n: (base / _PAYLOAD).read_bytes() for n, base in self._bases.items()}

    def seeds(self) -> Sequence[bytes]:
        return [name.encode() + b"\n" + data for name, data in self._seeds.items()]

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        name, _, payload = data.partition(b"\n")
        payloads = damaged_model(payload, list(self._seeds.values()))
        return payloads.map(lambda payload: name + b"\n" + payload)

    def attempt(self, data: bytes, folder: Path) -> Any:
        name, _, payload = data.partition(b"\n")
        base = self._bases.get(name.decode("latin-1"), self._bases["plain"])
        path = folder / "artifact"
        text = sealed_manifest(base).encode()
        write_folder(path, base, {_PAYLOAD: payload, MANIFEST_FILE: text})
        (path / MANIFEST_FILE).write_bytes(seal(text, path, base))
        with Predictor(path, threads=1) as predictor:
            golden = open_artifact(path).golden()
            return predictor.check(), predictor.forward(golden["input"])

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        report, outputs = answer
        artifact: Artifact = open_artifact(folder / "artifact")
        golden = artifact.golden()
        for output in artifact.manifest.outputs:
            found, expected = outputs[output.name], golden[f"output/{output.name}"]
            fits = found.shape == expected.shape and np.isfinite(found).all()
            error = np.abs(found - expected).max() / np.abs(expected).max() if fits else np.inf
            if report.passed and not error <= 1e-4:
                raise WrongAnswerError(f"check: passed, and {output.name} is off by {error:.1e}")
