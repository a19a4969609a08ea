"""A file or folder → tensors by name, and what stands beside them. Strict.

One reader per container, whoever wrote it (`containers`, `shards`); which source format the
names belong to is the keymaps' business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from levit.errors import CheckpointError
from levit.models.containers.contents import Contents
from levit.models.containers.file import begins_as_json, read_file, written
from levit.models.containers.listing import listing
from levit.models.containers.shards import find_file, read_shards
from levit.models.containers.state_dict import WeightSet
from levit.models.containers.wrappers import clean_names
from levit.models.hints import Hints, hints_from_config
from levit.models.hints_merging import agreed, overruled
from levit.models.json_files import read_config
from levit.models.ops import Array
from levit.models.selection import select
from levit.models.stated import hints_from_file

__all__ = ["CONFIGS", "Checkpoint", "StrictWeights", "checked_checkpoint", "read_checkpoint"]

_CONFIG: Final = "config.json"
_PREPROCESSOR: Final = "preprocessor_config.json"
# A processor of transformers holds those of its parts; this one overrules the file above.
_PROCESSOR: Final = "processor_config.json"
CONFIGS: Final = (_CONFIG, _PREPROCESSOR, _PROCESSOR)


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Tensors as a file holds them.

    Attributes:
        tensors: by name, in the file's own dtypes (half types widened to float32).
        hints: from what the file says beside its tensors, and from a ``config.json`` and a
            ``preprocessor_config.json`` beside the file.
        origin: for the manifest: ``file``, ``sha256`` and ``size_bytes``, ``files`` of shards,
            and ``key``, under which the weights were in a ``.pth``.
        choices: names of the models that the file holds, where it holds several.
        notes: parts of the file that were left out or could not be read, in words.
    """

    tensors: Mapping[str, Array]
    hints: Hints = field(default_factory=Hints)
    origin: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def read_checkpoint(path: Path, wanted: str | None = None) -> Checkpoint:
    """Read the weights at a path, and the configs beside them.

    Args:
        path: a ``.safetensors`` or PyTorch file, a list of shards (``….index.json``), or a
            folder that holds one of them. The suffix means nothing, the contents do.
        wanted: key or prefix of the weights to take, where a file holds several models;
            docs/checkpoints.md says which is taken otherwise.

    Raises:
        CheckpointError: the file is missing, empty, damaged, of another format, holds no
            tensors by name, or a value that is not finite.
        ConfigError: a config.json or preprocessor_config.json beside it cannot be read, or the
            file states what is not as it should be.
    """
    file = find_file(path)
    if begins_as_json(file):
        contents = _selected(read_shards(file), wanted, str(file))
    else:
        contents = read_file(file, wanted, select)
    own, notes = hints_from_file(contents.said, written(file))
    contents = replace(contents, notes=(*contents.notes, *notes))
    return checked_checkpoint(contents, agreed(own, _hints_beside(file)), str(file))


def _hints_beside(file: Path) -> Hints:
    """Read the configs in the folder of a file.

    Raises:
        ConfigError: one of them cannot be read.
    """
    config = file.with_name(_CONFIG)
    hints = Hints()
    if config.is_file():
        hints = hints_from_config(read_config(config), str(config), _CONFIG)
    for name in (_PROCESSOR, _PREPROCESSOR):
        path = file.with_name(name)
        if not path.is_file():
            continue
        values: Any = read_config(path)
        if name == _PROCESSOR:
            values = values.get("image_processor")
        if isinstance(values, Mapping):
            return overruled(hints, Hints(preprocessor_config=values).said_in(name))
    return hints


def _selected(contents: Contents, wanted: str | None, file: str) -> Contents:
    """Take the model that is wanted out of contents that are read already."""
    selection = select([WeightSet(entries=contents.tensors)], wanted, file)
    chosen = {"weights": selection.taken} if selection.choices else {}
    return replace(
        contents,
        tensors={name: contents.tensors[name] for name in selection.names},
        origin={**contents.origin, **chosen},
        choices=selection.choices,
        notes=(*contents.notes, *selection.notes),
    )


def checked_checkpoint(contents: Contents, hints: Hints, name: str) -> Checkpoint:
    """Check the contents of a file, and take the names of wrappers out of its tensors' names.

    Args:
        name: name of the file or of the live model, for messages.

    Raises:
        CheckpointError: there are none, or a value is not finite.
    """
    if not contents.tensors:
        where = f" under {contents.origin['key']!r}" if "key" in contents.origin else ""
        raise CheckpointError(f"{name}: holds no tensors{where}")
    tensors = clean_names(contents.tensors, name)
    _refuse_bad_numbers(tensors, name)
    return Checkpoint(
        tensors=tensors,
        hints=hints,
        origin=contents.origin,
        choices=contents.choices,
        notes=contents.notes,
    )


def _refuse_bad_numbers(tensors: Mapping[str, Array], file: str) -> None:
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf
        bad = [
            name
            for name, tensor in tensors.items()
            # A sum is finite unless a term is not, or it overflows: then look at every value.
            if tensor.dtype.kind == "f"
            and not math.isfinite(float(tensor.sum()))
            and not np.isfinite(tensor).all()
        ]
    if bad:
        raise CheckpointError(
            f"{file}: NaN or infinite values in {listing(bad)}; the training that saved this "
            f"has diverged, use an earlier checkpoint"
        )


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
            f"{len(names)} {what}: {listing(names)}"
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
