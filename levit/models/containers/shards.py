"""Search for the weights in a folder, and weights that are cut into several files.

A folder is one of transformers, of ``huggingface_hub``, or of somebody's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from levit.artifact import GOLDEN_FILE, MANIFEST_FILE, sha256_of
from levit.errors import CheckpointError, ConfigError
from levit.models.containers.contents import Contents
from levit.models.containers.file import read_file, written
from levit.models.containers.folders import is_training_state, only_others, only_parts
from levit.models.containers.listing import listing
from levit.models.json_files import read_config
from levit.models.ops import Array

__all__ = ["INDEX", "WEIGHTS", "find_file", "read_shards", "shard_names"]

INDEX: Final = ".index.json"
# In this order, as transformers looks for them.
WEIGHTS: Final = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
_PYTORCH: Final = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")  # the last is timm's
_SUFFIXES: Final = (".safetensors", *_PYTORCH)


def find_file(path: Path) -> Path:
    """Find the file that holds the weights, or the list of shards.

    Example::

        find_file(Path("runs/levit_128")).name  # "model.safetensors"

    Raises:
        CheckpointError: there is none, or the folder leaves a choice.
    """
    # os.path says no where Path raises: of names that are too long, in folders that are closed.
    if os.path.isdir(path):
        return _find_in_folder(path)
    if not os.path.exists(path):
        raise CheckpointError(f"{path}: no such file{_elsewhere(path)}")
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: is not a file")
    if (words := only_parts(path.parent, [path.name], [])) is not None:
        raise CheckpointError(f"{path}: {words}")
    return path


def _elsewhere(path: Path) -> str:
    """Advice for a missing path that may name something on the network."""
    name = path.as_posix()
    if re.match(r"https?:/", name):
        return "; download it, and pass the file"
    if re.match(r"hf(-hub)?:", name, re.IGNORECASE):
        return "; a repository of the hub is hf:OWNER/NAME"
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not name.endswith(_SUFFIXES):
        return f"; if it is a repository of the hub: hf:{name}"
    return ""


def _find_in_folder(folder: Path) -> Path:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror})") from error
    files = {path.name: path for path in paths if os.path.isfile(path)}
    names, folders = list(files), [path.name for path in paths if os.path.isdir(path)]
    if MANIFEST_FILE in files and GOLDEN_FILE in files:
        raise CheckpointError(
            f"{folder}: an artifact of levit, which is exported already; pass the checkpoint that "
            f"it was made from"
        )
    for name in WEIGHTS:
        if name in files:
            return files[name]
    if (words := only_parts(folder, names, folders)) is not None:
        raise CheckpointError(f"{folder}: {words}")
    weights = [name for name in names if not is_training_state(name)]
    found = [name for name in weights if name.endswith(".safetensors")]
    found = found or [name for name in weights if name.endswith(_PYTORCH)]
    if len(found) == 1:
        return files[found[0]]
    if not found and (words := only_others(folder, names, folders)) is not None:
        raise CheckpointError(f"{folder}: {words}")
    what = f"several: {listing(found)}" if found else "none"
    raise CheckpointError(
        f"{folder}: expected a {' or '.join(WEIGHTS[::2])}, or one .safetensors or .pth file in "
        f"this folder, found {what}; name the file"
    )


def shard_names(index: Path) -> dict[str, list[str]]:
    """Read a list of shards: file name → names of the tensors in it.

    Raises:
        CheckpointError: it cannot be read, or names a file that is not beside it.
    """
    try:
        mapping = read_config(index).get("weight_map")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(mapping, Mapping) or not mapping:
        raise CheckpointError(
            f"{index}: a JSON file without a 'weight_map', so not a list of shards; name the file "
            f"that holds the weights"
        )
    shards: dict[str, list[str]] = {}
    for tensor, name in mapping.items():
        if not isinstance(name, str) or not _is_base_name(name):
            raise CheckpointError(
                f"{index}: {listing([str(name)])} is not the plain name of a file beside it"
            )
        shards.setdefault(name, []).append(tensor)
    return shards


def _is_base_name(name: str) -> bool:
    return name.isprintable() and name not in ("", ".", "..") and not {"/", "\\", ":"} & set(name)


def read_shards(index: Path) -> Contents:
    """Read every tensor that a list of shards names, from the file that it names.

    Returns:
        Of ``origin``, ``sha256`` and ``size_bytes`` are the list's, and ``files`` is a list of
        ``name``, ``sha256`` and ``size_bytes``.

    Raises:
        CheckpointError: a shard is missing or damaged, or holds other tensors than the list says.
    """
    shards = shard_names(index)
    missing = [name for name in shards if not os.path.isfile(index.with_name(name))]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of {len(shards)} files are missing: {listing(missing)}; "
            f"download them too"
        )
    tensors: dict[str, Array] = {}
    files: list[dict[str, Any]] = []
    for name, expected in sorted(shards.items()):
        part = read_file(index.with_name(name))
        differing = sorted(part.tensors.keys() ^ set(expected))
        if differing:
            raise CheckpointError(
                f"{index}: {name} holds other tensors than this list says: {listing(differing)}"
            )
        tensors.update(part.tensors)
        files.append({"name": name, **{key: part.origin[key] for key in ("sha256", "size_bytes")}})
    origin = {
        "file": written(index),
        "sha256": sha256_of(index),
        "size_bytes": index.stat().st_size,
        "files": files,
    }
    return Contents(tensors=tensors, origin=origin)
