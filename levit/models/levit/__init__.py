"""LeViT (arXiv:2104.01136): the model, once, for the reference and for every graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from levit.errors import ConfigError
from levit.models.levit.arguments import config_from_arguments, holds_arguments
from levit.models.levit.build import build
from levit.models.levit.config import VARIANTS, LevitConfig, same_architecture
from levit.models.levit.forward import forward
from levit.models.levit.infer import infer_config
from levit.models.levit.keymap import KEYMAPS, LevitKeymap
from levit.models.levit.networks import timm_network, transformers_network
from levit.models.levit.random import randomize
from levit.models.levit.resize import resize
from levit.models.model import Family

__all__ = ["FAMILY"]


def outputs(config: LevitConfig) -> tuple[str, ...]:
    """Output names that this config can give, the default first."""
    if not config.num_classes:
        return ("embedding", "features")
    # A single head's logits are `logits`; two heads' are their mean.
    heads = ("logits_head", "logits_dist") if config.distilled else ()
    return ("logits", "embedding", "features", *heads)


def output_layout(config: LevitConfig, name: str) -> tuple[str, tuple[int, ...]]:
    """(layout, shape without the batch) of an output."""
    if name == "features":
        height, width = config.grids[-1]
        if config.conv:
            return "NCHW", (config.width, height, width)
        return "NLC", (height * width, config.width)
    if name == "embedding":
        return "NC", (config.width,)
    if name in ("logits", "logits_head", "logits_dist"):
        return "NC", (config.num_classes,)
    raise ConfigError(f"LeViT has no output {name!r}; it has {', '.join(outputs(config))}")


def named_form(config: LevitConfig, named: LevitConfig) -> LevitConfig:
    """As the named variant has it: of linear layers, or its conv twin, which has other features.

    levit_conv_256 by name and its linear twin by file have the same weights.
    """
    return replace(config, conv=named.conv)


def keymap_for(config: LevitConfig) -> LevitKeymap:
    """timm's, of the config's form."""
    return next(keymap for keymap in KEYMAPS if keymap.conv == config.conv)


def preprocessing(config: LevitConfig, source: str) -> Mapping[str, Any]:
    """Nothing: the defaults of every flavour are LeViT's."""
    return {}


FAMILY: Final = Family(
    name="levit",
    title="LeViT",
    variants=VARIANTS,
    keymaps=KEYMAPS,
    infer=infer_config,
    build=build,
    forward=forward,
    outputs=outputs,
    output_layout=output_layout,
    config_from_dict=LevitConfig.from_dict,
    randomize=randomize,
    same_architecture=same_architecture,
    resize=resize,
    holds_arguments=holds_arguments,
    config_from_arguments=config_from_arguments,
    networks={"timm": timm_network, "transformers": transformers_network},
    preprocessing=preprocessing,
    model_types=("levit",),
    named_form=named_form,
    keymap_for=keymap_for,
    has_grid=True,
)
