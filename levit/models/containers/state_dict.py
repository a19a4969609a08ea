"""Sets of weights in a saved object: mappings of tensors by name, wherever they lie in it.

A file of ``torch.save`` holds any object. Tensors by name stand alone, or under keys such as
``model`` and ``state_dict_ema`` beside an optimizer's state, or one level further down (an EMA
among the callbacks of Lightning). They are found as data; which of them is taken is decided in
`levit.models.selection`, by what their names are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from levit.errors import CheckpointError
from levit.models.containers.budget import Budget
from levit.models.containers.listing import listing
from levit.models.containers.restricted_pickle import Global, Inert

__all__ = ["AVERAGED", "PLAIN", "Choose", "Selection", "WeightSet", "take_only", "weight_sets"]

AVERAGED: Final = ("state_dict_ema", "model_ema")
PLAIN: Final = ("state_dict", "model", "model_state_dict")

# Levels of keys, sets, and names in them that are looked at: a few sets of a few hundred names
# are usual, and a hostile file may have any number under any number of keys.
_DEEPEST: Final = 4
_MOST_SETS: Final = 16
_MOST_NAMES: Final = 400_000
_LONGEST_KEY: Final = 100

_ENTRY_BYTES: Final = 64
_DESCRIPTION_BYTES: Final = 160

# How protocol 2 of pickle, which torch.save takes, writes bytes.
_BYTES: Final = ("_codecs.encode", "__builtin__.bytes")


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightSet:
    """Tensors by name that lie together in a saved object; nothing of them is read yet.

    Attributes:
        key: where they lie, such as ``model`` or ``callbacks.EMA.state_dict``; None where they
            are the whole object.
        entries: tensors by name, of whatever kind the reader of the file has.
        left_out: things between them that carry nothing, in words.
        problem: why they cannot be taken, a part of a line; empty where they can.
    """

    key: str | None = None
    entries: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The set that is taken of those in a file, and what is left out of it.

    Attributes:
        weights: the set.
        names: of the tensors in it that are read.
        taken: the name of the choice, one of `choices`; empty where there is none.
        choices: what ``--weights`` can take.
        notes: what was chosen without being said, and left out, in words.
    """

    weights: WeightSet
    names: Sequence[str]
    taken: str = ""
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


# (sets, key that is wanted or None, name of the file for messages) → what is taken.
Choose = Callable[[Sequence[WeightSet], str | None, str], Selection]


def take_only(sets: Sequence[WeightSet], wanted: str | None, file: str) -> Selection:
    """Take the one set that a file has, such as a shard.

    Raises:
        CheckpointError: it has several, or holds other things than tensors.
    """
    if len(sets) != 1 or wanted is not None:
        raise CheckpointError(
            f"{file}: holds several sets of weights; save it again with one of them"
        )
    if sets[0].problem:
        raise CheckpointError(f"{file}: {sets[0].problem}")
    return Selection(weights=sets[0], names=list(sets[0].entries))


def weight_sets(
    saved: object, is_tensor: Callable[[object], bool], file: str, budget: Budget
) -> tuple[WeightSet, ...]:
    """Find the sets of weights in the object that a ``.pth`` holds.

    Example::

        weight_sets({"model": state, "epoch": 3}, torch.is_tensor, "a.pth", budget)[0].key
        # "model"

    Args:
        saved: the object that was saved: dicts, and tensors that `is_tensor` knows.
        is_tensor: tells a tensor from other values.
        file: its name, for messages.
        budget: what the file has left to spend.

    Raises:
        CheckpointError: there are none, or looking for them costs more than the budget has.
    """
    if not isinstance(saved, Mapping):
        raise CheckpointError(
            f"{file}: holds {_kind(saved, is_tensor)}, not tensors by name; save model.state_dict()"
        )
    found = list(_Search(is_tensor, budget).sets(saved))
    if not found:
        budget.keep(_DESCRIPTION_BYTES * len(saved))
        said = listing([_described(*item, is_tensor) for item in _items(saved)])
        raise CheckpointError(
            f"{file}: holds no tensors by name{f' but {said}' if said else ''}; save "
            f"{{'model': model.state_dict()}}"
        )
    return tuple(found)


