"""Target that opens artifact folders: manifests, golden cases, labels, links, foreign files."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from fuzzing.archives import damaged_npz
from fuzzing.artifact_seeds import export_bases, sealed_manifest
from fuzzing.damage import damaged
from fuzzing.folders import Entry, pack, seal, unpack, write_folder
from fuzzing.json_damage import damaged_json
from fuzzing.target import WrongAnswerError
from levit.artifact import GOLDEN_FILE, LABELS_FILE, MANIFEST_FILE
from levit.cli import build_parser
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
    seconds = 120.0

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

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        base, _ = unpack(data)
        manifest = self._manifests[base]
        golden = (self._bases[base] / GOLDEN_FILE).read_bytes()
        manifests = damaged_json(manifest, list(self._manifests.values()))
        return st.one_of(
            *[manifests.map(lambda part: pack(base, {MANIFEST_FILE: part}))] * 5,
            damaged(manifest.encode()).map(lambda part: pack(base, {MANIFEST_FILE: part})),
            damaged_npz(golden).map(
                lambda part: pack(base, {MANIFEST_FILE: manifest.encode(), GOLDEN_FILE: part})
            ),
            self._disturbed(base),
        )

    def _disturbed(self, base: str) -> st.SearchStrategy[bytes]:
        """One or more files changed, with or without a new hash in the manifest."""

        @st.composite
        def disturbed(draw: Any) -> bytes:
            manifest = self._manifests[base].encode()
            entries: dict[str, Entry] = {}
            for _ in range(draw(st.sampled_from((1, 1, 2)))):
                name = draw(st.sampled_from((_PAYLOAD, GOLDEN_FILE, LABELS_FILE, "extra.bin")))
                there = self._bases[base] / name
                contents = there.read_bytes() if there.exists() else b"x"
                kind = draw(st.sampled_from(("none", "link", "folder", "donor", "bytes", "bytes")))
                if kind == "none":
                    entries[name] = None
                elif kind == "link":
                    links = (name, "/etc/passwd", "/dev/zero", f"../{name}", "nowhere", ".")
                    entries[name] = draw(st.sampled_from((*links, _PAYLOAD)))
                elif kind == "folder":
                    entries[name] = ()
                elif kind == "donor":
                    donor = self._bases[draw(st.sampled_from(sorted(self._bases)))] / name
                    entries[name] = donor.read_bytes() if donor.exists() else b""
                else:
                    entries[name] = draw(damaged(contents))
                    if name != LABELS_FILE:  # the hashes of before: a damaged copy must be found
                        manifest = manifest.replace(b"@sha256:", b"@sha256-base:")
                        if draw(st.booleans()):
                            manifest = manifest.replace(b"@size:", b"@size-base:")
            return pack(base, {MANIFEST_FILE: manifest, **entries})

        return disturbed()

    def attempt(self, data: bytes, folder: Path) -> Any:
        path = folder / "artifact"
        base = self._lay_out(data, path)
        if base is None:
            return None
        for as_json in (True, False):
            arguments = build_parser().parse_args(["inspect", str(path), *["--json"] * as_json])
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
        """Write the folder. Returns its base's name, or None where the input is no folder."""
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
        """True if a listed file is not as the manifest's hash says; computed another way."""
        listed = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        described = json.loads(
            seal(json.dumps({n: f"@sha256:{n}@" for n in listed}).encode(), path, self._bases[base])
        )
        return any(entry["sha256"] != described[n] for n, entry in listed.items())


def answers_of(path: Path) -> dict[str, Any]:
    """Answers of an artifact: outputs for fixed tensors, and classes for fixed pictures."""
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
