"""The families, and which model a name means. A new family is one line of `FAMILIES`."""

from __future__ import annotations

import difflib
import os
import re
from typing import Final

from levit.errors import ConfigError
from levit.models.levit import FAMILY as LEVIT
from levit.models.model import Family, Variant

__all__ = ["DIGITS", "FAMILIES", "find_variant", "known_names"]

FAMILIES: Final[dict[str, Family]] = {family.name: family for family in (LEVIT,)}

DIGITS: Final = "levit_digits"


def known_names() -> list[str]:
    """Every model name, in the order of the tables."""
    return [DIGITS, *(name for family in FAMILIES.values() for name in family.variants)]


def find_variant(name: str) -> tuple[str, Family, Variant]:
    """(timm name, family, variant) of what people call a model.

    ``levit_128s``, ``LeViT-128S``, ``facebook/levit-128S``, ``timm/levit_128s.fb_dist_in1k``
    are one model.

    Raises:
        ConfigError: nothing is called so; near misses are suggested.
    """
    plain = canonical(name)
    for family in FAMILIES.values():
        if plain in family.variants:
            return plain, family, family.variants[plain]
    near = _near(plain)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"unknown model {name!r}{hint} (see: levit list)")


def _near(name: str) -> list[str]:
    """Up to three names like `name`, those that begin as it does first."""

    def likeness(known: str) -> tuple[float, int]:
        ratio = difflib.SequenceMatcher(None, name, known).ratio()
        return ratio, len(os.path.commonprefix([name, known]))  # noqa: RUF071

    near = [known for known in known_names() if likeness(known)[0] >= 0.7]
    return sorted(near, key=likeness, reverse=True)[:3]


def canonical(name: str) -> str:
    """A model name as timm spells it: no owner, no tag, lower case, underscores."""
    plain = name.strip().rsplit("/", 1)[-1].split(".", 1)[0].lower().replace("-", "_")
    return re.sub(r"^levit_?conv_?", "levit_conv_", re.sub(r"^levit_?(?=\d)", "levit_", plain))
