"""Names of models: the variant that a checkpoint is, and the one that the user asks for."""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

from levit.errors import CheckpointError, ConfigError
from levit.models.hints import Hints, argument_names
from levit.models.model import Family
from levit.models.registry import FAMILIES, canonical, config_of, known_names

__all__ = ["NamedModel", "asked_for", "custom_name", "in_named_form", "variant_name"]

# (name as timm spells it, family, config), as `config_of` finds it.
NamedModel: TypeAlias = tuple[str, Family, Any]

# Arguments of timm that make another network of a named one.
_WIDTHS: Final = frozenset({"embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size"})


def asked_for(name: str | None) -> tuple[Family | None, NamedModel | None]:
    """Find the family that ``--model`` asks for, and the model where it names one.

    ::

        asked_for("deit")         # (DeiT, None)
        asked_for("levit_128s")   # (LeViT, ("levit_128s", LeViT, …))

    Raises:
        ConfigError: nothing is called so.
    """
    if name is None:
        return None, None
    family = FAMILIES.get(canonical(name))
    if family is not None:
        return family, None
    named = config_of(name)
    return named[1], named


def custom_name(architecture: object, family: Family) -> str:
    """Make a name for a model of no variant: it becomes a folder's, so letters and digits."""
    name = canonical(str(architecture or ""))
    usable = re.fullmatch(r"[a-z0-9_]{1,64}", name) and name not in FAMILIES
    return name if usable else f"{family.name}_custom"


def variant_name(family: Family, config: Any, hints: Hints, *, live: bool) -> str:
    """Find the variant of this architecture, or else the name that its config states.

    A live network, and one whose config states widths, may have been made from a named model with
    other widths; then the name is not held against the weights.

    Raises:
        CheckpointError: the config names a variant of another architecture.
    """
    found = _matching(family, config)
    said = custom_name(hints.architecture, family)
    if said not in known_names():
        return found or said
    _, other, named = config_of(said)
    if other is family and _is_same(family, named, config):
        return found or said
    right = found or f"{family.name}_custom"
    if live or _WIDTHS & argument_names(hints.arguments or {}):
        return right
    raise CheckpointError(
        f"{hints.origin('architecture')} says {said}, the weights are those of "
        f"{found or f'another {family.title}'}; name it with --config "
        f'\'{{"architecture": "{right}"}}\''
    )


def in_named_form(config: Any, family: Family, named: NamedModel, hints: Hints, file: str) -> Any:
    """Give a checkpoint's config the form that the user's name asks for.

    Raises:
        CheckpointError: the checkpoint is of another architecture.
        ConfigError: it is of another image size than the name says, and nothing else says so.
    """
    wanted, _, form = named
    if not _is_same(family, form, config):
        found = _matching(family, config)
        raise CheckpointError(
            f"{file} is not a {wanted}: its shapes are those of "
            f"{found or f'another {family.title}'}; say --model {found or family.name}"
        )
    unsaid = hints.resize_to is None and hints.image_size is None
    if family.sized_names and unsaid and form.image_size != config.image_size:
        trained, size = ("x".join(map(str, c.image_size)) for c in (config, form))
        raise ConfigError(
            f"{file} was trained at {trained} pixels and {wanted} takes {size}: say "
            f"--image-size {trained} to keep its size, --image-size {size} to have it resized"
        )
    return family.named_form(config, form)


def _is_same(family: Family, one: Any, config: Any) -> bool:
    """Tell one architecture, whatever the form of the first."""
    return family.same_architecture(family.named_form(one, config), config)


def _matching(family: Family, config: Any) -> str | None:
    """Find the variant of this architecture; where several differ in image size, of this size."""
    names = [n for n, v in family.variants.items() if family.same_architecture(v.config, config)]
    sized = [n for n in names if family.variants[n].config.image_size == config.image_size]
    return next(iter(sized or names), None)
