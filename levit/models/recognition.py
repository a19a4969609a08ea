"""Whose checkpoint it is: the family and the source format, from the names of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from levit.errors import CheckpointError
from levit.models.checkpoint import Checkpoint
from levit.models.lookalikes import looks_like
from levit.models.model import Family, Keymap
from levit.models.registry import FAMILIES

__all__ = ["recognise"]

# How many models are looked for in one file: a student, a teacher, their averages. Each look
# goes through all names, and a file may have any number of them.
_MOST_MODELS: Final = 8


def recognise(checkpoint: Checkpoint) -> tuple[Checkpoint, Family, Keymap]:
    """Find the family and keymap that a checkpoint's names belong to.

    The name that a training framework's wrapper puts in front of every tensor (PyTorch
    Lightning's ``model.``) is taken off.

    Returns:
        The checkpoint under the names of its source format, the family, the keymap.

    Raises:
        CheckpointError: no keymap knows these names; the message says what they look like.
    """
    for family, keymap in _known():
        if keymap.matches(checkpoint.shapes):
            return checkpoint, family, keymap
    for family, keymap, prefix in _wrapped(checkpoint):
        # What remains must be a whole model and nothing else.
        if all(name.startswith(prefix) for name in checkpoint.tensors):
            bare = {n.removeprefix(prefix): t for n, t in checkpoint.tensors.items()}
            origin = {**checkpoint.origin, "prefix": prefix}
            return replace(checkpoint, tensors=bare, origin=origin), family, keymap
    known = ", ".join(
        f"{family.title} of {'/'.join(sorted({k.source for k in family.keymaps}))}"
        for family in FAMILIES.values()
    )
    raise CheckpointError(
        f"{checkpoint.origin['file']}: not a checkpoint that this release knows ({known}); "
        f"{_impression(checkpoint)}"
    )


def _known() -> Iterator[tuple[Family, Keymap]]:
    for family in FAMILIES.values():
        for keymap in family.keymaps:
            yield family, keymap


def _wrapped(checkpoint: Checkpoint) -> Iterator[tuple[Family, Keymap, str]]:
    """(family, keymap, prefix) of models whose names all begin with something."""
    shapes = checkpoint.shapes
    for family, keymap in _known():
        signs = (name for name in shapes if name.endswith("." + keymap.sign))
        for name in islice(signs, _MOST_MODELS):
            prefix = name.removesuffix(keymap.sign)
            if keymap.matches({n.removeprefix(prefix): s for n, s in shapes.items()}):
                yield family, keymap, prefix


def _impression(checkpoint: Checkpoint) -> str:
    for family, keymap, prefix in _wrapped(checkpoint):
        others = [name for name in checkpoint.tensors if not name.startswith(prefix)]
        return (
            f"it holds a {family.title} of {keymap.source} under {prefix!r} beside "
            f"{len(others)} other tensors ({', '.join(others[:3])}): save it without them"
        )
    like = looks_like(checkpoint.shapes)
    some = ", ".join(list(checkpoint.tensors)[:3])
    return f"it looks like {like}" if like else f"its tensors are called {some}, …"
