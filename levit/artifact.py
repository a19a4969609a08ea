"""The artifact: a folder with a manifest, written whole or not at all, verified when opened.

::

    levit_128-onnx-fp32/
        manifest.json    what it is, how it was made, and the hash of every other file
        model.onnx       the payload
        labels.txt       one class name per line (absent when there are no classes)
        golden.npz       inputs and reference outputs, so that it can prove itself elsewhere

Hashes prove integrity (the bytes are those that were written), not origin: whoever can
change a file can change the manifest beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import ArtifactError, ConfigError, CorruptArtifactError, ManifestVersionError
from levit.preprocess import PreprocessSpec

__all__ = [
    "GOLDEN_FILE",
    "LABELS_FILE",
    "MANIFEST_FILE",
    "SCHEMA_VERSION",
    "Artifact",
    "BatchProfile",
    "Manifest",
    "TensorSpec",
    "check_destination",
    "describe_files",
    "is_artifact",
    "open_artifact",
    "sha256_of",
    "staged_folder",
    "write_manifest",
]

SCHEMA_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
LABELS_FILE: Final = "labels.txt"
GOLDEN_FILE: Final = "golden.npz"


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: ``shape`` holds numbers, and ``"batch"`` where any number may stand."""

    name: str
    dtype: str
    layout: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """Batch sizes: `static` artifacts take `max` and no other; dynamic ones take any.

    `opt` is what the runtime batches by; `max` is the most that it passes at once.
    """

    min: int
    opt: int
    max: int
    static: bool


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What stands in ``manifest.json``; ``docs/manifest.md`` describes every field."""

    schema_version: int = SCHEMA_VERSION
    family: str
    variant: str
    config: Mapping[str, Any]
    source: Mapping[str, Any]
    assumed: tuple[str, ...] = ()
    passes: tuple[Mapping[str, Any], ...] = ()
    target: str
    format: str
    precision: str
    payload: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchProfile
    preprocess: PreprocessSpec | None
    verification: Mapping[str, Any]
    calibration: Mapping[str, Any] | None = None
    toolchain: Mapping[str, str] = field(default_factory=dict)
    requirements: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """Parse what ``json.loads`` returned.

        Raises:
            ManifestVersionError: a newer release wrote it.
            CorruptArtifactError: a field is missing, unknown or of the wrong type.
        """
        if not isinstance(values, dict) or not isinstance(values.get("schema_version"), int):
            raise CorruptArtifactError(f"{MANIFEST_FILE} is not a manifest of this package")
        version = values["schema_version"]
        if version > SCHEMA_VERSION:
            raise ManifestVersionError(
                f"the artifact has schema version {version}, this release reads up to "
                f"{SCHEMA_VERSION}: upgrade levit, or export again with this release"
            )
        names = {f.name for f in fields(cls)}
        odd = sorted(names ^ set(values))
        if odd or version < 1:
            raise CorruptArtifactError(
                f"{MANIFEST_FILE} of schema version {version} has missing or unknown fields: "
                f"{', '.join(odd) or 'schema_version'}; export again"
            )
        try:
            return cls(
                **{
                    **values,
                    "assumed": tuple(map(str, values["assumed"])),
                    "passes": tuple(dict(entry) for entry in values["passes"]),
                    "inputs": tuple(map(_tensor_spec, values["inputs"])),
                    "outputs": tuple(map(_tensor_spec, values["outputs"])),
                    "batch": _batch_profile(values["batch"]),
                    "preprocess": (
                        None
                        if values["preprocess"] is None
                        else PreprocessSpec.from_dict(values["preprocess"])
                    ),
                    **{name: _mapping(values[name]) for name in _MAPPINGS},
                    **{name: _text(values[name]) for name in _TEXTS},
                    "files": {
                        _plain_name(name): _file_entry(entry)
                        for name, entry in _mapping(values["files"]).items()
                    },
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise CorruptArtifactError(
                f"{MANIFEST_FILE} is damaged ({error}); export again"
            ) from error


_MAPPINGS: Final = ("config", "source", "verification", "toolchain", "requirements")
_TEXTS: Final = ("family", "variant", "target", "format", "precision", "payload")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, found {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, found {type(value).__name__}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a count, found {value!r}")
    return value


def _tensor_spec(values: Any) -> TensorSpec:
    shape = tuple(n if n == "batch" else _count(n) for n in values["shape"])
    return TensorSpec(
        name=_text(values["name"]),
        dtype=_text(values["dtype"]),
        layout=_text(values["layout"]),
        shape=shape,
    )


def _batch_profile(values: Any) -> BatchProfile:
    profile = BatchProfile(
        min=_count(values["min"]),
        opt=_count(values["opt"]),
        max=_count(values["max"]),
        static=bool(values["static"]),
    )
    if not 1 <= profile.min <= profile.opt <= profile.max:
        raise ValueError(f"batch profile {profile} is not 1 <= min <= opt <= max")
    return profile


def _plain_name(name: str) -> str:
    if (
        not name
        or name in (".", "..")
        or name != os.path.basename(name)
        or set(name) & set("\\:\0")
    ):
        raise ValueError(f"file name {name!r} is not a plain name inside the artifact")
    return name


def _file_entry(values: Any) -> dict[str, Any]:
    return {"sha256": _text(values["sha256"]), "size_bytes": _count(values["size_bytes"])}


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
        """Class names in the order of the logits; empty when there are no classes."""
        if LABELS_FILE not in self.manifest.files:
            return ()
        text = (self.path / LABELS_FILE).read_text(encoding="utf-8")
        return tuple(text.removesuffix("\n").split("\n"))

    def golden(self) -> dict[str, NDArray[Any]]:
        """The arrays of ``golden.npz``, which never unpickles.

        Raises:
            CorruptArtifactError: the file is not an archive of plain arrays.
        """
        try:
            # Opened here, because NumPy leaves the file open when it is no archive.
            with (self.path / GOLDEN_FILE).open("rb") as file:
                archive = np.load(file, allow_pickle=False)
                return {name: archive[name] for name in archive.files}
        except Exception as error:  # zipfile, zlib, struct and NumPy share no base
            raise CorruptArtifactError(
                f"{self.path / GOLDEN_FILE} is damaged ({error}); export again"
            ) from error


def open_artifact(path: str | os.PathLike[str], *, verify_hashes: bool = True) -> Artifact:
    """Read the manifest and check every file that it names against its size and hash.

    Raises:
        ArtifactError: there is no artifact at `path`.
        ManifestVersionError: a newer release wrote it.
        CorruptArtifactError: a file is missing, is a link, or differs from what was written.
    """
    folder = Path(path)
    if not folder.is_dir():
        hint = "is a file; name the artifact's folder" if folder.exists() else "no such folder"
        raise ArtifactError(f"{folder}: {hint} (make one with: levit export)")
    manifest_path = folder / MANIFEST_FILE
    try:
        text = manifest_path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder}: not an artifact, it holds no {MANIFEST_FILE}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptArtifactError(f"{manifest_path}: cannot be read ({error})") from error
    try:
        values = json.loads(text)
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
    """The hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_artifact(path: Path) -> bool:
    """Whether `path` is a folder with a manifest of ours, readable or not by this release."""
    try:
        values = json.loads((path / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"schema_version", "family", "files"} <= set(values)


@contextlib.contextmanager
def staged_folder(destination: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder that takes the place of `destination` when the block ends well.

    It lies beside the destination, so that the swap is a rename. When the block raises,
    or the process is interrupted, the folder goes and the destination is as it was.

    Raises:
        ArtifactError: the destination exists and `force` is not given, or it exists and is
            no artifact, or the disk refuses.
    """
    destination = Path(os.path.abspath(destination))
    check_destination(destination, force=force)
    created: list[Path] = []
    staging: Path | None = None
    try:
        created = _make_parents(destination.parent)
        _remove_leftovers(destination)
        staging = Path(
            tempfile.mkdtemp(prefix=f".{destination.name}.{os.getpid()}-", dir=destination.parent)
        )
        staging.chmod(0o777 & ~_umask())
        yield staging
        _sync_tree(staging)
        check_destination(destination, force=force)
        _swap_in(staging, destination)
        created = []
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = (
            "free some space or choose another --output"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "choose another --output"
        )
        raise ArtifactError(f"{destination}: cannot be written ({reason}); {hint}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for folder in reversed(created):
            with contextlib.suppress(OSError):
                folder.rmdir()


def check_destination(destination: Path, *, force: bool) -> None:
    """Raise `ArtifactError` unless an artifact may be written at `destination`."""
    if not os.path.lexists(destination):
        return
    if not force:
        raise ArtifactError(
            f"{destination}: already exists; pass --force to replace it, or choose another --output"
        )
    if destination.is_symlink() or not is_artifact(destination):
        raise ArtifactError(
            f"{destination}: exists and is not an artifact, so --force does not replace it; "
            f"choose another --output"
        )


def _make_parents(folder: Path) -> list[Path]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    missing.reverse()
    for path in missing:
        path.mkdir()
    return missing


def _remove_leftovers(destination: Path) -> None:
    """Remove what an export that was killed outright has left beside the destination."""
    for path in destination.parent.glob(f".{_glob_escape(destination.name)}.*-*"):
        owner = path.name.removeprefix(f".{destination.name}.").split("-", 1)[0]
        # A retired artifact (see _swap_in) is somebody's only copy: it stays.
        if path.suffix != ".old" and owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _glob_escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_tree(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap_in(staging: Path, destination: Path) -> None:
    if not destination.exists():
        staging.rename(destination)
    elif not _exchange(staging, destination):
        # Two renames where the system cannot exchange: the old artifact is whole at
        # every moment, beside the destination if not at it.
        retired = staging.with_name(f"{staging.name}.old")
        destination.rename(retired)
        try:
            staging.rename(destination)
        except OSError:
            retired.rename(destination)
            raise
        shutil.rmtree(retired, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically (Linux renameat2); False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    at_cwd, exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    result: int = renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange)
    return result == 0


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of every file in `folder`, by name, for the manifest."""
    return {
        path.name: {"sha256": sha256_of(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_FILE
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into `folder`."""
    text = json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