class _Search:
    """Search for mappings of tensors, over a bounded number of names."""

    def __init__(self, is_tensor: Callable[[object], bool], budget: Budget) -> None:
        self._is_tensor = is_tensor
        self._budget = budget
        self._names_left = _MOST_NAMES

    def sets(self, saved: Mapping[object, object]) -> Iterator[WeightSet]:
        return islice(self._walk(saved, ()), _MOST_SETS)

    def _walk(self, values: Mapping[object, object], path: tuple[str, ...]) -> Iterator[WeightSet]:
        known = [key for key in (*AVERAGED, *PLAIN) if key in values] if not path else []
        # timm stops at a network with a tensor of such a name; here that one is like any other.
        known = [k for k in known if not self._is_no_set(values[k])]
        others = [k for k in values if isinstance(k, str) and k not in known]
        for key in (*known, *others):
            yield from self._under((*path, key), values[key], known=key in known)
        if any(self._is_tensor(values[k]) or _other_form(values[k]) for k in others):
            yield self._set(values, path, beside=known)

    def _is_no_set(self, value: object) -> bool:
        """Return True for a tensor, for the name of a model, and for what was not there."""
        return value is None or isinstance(value, (str, int, float)) or self._is_tensor(value)

    def _under(self, path: tuple[str, ...], value: object, *, known: bool) -> Iterator[WeightSet]:
        if not isinstance(value, Mapping):
            if known:
                key = ".".join(path)
                problem = f"holds {_kind(value, self._is_tensor)} under {key!r}, not tensors by "
                yield WeightSet(
                    key=key, entries={}, problem=f"{problem}name; save model.state_dict()"
                )
            return
        self._budget.touch(sum(map(len, path)))
        key = ".".join(path)
        if not known:
            self._names_left -= len(value)
            if self._names_left < 0 or len(key) > _LONGEST_KEY or not key.isprintable():
                return
        found = list(self._walk(value, path)) if len(path) < _DEEPEST else []
        if not found and known:
            found = [self._set(value, path)]
        yield from found

    def _set(
        self,
        values: Mapping[object, object],
        path: tuple[str, ...],
        beside: Sequence[str] = (),
    ) -> WeightSet:
        key = ".".join(path) or None
        where = "" if key is None else f" under {key!r}"
        entries: dict[str, object] = {}
        left_out: list[str] = []
        others: list[str] = []
        self._budget.touch(_ENTRY_BYTES * len(values))  # of a dict that may be found many times
        for name, value in _items(values):
            if isinstance(name, str) and self._is_tensor(value):
                entries[name] = value
            elif name not in beside:
                described = _described(name, value, self._is_tensor)
                self._budget.keep(_DESCRIPTION_BYTES + len(described))
                (left_out if _carries_nothing(name, value) else others).append(described)
        problem = ""
        if others:
            said = listing(list(dict.fromkeys(others)))  # keys that are no text look alike
            problem = _of_subclass(values) or (
                f"there are other things than tensors{where}: {said}; take them out and save it "
                f"again"
            )
        elif not entries:
            problem = f"holds no tensors{where}"
        return WeightSet(key=key, entries=entries, left_out=tuple(left_out), problem=problem)


def _items(values: Mapping[object, object]) -> Iterator[tuple[object, object]]:
    """Items without an attribute of torch's state dicts, which some copy into them."""
    return ((name, value) for name, value in values.items() if name != "_metadata")


def _of_subclass(values: Mapping[object, object]) -> str | None:
    """Say which weights are held in another form, and what undoes it."""
    for name, value in values.items():
        words = _other_form(value)
        if words is not None:
            return f"its {listing([str(name)])} is {words}"
    return None


def _other_form(value: object) -> str | None:
    if not isinstance(value, Inert):
        return None
    return next((words for pattern, words in _SUBCLASSES if pattern.match(value.name)), None)


def _carries_nothing(name: object, value: object) -> bool:
    """Return True for what stands between tensors and is no part of a network."""
    if not isinstance(name, str):
        return False
    if name.rpartition(".")[2] == "_extra_state":
        if isinstance(value, Inert):
            return value.name in _BYTES
        return value is None or isinstance(value, (bytes, bytearray))
    # A parameter that a layer does not have is None. A plain number with a dot in its name would
    # be a layer's.
    return value is None or ("." not in name and isinstance(value, (bool, int, float, str)))


def _described(name: object, value: object, is_tensor: Callable[[object], bool]) -> str:
    return f"{name if isinstance(name, str) else 'a key'} ({_kind(value, is_tensor)})"


def _kind(value: object, is_tensor: Callable[[object], bool]) -> str:
    if is_tensor(value):
        return "a tensor"
    if isinstance(value, (Inert, Global)):
        return _UNUSABLE.get(value.name) or listing([value.name])
    return "None" if value is None else type(value).__name__.strip("_").lower()


# Classes of tensors made of others, and what undoes each.
_SUBCLASSES: Final = (
    (
        re.compile(r"torch\.distributed\..*\bDTensor"),
        "a part of a tensor (DTensor of FSDP2): save a full state dict "
        "(torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True)",
    ),
    (
        re.compile(r"torchao\."),
        "quantised by torchao: pass the checkpoint as it was trained",
    ),
)

_UNUSABLE: Final = {
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a subclass",
    "numpy.core.multiarray._reconstruct": "a NumPy array",
    "numpy._core.multiarray._reconstruct": "a NumPy array",
    "numpy.core.multiarray.scalar": "a NumPy number",
    "numpy._core.multiarray.scalar": "a NumPy number",
}
