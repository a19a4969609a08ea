"""A file or folder → tensors by name, and what stands beside them. Strict.

One reader per container, whoever wrote it; which source format the names belong to is the
keymaps' business.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from levit.errors import CheckpointError, brief
from levit.models.hints import Hints, hints_from_config, read_config
from levit.models.ops import Array

__all__ = ["Checkpoint", "StrictWeights", "read_checkpoint"]

_LISTED: Final = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Tensors as a file holds them.

    Attributes:
        tensors: by name, in the file's own dtypes (half types widened to float32).
        hints: from a ``config.json`` beside the file.
        origin: name, hash, and the like, for the manifest.
    """

    tensors: Mapping[str, Array]
    hints: Hints = field(default_factory=Hints)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.safetensors`` file, or a folder with a ``model.safetensors``.

    A ``config.json`` in the same folder is read too.

    Raises:
        CheckpointError: the file is missing, empty, truncated, of another format, or holds
            a value that is not finite.
        ConfigError: the config.json beside it cannot be read.
    """
    file = _find_file(path)
    tensors = _read_safetensors(file)
    if not tensors:
        raise CheckpointError(f"{file}: holds no tensors")
    _refuse_bad_numbers(tensors, file)
    config = file.with_name("config.json")
    hints = hints_from_config(read_config(config), str(config)) if config.is_file() else Hints()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Checkpoint(
        tensors=tensors,
        hints=hints,
        origin={"file": file.name, "sha256": digest, "size_bytes": file.stat().st_size},
    )


def _find_file(path: Path) -> Path:
    # os.path says no where Path raises: of names that are too long.
    if os.path.isdir(path):
        file = path / "model.safetensors"
        if file.is_file():
            return file
        others = sorted(path.glob("*.safetensors"))
        if len(others) == 1:
            return others[0]
        found = f"several: {', '.join(p.name for p in others[:5])}" if others else "none"
        raise CheckpointError(
            f"{path}: expected a model.safetensors or one .safetensors file in this folder, "
            f"found {found}; name the file"
        )
    if not os.path.exists(path):
        raise CheckpointError(f"{path}: no such file")
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: is not a file")
    return path


def _read_safetensors(file: Path) -> dict[str, Array]:
    try:
        with file.open("rb") as opened:
            size, head = file.stat().st_size, opened.read(10)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    if size == 0:
        raise CheckpointError(f"{file}: the file is empty; download or save it again")
    if file.suffix in (".pth", ".pt", ".bin", ".ckpt", ".tar") or head[:2] == b"PK":
        raise CheckpointError(
            f"{file}: a PyTorch pickle, and this release reads .safetensors; convert it with "
            f"safetensors.torch.save_file(state_dict, 'model.safetensors')"
        )
    if len(head) < 10 or not int.from_bytes(head[:8], "little") >= 2 or head[8:9] != b"{":
        raise CheckpointError(f"{file}: not a .safetensors file")
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise CheckpointError(
            "reading a checkpoint needs safetensors: pip install 'levit[export]'"
        ) from error
    try:
        with safe_open(str(file), framework="numpy") as archive:
            return {name: _widened(archive.get_tensor(name)) for name in archive.keys()}  # noqa: SIM118
    except Exception as error:  # its own errors, and those of types that NumPy lacks
        raise CheckpointError(
            f"{file}: cannot be read as .safetensors ({brief(error)}); it may be truncated: "
            f"download or save it again"
        ) from error


def _widened(tensor: Array) -> Array:
    """Half-precision floats as float32, which holds them exactly."""
    narrow = tensor.dtype == np.float16 or tensor.dtype.name in ("bfloat16",)
    return tensor.astype(np.float32) if narrow else tensor


def _refuse_bad_numbers(tensors: Mapping[str, Array], file: Path) -> None:
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf
        bad = [
            name
            for name, tensor in tensors.items()
            # A sum is finite unless a term is not, or it overflows: then look at every value.
            if tensor.dtype.kind == "f"
            and not math.isfinite(float(tensor.sum(dtype=np.float64)))
            and not np.isfinite(tensor).all()
        ]
    if bad:
        raise CheckpointError(
            f"{file}: NaN or infinite values in {_listing(bad)}; the training that saved this "
            f"has diverged, use an earlier checkpoint"
        )


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


class StrictWeights:
    """Hands out a checkpoint's tensors and remembers what was asked.

    A missing or wrongly shaped tensor does not stop the reading, so that one message can
    list everything: call `finish` at the end.
    """

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = tensors
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[str] = []
        self._contradicting: list[str] = []

    def tensor(self, key: str, shape: tuple[int, ...]) -> Array:
        """The tensor called `key`; ones where it is missing or of another shape."""
        self._used.add(key)
        tensor = self._tensors.get(key)
        if tensor is None:
            self._missing.append(key)
        elif tuple(tensor.shape) != shape or tensor.dtype.kind != "f":
            kind = "" if tensor.dtype.kind == "f" else f" {tensor.dtype}"
            self._misshapen.append(f"{key} (is {_by(tensor.shape)}{kind}, should be {_by(shape)})")
        else:
            return tensor
        return np.broadcast_to(np.float32(1), shape)

    def constant(self, key: str, value: Array) -> None:
        """Note a tensor that follows from the config; it is an error if it holds another."""
        self._used.add(key)
        tensor = self._tensors.get(key)
        if tensor is not None and not np.array_equal(tensor, value):
            self._contradicting.append(key)

    def finish(self, name: str, ignores: Any) -> None:
        """Raise if anything was missing, wrongly shaped, or is left over.

        Args:
            name: of the checkpoint, for the message.
            ignores: (key) → whether an unused tensor carries nothing.

        Raises:
            CheckpointError: listing all of it in one line.
        """
        unused = [k for k in self._tensors if k not in self._used and not ignores(k)]
        problems = [
            f"{len(names)} {what}: {_listing(names)}"
            for what, names in (
                ("missing", self._missing),
                ("of another shape", self._misshapen),
                ("not used by this model", unused),
                ("with other indices than this model's", self._contradicting),
            )
            if names
        ]
        if problems:
            raise CheckpointError(f"{name}: tensors do not fit the model; {'; '.join(problems)}")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"
