"""Families and model names. A new family is one line of `FAMILIES`."""

from __future__ import annotations

import difflib
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any, Final

from levit.errors import ConfigError
from levit.models.convit import FAMILY as CONVIT
from levit.models.deit import FAMILY as DEIT
from levit.models.json_files import read_config
from levit.models.levit import FAMILY as LEVIT
from levit.models.model import Family, Variant
from levit.models.vit import FAMILY as VIT

__all__ = [
    "DIGITS",
    "FAMILIES",
    "canonical",
    "config_of",
    "digits_folder",
    "find_variant",
    "known_names",
]

FAMILIES: Final[dict[str, Family]] = {family.name: family for family in (LEVIT, DEIT, CONVIT, VIT)}

DIGITS: Final = "levit_digits"

# Whose weights the published ones are. Anybody else's levit_128 is another model.
_OWNERS: Final = ("", "timm", "facebook")


def known_names() -> list[str]:
    """Every model name, in the order of the tables."""
    return [DIGITS, *(name for family in FAMILIES.values() for name in family.variants)]


def find_variant(name: str) -> tuple[str, Family, Variant]:
    """Find (timm name, family, variant) by any name that people call a model.

    ``levit_128s``, ``LeViT-128S``, ``facebook/levit-128S``, ``timm/levit_128s.fb_dist_in1k``
    are one model.

    Raises:
        ConfigError: nothing is called so; near misses are suggested.
    """
    plain = canonical(name)
    for family in FAMILIES.values():
        if plain in family.variants:
            return plain, family, family.variants[plain]
    if plain in FAMILIES:
        raise ConfigError(
            f"{name!r} is a family: name one of its models, such as "
            f"{next(iter(FAMILIES[plain].variants))}, or weights of it with --checkpoint PATH"
        )
    if re.search(r"[^\s/][/\\]", plain):
        raise ConfigError(
            f"unknown model {name!r}: weights of your own are named with --checkpoint PATH, those "
            f"of a repository with --checkpoint hf:OWNER/NAME"
        )
    near = _near(plain)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"unknown model {name!r}{hint} (see: levit list)")


def digits_folder() -> Path:
    """Folder of ``levit_digits`` in the package: weights, config, and ``images/``."""
    return Path(str(resources.files("levit"))) / "data" / DIGITS


def config_of(name: str) -> tuple[str, Family, Any]:
    """Find (name as timm spells it, family, config) by any name of a model.

    ::

        config_of("LeViT-128S")[0]    # "levit_128s"

    Raises:
        ConfigError: nothing is called so.
    """
    if canonical(name) == DIGITS:
        path = digits_folder() / "config.json"
        levit = FAMILIES["levit"]
        return DIGITS, levit, levit.config_from_arguments(read_config(path), str(path))
    plain, family, variant = find_variant(name)
    return plain, family, variant.config


def _near(name: str) -> list[str]:
    """Up to three names like `name`, those that begin as it does first."""

    def likeness(known: str) -> tuple[float, int]:
        ratio = difflib.SequenceMatcher(None, name, known).ratio()
        return ratio, len(os.path.commonprefix([name, known]))  # noqa: RUF071

    near = [known for known in known_names() if likeness(known)[0] >= 0.7]
    return sorted(near, key=likeness, reverse=True)[:3]


def canonical(name: str) -> str:
    """A model name as timm spells it: no owner, no tag, lower case, underscores.

    With somebody else's owner or tag it is not a name of ours, and stays as it is.
    """
    owner, _, tagged = name.strip().rpartition("/")
    plain, _, tag = tagged.partition(".")
    plain = plain.lower().replace("-", "_")
    plain = re.sub(r"^levit_?conv_?", "levit_conv_", re.sub(r"^levit_?(?=\d)", "levit_", plain))
    ours = owner.lower() in _OWNERS and tag.lower() in ("", _published_tag(plain))
    return plain if ours else name.strip()


def _published_tag(name: str) -> str:
    """Tag of the timm weights that a variant's name stands for."""
    for family in FAMILIES.values():
        if name in family.variants:
            return (family.variants[name].hub_id or "").rpartition(".")[2]
    return ""
