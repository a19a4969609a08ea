"""Whole models among tensors by name: of which family and source, and under which prefix.

A training framework puts a name in front of every tensor (PyTorch Lightning's ``model.``), and a
file may hold several models so (``student.``, ``teacher.``). Names of wrappers that could be a
network's own, ``module.`` inside names, are taken out as far as a keymap matches without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias

from levit.errors import CheckpointError
from levit.models.containers.listing import listing
from levit.models.model import Family, Keymap
from levit.models.registry import FAMILIES

__all__ = ["WholeModel", "find_models"]

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

# How many models are looked for in one file: a student, a teacher, their averages. Each look
# goes through all names, and a file may have any number of them.
_MOST_MODELS: Final = 8
_WRAPPER: Final = "module"


@dataclass(frozen=True, kw_only=True, eq=False)
class WholeModel:
    """A model whose tensors all begin with one prefix.

    Attributes:
        prefix: with the dot; empty where the names stand alone.
        names: its source's name of each tensor → the name that it has here.
        matches: families with a keymap of theirs that these names are, each at most once.
    """

    prefix: str
    names: Mapping[str, str]
    matches: list[tuple[Family, Keymap]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """A few words: ``LeViT of timm``."""
        families = " or ".join(dict.fromkeys(family.title for family, _ in self.matches))
        return f"{families} of {self.matches[0][1].source}"


def find_models(shapes: Shapes, key: str | None, file: str) -> list[WholeModel]:
    """Find the models that these tensors hold, the shortest prefix first.

    ::

        find_models(checkpoint.shapes, None, "m.pth")[0].prefix  # "model."

    Args:
        shapes: by name, as `clean_names` leaves it.
        key: under which the tensors lie in their file.
        file: its name, for messages.

    Raises:
        CheckpointError: two tensors of a model have one name once ``module.`` is taken out.
    """
    found: dict[str, WholeModel] = {}
    forms: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for family in FAMILIES.values():
        for keymap in family.keymaps:
            if keymap.archive_keys and key not in keymap.archive_keys:
                continue
            own = tuple(keymap.own_modules)
            if own not in forms:
                forms[own] = _without_wrappers(shapes, own)
            for prefix in _prefixes(forms[own], keymap):
                _add(found, forms[own], shapes, prefix, (family, keymap))
    models = sorted(found.values(), key=lambda model: len(model.prefix))
    for model in models:
        doubled = [name for name, originals in _names_of(forms, model) if len(originals) > 1]
        if doubled:
            raise CheckpointError(
                f"{file}: holds {listing(doubled)} with and without 'module.'; save it again with "
                f"one of them"
            )
    return [model for model in models if not _is_part_of_another(model, models)]


def _names_of(
    forms: Mapping[tuple[str, ...], Mapping[str, list[str]]], model: WholeModel
) -> Iterator[tuple[str, list[str]]]:
    form = forms[tuple(model.matches[0][1].own_modules)]
    return ((name, form[model.prefix + name]) for name in model.names)


def _add(
    found: dict[str, WholeModel],
    form: Mapping[str, list[str]],
    shapes: Shapes,
    prefix: str,
    match: tuple[Family, Keymap],
) -> None:
    family, keymap = match
    names = {n.removeprefix(prefix): v[0] for n, v in form.items() if n.startswith(prefix)}
    if not keymap.matches({name: shapes[original] for name, original in names.items()}):
        return
    model = found.setdefault(prefix, WholeModel(prefix=prefix, names=names))
    known = [number for number, (other, _) in enumerate(model.matches) if other is family]
    if not known:
        model.matches.append(match)
    # Where the weights lie under the key of one source, they are its.
    elif keymap.archive_keys:
        model.matches[known[0]] = match


def _prefixes(form: Mapping[str, list[str]], keymap: Keymap) -> Iterator[str]:
    """Prefixes under which the tensor lies that every checkpoint of this keymap has."""
    if keymap.sign in form:
        yield ""
    signs = (name for name in form if name.endswith("." + keymap.sign))
    for name in islice(signs, _MOST_MODELS):
        yield name.removesuffix(keymap.sign)


def _without_wrappers(shapes: Shapes, own: tuple[str, ...]) -> dict[str, list[str]]:
    """Names without ``module.``, but where the format has one itself → the names that they were.

    Args:
        own: patterns of names that only a layer has whose inner one the format calls ``module``.
    """
    names = {name: _without_component(name) for name in shapes}
    layers: set[str] = set()
    for pattern in own:
        search = re.compile(rf"(?:^|\.){pattern}").search
        layers |= {n[: m.end("layer")] for n in names.values() if (m := search(n)) is not None}
    result: dict[str, list[str]] = {}
    for name, short in names.items():
        layer = next((short[:end] for end in _ends(short) if short[:end] in layers), None)
        if layer is not None:
            short = f"{layer}.{_WRAPPER}{short[len(layer) :]}"
        result.setdefault(short, []).append(name)
    return result


def _without_component(name: str) -> str:
    if f"{_WRAPPER}." not in name:
        return name
    return ".".join(part for part in name.split(".") if part != _WRAPPER)


def _ends(name: str) -> Iterator[int]:
    """Ends of the paths in a name, dots."""
    at = name.find(".")
    while at >= 0:
        yield at
        at = name.find(".", at + 1)


def _is_part_of_another(model: WholeModel, models: list[WholeModel]) -> bool:
    """Return True for a backbone that is found by itself too: ``levit.`` of transformers."""
    return any(
        model.prefix == other.prefix + keymap.prefix
        for other in models
        if other is not model
        for _, keymap in other.matches
    )
