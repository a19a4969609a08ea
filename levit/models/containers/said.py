"""Values beside the weights in a PyTorch file → plain Python, without making what it names.

An ``argparse.Namespace`` becomes the dict of its attributes, a path its text, a class its name, a
number of NumPy a number, a container of OmegaConf what it contains. What has no plain form (a
tensor, a function's call) is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final

from levit.errors import CheckpointError
from levit.models.containers.listing import listing
from levit.models.containers.restricted_pickle import Global, Inert

__all__ = ["STATED", "Said", "stated_values"]

# Keys of a file beside its weights that `levit.models.stated` reads.
STATED: Final = (
    *("arch", "args", "config", "meta", "hyper_parameters", "hparams"),
    *("architecture", "model_name", "num_classes", "n_classes", "nb_classes", "num_labels"),
    *("in_chans", "in_channels", "num_channels", "img_size", "image_size", "mean", "std"),
    *("classes", "class_names", "label_names", "class_to_idx", "label2id"),
    *("idx_to_class", "id2label", "model_args", "model_kwargs"),
    *("global_pool", "act_layer", "attn_act_layer", "fc_norm", "no_embed_class"),
)

# Settings whose loss is worth a word, wherever they stand.
_NOTED: Final = {
    *STATED, "crop_pct", "interpolation", "input_size", "gp", "cfg", "dataset_meta",
    "eval_crop_ratio",
}  # fmt: skip

# ImageNet-21k's class names are 21,843; a training config is a few thousand values.
_MOST_VALUES: Final = 200_000
_DEEPEST: Final = 24
_MOST_TEXT: Final = 1 << 24
_MOST_BITS: Final = 64

_MOST_NOTES: Final = 100

_LEFT_OUT: Final = object()

# A list of tensors in the order of ``model.parameters()``: torch_ema, EMAModel of diffusers.
_NAMELESS: Final = "shadow_params"

# Classes whose attributes are their values.
_RECORDS: Final = ("argparse.Namespace", "types.SimpleNamespace")
_PATHS: Final = ("pathlib", "pathlib._local")  # the second in Python 3.13
_POSIX: Final = tuple(f"{at}.{kind}" for at in _PATHS for kind in ("PosixPath", "PurePosixPath"))
_WINDOWS: Final = tuple(
    f"{at}.{kind}" for at in _PATHS for kind in ("WindowsPath", "PureWindowsPath")
)
_NUMPY: Final = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
# NumPy's names of numbers → `struct`'s.
_NUMBERS: Final = {
    **{"f8": "d", "f4": "f", "f2": "e", "b1": "?"},
    **{"i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u2": "H", "u1": "B"},
}


@dataclass(frozen=True, kw_only=True)
class Said:
    """Statements of a file beside its weights.

    Attributes:
        values: plain Python, by key.
        notes: settings that have no plain form, in words.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def stated_values(saved: object, file: str) -> Said:
    """Read the entries of `STATED` in the object that a file of ``torch.save`` holds.

    ::

        stated_values({"args": Namespace(mean=[0.5]), "model": …}, "a.pth").values["args"]
        # {"mean": [0.5]}

    Args:
        saved: dicts, lists, tuples, numbers, text, and `Inert` for everything else.
        file: its name, for messages.

    Raises:
        CheckpointError: an entry is larger or deeper than any training writes.
    """
    found: dict[str, Any] = {}
    lost: list[str] = []
    left = _Left()
    if not isinstance(saved, Mapping):
        return Said()
    for key in STATED:
        if saved.get(key) is None:
            continue
        reader = _Reader(f"{file}: {key!r}", left)
        value = reader.plain(saved[key], 0)
        if value is _LEFT_OUT:
            lost.append(key)
        else:
            found[key] = value
        lost += [f"{name} of {key}" for name in reader.lost if name in _NOTED]
    averages = (
        key
        for key, value in saved.items()
        if isinstance(key, str) and isinstance(value, Mapping) and _is_filled(value.get(_NAMELESS))
    )
    nameless = tuple(
        f"{listing([f'{key}.{_NAMELESS}'])}: averaged weights, which are not read, as they have no "
        f"names"
        for key in islice(averages, _MOST_NOTES)
    )
    notes = tuple(
        f"{name}, stated beside the weights, is a tensor or an object and is not read"
        for name in lost[:_MOST_NOTES]
    )
    return Said(values=found, notes=(*notes, *nameless))


