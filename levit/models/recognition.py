"""Family and source format of a checkpoint, recognised by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from levit.errors import CheckpointError, ConfigError
from levit.models.checkpoint import Checkpoint
from levit.models.lookalikes import looks_like
from levit.models.model import Family, Keymap
from levit.models.registry import FAMILIES, canonical

__all__ = ["recognise"]

# How many models are looked for in one file: a student, a teacher, their averages. Each look
# goes through all names, and a file may have any number of them.
_MOST_MODELS: Final = 8


def recognise(
    checkpoint: Checkpoint, named: Family | None = None
) -> tuple[Checkpoint, Family, Keymap]:
    """Find the family and keymap that a checkpoint's names belong to.

    The name that a training framework's wrapper puts in front of every tensor (PyTorch
    Lightning's ``model.``) is taken off.

    A plain DeiT and a ViT have the same tensors. Which it is says `named`, or the config beside
    the checkpoint.

    Args:
        named: the family of the model that the user names.

    Returns:
        The checkpoint under the names of its source format, the family, the keymap.

    Raises:
        CheckpointError: no keymap knows these names; the message says what they look like.
        ConfigError: they are those of several families, and nothing says of which.
    """
    found = _matching(checkpoint)
    if found:
        return checkpoint, *_choose(checkpoint, found, named)
    for _, _, prefix in _wrapped(checkpoint):
        # What remains must be a whole model and nothing else.
        if all(name.startswith(prefix) for name in checkpoint.tensors):
            bare = {n.removeprefix(prefix): t for n, t in checkpoint.tensors.items()}
            origin = {**checkpoint.origin, "prefix": prefix}
            checkpoint = replace(checkpoint, tensors=bare, origin=origin)
            return checkpoint, *_choose(checkpoint, _matching(checkpoint), named)
    known = ", ".join(
        f"{family.title} of {'/'.join(sorted({k.source for k in family.keymaps}))}"
        for family in FAMILIES.values()
    )
    raise CheckpointError(
        f"{checkpoint.origin['file']}: not a checkpoint that this release knows ({known}); "
        f"{_impression(checkpoint)}"
    )


def _matching(checkpoint: Checkpoint) -> list[tuple[Family, Keymap]]:
    """Families with a keymap of theirs, each at most once."""
    shapes, key = checkpoint.shapes, checkpoint.origin.get("key")
    found: dict[str, tuple[Family, Keymap]] = {}
    for family, keymap in _known():
        if not keymap.matches(shapes) or (keymap.archive_keys and key not in keymap.archive_keys):
            continue
        # Where the weights lie under the key of one source, they are its.
        if family.name not in found or keymap.archive_keys:
            found[family.name] = family, keymap
    return list(found.values())


def _choose(
    checkpoint: Checkpoint, found: list[tuple[Family, Keymap]], named: Family | None
) -> tuple[Family, Keymap]:
    """Choose among several families the one that the user or the config names."""
    by_name = {family.name: (family, keymap) for family, keymap in found}
    if len(found) == 1:
        return found[0]
    if named is not None and named.name in by_name:
        return by_name[named.name]
    hints = checkpoint.hints
    repository = checkpoint.origin.get("repository")
    for said in (hints.architecture, repository, hints.repository):
        name = canonical(str(said or "")).rpartition("/")[2]
        family_name = re.split(r"[-_]", name.lower())[0]
        if family_name in by_name:
            return by_name[family_name]
    # transformers has both under one name, which is the file's own.
    if hints.model_type in by_name:
        return by_name[hints.model_type]
    if all(keymap.source == "transformers" for _, keymap in found):
        return by_name.get("vit", found[0])
    names = " or a ".join(f"{family.title} ({_example(family)})" for family, _ in found)
    raise ConfigError(
        f"{checkpoint.origin['file']}: its tensors are those of a {names}: the same network with "
        f"another preprocessing; say which with --model"
    )


def _example(family: Family) -> str:
    return f"such as {next(iter(family.variants))}"


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
