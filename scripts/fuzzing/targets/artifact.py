"""Artifact folders: manifests, golden cases, labels, links, missing and foreign files."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.archives import mutate_npz
from fuzzing.artifact_seeds import export_bases, sealed_manifest
from fuzzing.folders import Entry, pack, seal, unpack, write_folder
from fuzzing.json_mutations import mutate_json
from fuzzing.mutations import mutate_bytes
from fuzzing.target import WrongAnswerError
from levit.artifact import GOLDEN_FILE, LABELS_FILE, MANIFEST_FILE
from levit.commands.inspect_command import run as inspect
from levit.errors import LevitError
from levit.runtime.predictor import Predictor

__all__ = ["ArtifactTarget", "answers_of"]

_PAYLOAD = "model.onnx"


class ArtifactTarget:
    """`Predictor`, ``levit check`` and ``levit inspect`` on a damaged folder.

    What is answered must be what the folder answered before, number for number: nothing that a
    manifest can still say once it is accepted changes what comes out of the network.
    """

    name = "artifact"
    memory_bytes = 1 << 30
    seconds = 20.0

    def __init__(self) -> None:
        self._bases: dict[str, Path] = {}
        self._manifests: dict[str, str] = {}
        self._expected: dict[str, Any] = {}

    def prepare(self, folder: Path) -> None:
        self._bases = export_bases(folder)
        self._manifests = {name: sealed_manifest(base) for name, base in self._bases.items()}

    def seeds(self) -> Sequence[bytes]:
        return [
            pack(name, {MANIFEST_FILE: text.encode()}) for name, text in self._manifests.items()
        ]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        try:
            base, entries = unpack(data)
            manifest = entries[MANIFEST_FILE]
            assert isinstance(manifest, bytes)
            text = manifest.decode("utf-8")
            json.loads(text)
        except (ValueError, KeyError, AssertionError, RecursionError):
            base = rng.choice(list(self._bases))
            entries = {}
            text = self._manifests[base]
        kind = rng.random()
        if kind < 0.6:
            entries[MANIFEST_FILE] = mutate_json(rng, text, list(self._manifests.values()))
        elif kind < 0.65:
            entries[MANIFEST_FILE] = mutate_bytes(rng, text.encode())
        elif kind < 0.87:
            entries[MANIFEST_FILE] = text.encode()
            golden = (self._bases[base] / GOLDEN_FILE).read_bytes()
            entries[GOLDEN_FILE] = mutate_npz(rng, golden)
        else:
            entries[MANIFEST_FILE] = text.encode()
            self._disturb(rng, base, entries)
        return pack(base, entries)

    def _disturb(self, rng: random.Random, base: str, entries: dict[str, Entry]) -> None:
        """Change one or more files, with or without a new hash in the manifest."""
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice((_PAYLOAD, GOLDEN_FILE, LABELS_FILE, MANIFEST_FILE, "extra.bin"))
            kind = rng.randrange(6)
            there = self._bases[base] / name
            contents = there.read_bytes() if there.exists() else b"x"
            if kind == 0:
                entries[name] = None
            elif kind == 1:
                links = (name, "/etc/passwd", "/dev/zero", f"../{name}", "nowhere", ".", _PAYLOAD)
                entries[name] = rng.choice(links)
            elif kind == 2:
                entries[name] = ()
            elif kind == 3:
                donor = rng.choice(list(self._bases.values())) / rng.choice((name, LABELS_FILE))
                entries[name] = donor.read_bytes() if donor.exists() else b""
            elif name == LABELS_FILE:
                entries[name] = mutate_bytes(rng, contents)
            else:
                entries[name] = mutate_bytes(rng, contents)
                self._unseal(rng, entries)

    def _unseal(self, rng: random.Random, entries: dict[str, Entry]) -> None:
        """The hashes of before: what a damaged copy has, which must be found."""
        manifest = entries[MANIFEST_FILE]
        if isinstance(manifest, bytes):
            manifest = manifest.replace(b"@sha256:", b"@sha256-base:")
            if rng.random() < 0.5:
                manifest = manifest.replace(b"@size:", b"@size-base:")
            entries[MANIFEST_FILE] = manifest

    def attempt(self, data: bytes, folder: Path) -> Any:
        path = folder / "artifact"
        base = self._lay_out(data, path)
        if base is None:
            return None
        for as_json in (True, False):
            arguments = argparse.Namespace(
                path=str(path), json=as_json, config=None, image_size=None
            )
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(LevitError):
                inspect(arguments)
        return answers_of(path)

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        if answer is None:
            return
        base, entries = unpack(data)
        if base not in self._expected:
            self._expected[base] = answers_of(self._bases[base])
        expected = self._expected[base]
        if set(entries) - {MANIFEST_FILE} and self._damaged(folder / "artifact", base):
            raise WrongAnswerError("hash: a file differs from what its manifest's hash says")
        for name, value in answer["outputs"].items():
            if not np.array_equal(value, expected["outputs"].get(name)):
                raise WrongAnswerError(f"outputs: {name} is not what it was")
        for got, wanted in zip(answer["top"], expected["top"], strict=True):
            if [entry[1:] for entry in got] != [entry[1:] for entry in wanted]:
                raise WrongAnswerError(f"answers: {got}, before {wanted}")
            if got != wanted and LABELS_FILE not in entries:
                raise WrongAnswerError(f"labels: {got}, before {wanted}")

    def _lay_out(self, data: bytes, path: Path) -> str | None:
        """Write the folder; the base's name, or None where the input is no folder at all."""
        try:
            base, entries = unpack(data)
            write_folder(path, self._bases[base], entries)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        manifest = path / MANIFEST_FILE
        if manifest.is_file() and not manifest.is_symlink():
            manifest.write_bytes(seal(manifest.read_bytes(), path, self._bases[base]))
        return base

    def _damaged(self, path: Path, base: str) -> bool:
        """Whether a listed file is not what the manifest's hash says; computed another way."""
        listed = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        described = json.loads(
            seal(json.dumps({n: f"@sha256:{n}@" for n in listed}).encode(), path, self._bases[base])
        )
        return any(entry["sha256"] != described[n] for n, entry in listed.items())


def answers_of(path: Path) -> dict[str, Any]:
    """What an artifact answers: outputs for fixed tensors, and classes for fixed pictures."""
    with Predictor(path, threads=1) as predictor:
        spec = predictor.manifest.inputs[0]
        batch = np.zeros((3, *map(int, spec.shape[1:])), spec.dtype)
        batch.flat = np.arange(batch.size) % 251
        outputs = predictor.forward(batch if spec.dtype == "uint8" else batch / 251 - 0.5)
        names = [output.name for output in predictor.manifest.outputs]
        answers: dict[str, Any] = {"outputs": {name: outputs[name] for name in names}}
        if "embedding" in names:
            answers["outputs"]["embeddings"] = predictor.embed(_PICTURES)
        answers["top"] = [p.top for p in predictor.predict(_PICTURES, top_k=5)]
        answers["report"] = predictor.check()
    return answers


def _pictures() -> list[Image.Image]:
    y, x = np.mgrid[:50, :70]
    planes = [(3 * x + y) % 256, (x * y // 9) % 256, 255 - (x + 2 * y) % 256]
    picture = Image.fromarray(np.stack(planes, -1).astype(np.uint8))
    return [picture, picture.rotate(90, expand=True), picture.resize((48, 32))]


_PICTURES = _pictures()