def _is_filled(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0


@dataclass(slots=True)
class _Left:
    """Values and characters that a file may still state, of all its keys together."""

    values: int = _MOST_VALUES
    text: int = _MOST_TEXT


class _Reader:
    """Copies values within limits: what a file holds may share and contain itself."""

    def __init__(self, name: str, left: _Left) -> None:
        self._name = name
        self._left = left
        self.lost: list[str] = []

    def plain(self, value: object, depth: int) -> object:
        self._spend(1, len(value) if isinstance(value, (str, bytes)) else 0, depth)
        return self._plain(value, depth)

    def _spend(self, values: int, text: int, depth: int = 0) -> None:
        self._left.values -= values
        self._left.text -= text
        if depth > _DEEPEST or self._left.values < 0 or self._left.text < 0:
            raise CheckpointError(
                f"{self._name} beside the weights is deeper or larger than any training writes; "
                f"save the weights alone: torch.save(model.state_dict(), …)"
            )

    def _plain(self, value: object, depth: int) -> object:
        if type(value) is int and value.bit_length() > _MOST_BITS:
            return _LEFT_OUT
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Global):
            return value.name.rpartition(".")[2]
        if isinstance(value, Inert):
            return self._of_inert(value, depth)
        if isinstance(value, Mapping):
            return self._table(value, depth)
        if isinstance(value, (list, tuple)):
            entries = [self.plain(entry, depth + 1) for entry in value]
            if any(entry is _LEFT_OUT for entry in entries):
                return _LEFT_OUT  # without one, the others would stand in other places
            return tuple(entries) if isinstance(value, tuple) else entries
        return _LEFT_OUT

    def _table(self, value: Mapping[Any, object], depth: int) -> dict[str | int, object]:
        entries = {
            key: self.plain(entry, depth + 1)
            for key, entry in value.items()
            if type(key) in (str, int)
        }
        self.lost += [str(key) for key, entry in entries.items() if entry is _LEFT_OUT]
        return {key: entry for key, entry in entries.items() if entry is not _LEFT_OUT}

    def _of_inert(self, value: Inert, depth: int) -> object:
        if value.name in _RECORDS:
            return self._table(value.state, depth) if isinstance(value.state, Mapping) else {}
        # Joined to a path, or looked at as the bytes of a number.
        self._spend(len(value.arguments) // 4, 0)
        self._spend(0, sum(_length(part) for part in value.arguments))
        if value.name in (*_POSIX, *_WINDOWS):
            return _path(value)
        if value.name in _NUMPY:
            return _number(value)
        if value.name.startswith("omegaconf.") and isinstance(value.state, Mapping):
            return self._of_omegaconf(value.state, depth)
        if value.items is not None:  # a kind of dict: EasyDict, AttributeDict, CfgNode
            return self._table(value.items, depth)
        return _LEFT_OUT

    def _of_omegaconf(self, state: Mapping[Any, object], depth: int) -> object:
        """Read a container (``_content``) or a leaf (``_val``); a reference is no value."""
        found = self.plain(state.get("_content", state.get("_val")), depth + 1)
        is_reference = isinstance(found, str) and "${" in found
        return _LEFT_OUT if is_reference or found == "???" else found


def _length(part: object) -> int:
    """Characters of an argument, or of the text that a call in its place would encode."""
    if isinstance(part, Inert) and part.arguments:
        part = part.arguments[0]
    return len(part) if isinstance(part, str) else 0


def _path(value: Inert) -> object:
    parts = [part for part in value.arguments if isinstance(part, str)]
    if len(parts) != len(value.arguments):
        return _LEFT_OUT
    return str(PureWindowsPath(*parts) if value.name in _WINDOWS else PurePosixPath(*parts))


def _number(value: Inert) -> object:
    """Read a scalar of NumPy: (dtype, bytes), which protocol 2 writes as text of Latin-1."""
    match value.arguments:
        case (Inert(name="numpy.dtype", arguments=(str(kind), *_), state=state), data):
            order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"
        case _:
            return _LEFT_OUT
    if isinstance(data, Inert) and data.name == "_codecs.encode":
        text = data.arguments[0] if data.arguments else None
        try:
            data = text.encode("latin-1") if isinstance(text, str) else None
        except UnicodeEncodeError:
            return _LEFT_OUT
    code = _NUMBERS.get(kind)
    if code is None or not isinstance(data, bytes) or len(data) != struct.calcsize("<" + code):
        return _LEFT_OUT
    found: object = struct.unpack((">" if order == ">" else "<") + code, data)[0]
    return found
