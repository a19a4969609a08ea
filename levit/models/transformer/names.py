"""Facts of a vision transformer that its name states, where the tensors do not show them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from levit.errors import ConfigError
from levit.json_values import shown
from levit.models.hints import Hints, bare_name
from levit.models.model import Variant
from levit.models.transformer.config import TransformerConfig

__all__ = ["Named", "read_name"]

# Facts of timm's names that are in no table of variants.
_CLIP_EPS: Final = 1e-5
_REFUSED: Final = (
    (r"_rpn_", "residual post-norm blocks"),
    (r"_rope_|_pe_|dinov3|^eva02", "rotary embeddings"),
    (r"quickgelu", "the activation quick_gelu"),
)


@dataclass(frozen=True, kw_only=True)
class Named:
    """Statements of a model's name.

    Attributes:
        name: as timm spells it; empty where nothing names the model.
        config: of the variant that is called so.
        norm_eps: of the LayerNorms, where the name tells it.
    """

    name: str = ""
    config: TransformerConfig | None = None
    norm_eps: float | None = None


def read_name(hints: Hints, variants: Mapping[str, Variant], stated: Mapping[str, Any]) -> Named:
    """Read the name that the user gives to a model, or else its config.

    Args:
        variants: of the family, by name.
        stated: fields of the config that a file states; they come before a name.

    Raises:
        ConfigError: the name is of a network that is not built here, under the same tensors.
    """
    names = [bare_name(said) for said in (hints.named, hints.architecture) if said]
    known = next((name for name in names if name in variants), None)
    if known is not None:
        config = variants[known].config
        return Named(name=known, config=config, norm_eps=config.norm_eps)
    name = next(iter(names), "")
    for pattern, words in _REFUSED:
        if re.search(pattern, name):
            raise ConfigError(f"{shown(name)} has {words}, which is not supported")
    if "siglip" in name and "activation" not in stated:
        raise ConfigError(
            f"the activation of {shown(name)} cannot be told from its weights: say it, such as "
            f'with --config \'{{"act_layer": "gelu"}}\''
        )
    return Named(name=name, norm_eps=_CLIP_EPS if "_clip_" in name else None)
