"""The artifact: a folder with a manifest, written whole or not at all, verified when opened.

::

    levit_128-onnx-fp32/
        manifest.json    its model, how it was made, and the hash of every other file
        model.onnx       the payload
        labels.txt       one class name per line (absent when there are no classes)
        golden.npz       inputs and reference outputs, so that it can prove itself elsewhere

Hashes prove integrity (the bytes are those that were written), not origin: whoever can
change a file can change the manifest beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from levit.artifact.manifest import Manifest
from levit.artifact.names import GOLDEN_FILE, LABELS_FILE, MANIFEST_FILE
from levit.errors import ArtifactError, CorruptArtifactError

__all__ = [
    "Artifact",
    "describe_files",
    "foreign_files",
    "is_artifact",
    "open_artifact",
    "sha256_of",
    "write_manifest",
]

# A thousand times what one has.
MAX_MANIFEST_BYTES: Final = 2**24


@dataclass(frozen=True)
class Artifact:
    """An opened artifact: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def payload(self) -> Path:
        """The file that the backend loads."""
        return self.path / self.manifest.payload

    def labels(self) -> tuple[str, ...]:
        """Read the class names in the order of the logits; empty when there are no classes.

        Raises:
            CorruptArtifactError: the file is no text.
        """
        if LABELS_FILE not in self.manifest.files:
            return ()
        path = self.path / LABELS_FILE
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptArtifactError(f"{path}: cannot be read ({error})") from error
        return tuple(text.removesuffix("\n").split("\n"))

    def golden(self) -> dict[str, NDArray[Any]]:
        """Read the arrays of ``golden.npz``; nothing is ever unpickled.

        Raises:
            CorruptArtifactError: the file is not an archive of plain arrays.
        """
        from levit.artifact.arrays import read_arrays  # zipfile takes 5 ms, and few ask for these

        path = self.path / GOLDEN_FILE
        try:
            return read_arrays(path)
        except (OSError, ValueError) as error:
            raise CorruptArtifactError(f"{path} is damaged ({error}); export again") from error


def open_artifact(path: str | os.PathLike[str], *, verify_hashes: bool = True) -> Artifact:
    """Read the manifest and check every file that it names against its size and hash.

    ::

        open_artifact("levit_128-onnx-fp32").manifest.precision    # "fp32"

    Raises:
        ArtifactError: there is no artifact at `path`.
        ManifestVersionError: a newer release wrote it.
        CorruptArtifactError: a file is missing, is a link, or differs from what was written.
    """
    if not os.fspath(path):
        raise ArtifactError("an empty path names no artifact")
    folder = Path(path)
    if not os.path.isdir(folder):
        there = os.path.exists(folder)
        hint = "is a file; name the artifact's folder" if there else "no such folder"
        raise ArtifactError(f"{folder}: {hint} (make one with: levit export)")
    manifest_path = folder / MANIFEST_FILE
    if manifest_path.is_symlink():
        raise CorruptArtifactError(f"{manifest_path}: is a link; an artifact's files are its own")
    try:
        text = _manifest_bytes(manifest_path).decode("utf-8")
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder}: not an artifact, it holds no {MANIFEST_FILE}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptArtifactError(f"{manifest_path}: cannot be read ({error})") from error
    try:
        values = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise CorruptArtifactError(f"{manifest_path}: not JSON ({error}); export again") from error
    try:
        manifest = Manifest.from_dict(values)
    except ArtifactError as error:
        raise type(error)(f"{folder}: {error}") from error
    for required in (manifest.payload, GOLDEN_FILE):
        if required not in manifest.files:
            raise CorruptArtifactError(f"{manifest_path}: lists no {required}; export again")
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry, verify_hashes=verify_hashes)
    return Artifact(folder, manifest)


def _manifest_bytes(path: Path) -> bytes:
    """Read the manifest's bytes from a regular file only: a pipe would be waited for."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a file")
    if status.st_size > MAX_MANIFEST_BYTES:
        raise OSError(f"over {MAX_MANIFEST_BYTES // 2**20} MiB")
    return path.read_bytes()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose names are unique: readers differ in which of two they take."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands in it twice")
    return values


def _check_file(path: Path, entry: Mapping[str, Any], *, verify_hashes: bool) -> None:
    try:
        if path.is_symlink():
            raise CorruptArtifactError(f"{path}: is a link; an artifact's files are its own")
        if not path.is_file():
            raise CorruptArtifactError(
                f"{path}: is missing; copy the whole folder, or export again"
            )
        size = path.stat().st_size
        if size != entry["size_bytes"]:
            raise CorruptArtifactError(
                f"{path}: has {size} bytes where {entry['size_bytes']} were written; "
                f"copy it again, or export again"
            )
        if verify_hashes and sha256_of(path) != entry["sha256"]:
            raise CorruptArtifactError(
                f"{path}: its contents have changed since it was written; "
                f"copy it again, or export again"
            )
    except OSError as error:
        raise CorruptArtifactError(f"{path}: cannot be read ({error})") from error


def sha256_of(path: Path) -> str:
    """Hash a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_artifact(path: Path) -> bool:
    """Tell whether `path` is a folder with a manifest of ours, readable or not by this release."""
    try:
        values = json.loads(_manifest_bytes(path / MANIFEST_FILE))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"schema_version", "family", "files"} <= set(values)


def foreign_files(path: Path) -> list[str]:
    """List the files in an artifact's folder that its manifest does not name."""
    values = json.loads(_manifest_bytes(path / MANIFEST_FILE))
    own = {MANIFEST_FILE, *values["files"]}
    return sorted(entry.name for entry in path.iterdir() if entry.name not in own)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Compute hash and size of every file in `folder`, by name, for the manifest."""
    return {
        path.name: {"sha256": sha256_of(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_FILE
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into `folder`."""
    text = json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
