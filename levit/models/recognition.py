"""Family and source format of a checkpoint, recognised by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from levit.errors import CheckpointError, ConfigError
from levit.json_values import shown
from levit.models.bookkeeping import is_bookkeeping, left_out
from levit.models.checkpoint import Checkpoint
from levit.models.containers.listing import listing
from levit.models.containers.wrappers import rewriting_in
from levit.models.lookalikes import PLAIN_VIT, looks_like
from levit.models.model import Family, Keymap
from levit.models.registry import FAMILIES, canonical
from levit.models.transformer.features import find_feature
from levit.models.whole_models import WholeModel, find_models

__all__ = ["SeveralFamiliesError", "recognise"]


class SeveralFamiliesError(ConfigError):
    """A checkpoint whose tensors are those of several families, and nothing says of which.

    Attributes:
        families: the families, in the order of `FAMILIES`.
    """

    def __init__(self, message: str, families: tuple[Family, ...]) -> None:
        super().__init__(message)
        self.families = families


def recognise(
    checkpoint: Checkpoint, named: Family | None = None
) -> tuple[Checkpoint, Family, Keymap]:
    """Find the family and keymap that a checkpoint's names belong to.

    The name that a training framework's wrapper puts in front of every tensor (PyTorch
    Lightning's ``model.``) is taken off.

    A plain DeiT and a ViT have the same tensors: `named` decides, or a config, the user's or the
    one beside the checkpoint.

    ::

        checkpoint, family, keymap = recognise(read_checkpoint(Path("vit.pth")), FAMILIES["vit"])

    Args:
        named: the family of the model that the user names.

    Returns:
        The checkpoint under the names of its source format, the family, the keymap.

    Raises:
        CheckpointError: no keymap knows these names; the message says what they look like.
        SeveralFamiliesError: they are those of several families, and nothing says of which.
        ConfigError: the config is of a class that this release does not read.
    """
    _refuse_other_classes(checkpoint)
    file, key = str(checkpoint.origin["file"]), checkpoint.origin.get("key")
    shapes = checkpoint.shapes
    models = find_models(shapes, key, file)
    for model in models:
        used = set(model.names.values())
        beside = [name for name in shapes if name not in used]
        # What remains must be a whole model, and what training keeps beside one.
        if not all(is_bookkeeping(name, shapes[name], model.prefix) for name in beside):
            continue
        rewritten = rewriting_in(model.names)
        if rewritten is not None:
            raise CheckpointError(f"{file}: {rewritten}")
        family, keymap = _choose(checkpoint, model.matches, named)
        return _renamed(checkpoint, model, left_out(beside)), family, keymap
    known = ", ".join(
        f"{family.title} of {'/'.join(sorted({k.source for k in family.keymaps}))}"
        for family in FAMILIES.values()
    )
    raise CheckpointError(
        f"{file}: not a checkpoint that this release knows ({known}); "
        f"{_impression(checkpoint, models)}"
    )


def _refuse_other_classes(checkpoint: Checkpoint) -> None:
    """Raise `ConfigError` for a class of transformers that is none of ours.

    Many have a ViT's tensors among theirs, or all of them (DPT, ViT-MSN, BEiT, AST): their names
    say less than the config.
    """
    known = sorted({name for family in FAMILIES.values() for name in family.model_types})
    hints, file = checkpoint.hints, checkpoint.origin["file"]
    if hints.model_type not in (None, *known):
        raise ConfigError(
            f"{hints.origin('model_type')} beside {file} is of a {shown(hints.model_type)}, which "
            f"this release does not read (it reads {', '.join(known)}); if its network is one of "
            f"these, correct the model_type"
        )


def _renamed(checkpoint: Checkpoint, model: WholeModel, notes: tuple[str, ...]) -> Checkpoint:
    """Give the model's tensors the names of its source."""
    tensors = {name: checkpoint.tensors[here] for name, here in model.names.items()}
    origin = checkpoint.origin
    if model.prefix:
        origin = {**origin, "prefix": model.prefix}
    notes = (*checkpoint.notes, *notes)
    return replace(checkpoint, tensors=tensors, origin=origin, notes=notes)


def _choose(
    checkpoint: Checkpoint, found: Sequence[tuple[Family, Keymap]], named: Family | None
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
        # The letters that it begins with: deit3_small is a DeiT.
        letters = re.match(r"[a-z]*", name.lower())
        if letters is not None and letters[0] in by_name:
            return by_name[letters[0]]
    # transformers has both under one name, which is the file's own.
    if hints.model_type in by_name:
        return by_name[hints.model_type]
    if all(keymap.source == "transformers" for _, keymap in found):
        return by_name.get("vit", found[0])
    names = " or a ".join(family.title for family, _ in found)
    flags = " or ".join(f"--model {family.name}" for family, _ in found)
    raise SeveralFamiliesError(
        f"{checkpoint.origin['file']}: its tensors are those of a {names}: the same network with "
        f"another preprocessing; say which with {flags}",
        tuple(family for family, _ in found),
    )


def _impression(checkpoint: Checkpoint, models: Sequence[WholeModel]) -> str:
    """Say what unknown tensors look like."""
    shapes, like = checkpoint.shapes, looks_like(checkpoint.shapes)
    for model in models:
        used = set(model.names.values())
        others = {name: shape for name, shape in shapes.items() if name not in used}
        what = looks_like(others)
        taken = checkpoint.origin.get("weights") or model.prefix.removesuffix(".")
        return (
            f"{f'{what}: ' if what else ''}it holds a {model.title} under {model.prefix!r} beside "
            f"{len(others)} other tensors ({listing(list(others), 3)}): save it without them, or "
            f"leave them out with --weights {taken}"
        )
    if all(0 in shape for shape in shapes.values()):
        return "its tensors are empty: DeepSpeed keeps them in parts, which zero_to_fp32.py joins"
    if like in (None, PLAIN_VIT):
        rewritten = rewriting_in(checkpoint.tensors)
        if rewritten is not None:
            return rewritten
        feature = find_feature(checkpoint.tensors)
        like = like if feature is None else f"a vision transformer with {feature}"
    some = ", ".join(list(checkpoint.tensors)[:3])
    return f"it looks like {like}" if like else f"its tensors are called {some}, …"
