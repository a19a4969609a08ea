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
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from levit.artifact.held import HeldFile, hold, read_whole, verify
from levit.artifact.manifest import Manifest
from levit.artifact.names import GIT_FILE, GOLDEN_FILE, LABELS_FILE, MANIFEST_FILE
from levit.errors import ArtifactError, CorruptArtifactError
from levit.json_values import parsed
from levit.plain_file import is_lfs_pointer, read_plain

__all__ = [
    "Artifact",
    "describe_files",
    "foreign_files",
    "is_artifact",
    "open_artifact",
    "sha256_of",
    "write_manifest",
]

# Git changes no byte of an artifact, on any system.
GIT_ATTRIBUTES: Final = "* -text\n"

_MOST_MANIFEST_BYTES: Final = 2**24  # a thousand times what one has


@dataclass(frozen=True)
class Artifact:
    """An opened artifact: its folder and its manifest.

    Its files are read through `hold`, `read`, `labels` and `golden` alone, each of which compares
    what it reads with the manifest.
    """

    path: Path
    manifest: Manifest
    _seen: set[str] = field(default_factory=set, repr=False, compare=False)

    @property
    def payload(self) -> Path:
        """The file that the backend loads."""
        return self.path / self.manifest.payload

    def hold(self, name: str) -> HeldFile:
        """Read a file that the manifest lists, compared with its hash, to be closed by the caller.

        ::

            with artifact.hold("model.onnx") as file:
                data = file.read()

        Raises:
            CorruptArtifactError: the manifest lists no such file, or it is not what was written.
        """
        held = hold(self.path / name, self._entry(name))
        self._seen.add(name)
        return held

    def read(self, name: str) -> bytes:
        """Read a file that the manifest lists, compared with its hash.

        Raises:
            CorruptArtifactError: as of `hold`.
        """
        data = read_whole(self.path / name, self._entry(name))
        self._seen.add(name)
        return data

    def verify(self) -> None:
        """Compare every file that has not been read yet with its size and hash.

        Raises:
            CorruptArtifactError: a file is missing, or not what was written.
        """
        for name, entry in self.manifest.files.items():
            if name not in self._seen:
                verify(self.path / name, entry)

    def labels(self) -> tuple[str, ...]:
        """Read the class names in the order of the logits; empty when there are no classes.

        Raises:
            CorruptArtifactError: the file is no text.
        """
        if LABELS_FILE not in self.manifest.files:
            return ()
        path = self.path / LABELS_FILE
        try:
            text = self.read(LABELS_FILE).decode("utf-8")
        except UnicodeDecodeError as error:
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
            return read_arrays(io.BytesIO(self.read(GOLDEN_FILE)))
        except ValueError as error:
            raise CorruptArtifactError(f"{path} is damaged ({error}); export again") from error

    def _entry(self, name: str) -> Mapping[str, Any]:
        entry = self.manifest.files.get(name)
        if entry is None:
            raise CorruptArtifactError(f"{self.path / MANIFEST_FILE}: lists no {name}")
        return entry


def open_artifact(path: str | os.PathLike[str], *, verify_hashes: bool = True) -> Artifact:
    """Read the manifest and compare every file that it names with its size and hash.

    Files may be links to files elsewhere, as in the cache of Hugging Face's hub or a volume of
    Kubernetes: their contents count.

    ::

        open_artifact("levit_128-onnx-fp32").manifest.precision    # "fp32"

    Raises:
        ArtifactError: there is no artifact at `path`.
        ManifestVersionError: a newer release wrote it.
        CorruptArtifactError: a file is missing, or differs from what was written.

    Args:
        path: the folder.
        verify_hashes: also hash the files. Whoever reads them all through `Artifact` leaves that
            to it, and calls `Artifact.verify` for the rest.
    """
    if not os.fspath(path):
        raise ArtifactError("an empty path names no artifact")
    folder = Path(path)
    if not os.path.isdir(folder):
        there = os.path.exists(folder)
        hint = "is a file; name the artifact's folder" if there else "no such folder"
        raise ArtifactError(f"{folder}: {hint} (make one with: levit export)")
    manifest_path = folder / MANIFEST_FILE
    try:
        data = read_plain(manifest_path, _MOST_MANIFEST_BYTES)
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder}: not an artifact, it holds no {MANIFEST_FILE}") from error
    except OSError as error:
        reason = error.strerror or error
        raise CorruptArtifactError(f"{manifest_path}: cannot be read ({reason})") from error
    if is_lfs_pointer(data):
        raise CorruptArtifactError(f"{manifest_path}: is a pointer of Git LFS: run git lfs pull")
    try:
        values = parsed(data.decode("utf-8"), finite=False)
    except ValueError as error:
        raise CorruptArtifactError(f"{manifest_path}: not JSON ({error}); export again") from error
    try:
        manifest = Manifest.from_dict(values)
    except ArtifactError as error:
        raise type(error)(f"{folder}: {error}") from error
    for required in (manifest.payload, GOLDEN_FILE):
        if required not in manifest.files:
            raise CorruptArtifactError(f"{manifest_path}: lists no {required}; export again")
    for name, entry in manifest.files.items():
        verify(folder / name, entry, hashes=verify_hashes)
    return Artifact(folder, manifest)


def sha256_of(path: Path) -> str:
    """Hash a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_artifact(path: Path) -> bool:
    """Tell whether `path` is a folder with a manifest of ours, readable or not by this release."""
    try:
        values = _manifest_values(path)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"schema_version", "family", "files"} <= set(values)


def foreign_files(path: Path) -> list[str]:
    """List the files in an artifact's folder that its manifest does not name."""
    own = {MANIFEST_FILE, GIT_FILE, *_manifest_values(path)["files"]}
    return sorted(entry.name for entry in path.iterdir() if entry.name not in own)


def _manifest_values(folder: Path) -> Any:
    data = read_plain(folder / MANIFEST_FILE, _MOST_MANIFEST_BYTES)
    return parsed(data.decode("utf-8"), finite=False)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Compute hash and size of every file in `folder`, by name, for the manifest."""
    return {
        path.name: {"sha256": sha256_of(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name not in (MANIFEST_FILE, GIT_FILE)
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into `folder`, and what keeps git from converting line ends."""
    text = json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8", newline="\n")
    # No file of the manifest's: a copy without hidden files is whole.
    (folder / GIT_FILE).write_text(GIT_ATTRIBUTES, encoding="utf-8", newline="\n")
