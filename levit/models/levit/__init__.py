"""LeViT (arXiv:2104.01136): the model, once, for the reference and for every graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from levit.errors import ConfigError
from levit.models.levit.arguments import (
    config_from_arguments,
    holds_arguments,
    refuse_parts,
)
from levit.models.levit.build import build
from levit.models.levit.config import VARIANTS, LevitConfig, same_architecture
from levit.models.levit.forward import forward
from levit.models.levit.infer import infer_config
from levit.models.levit.keymap import KEYMAPS, LevitKeymap
from levit.models.levit.layers import LevitParams
from levit.models.levit.networks import timm_network, transformers_network
from levit.models.levit.random import randomize
from levit.models.levit.resize import resize
from levit.models.model import Family, Model, Weights
from levit.models.ops import Ops

__all__ = ["FAMILY"]


class _Levit(Family):
    """LeViT and its conv twins."""

    def infer(
        self, shapes: Mapping[str, tuple[int, ...]], keymap: LevitKeymap, hints: Any
    ) -> tuple[LevitConfig, list[str]]:
        return infer_config(shapes, keymap, hints)

    def build(self, config: LevitConfig, keymap: LevitKeymap, weights: Weights) -> LevitParams:
        return build(config, keymap, weights)

    def forward(self, ops: Ops, model: Model, x: Any) -> dict[str, Any]:
        return forward(ops, model, x)

    def outputs(self, config: LevitConfig) -> tuple[str, ...]:
        if not config.num_classes:
            return ("embedding", "features")
        # A single head's logits are `logits`; two heads' are their mean.
        heads = ("logits_head", "logits_dist") if config.distilled else ()
        return ("logits", "embedding", "features", *heads)

    def output_layout(self, config: LevitConfig, name: str) -> tuple[str, tuple[int, ...]]:
        if name == "features":
            height, width = config.grids[-1]
            if config.conv:
                return "NCHW", (config.width, height, width)
            return "NLC", (height * width, config.width)
        if name == "embedding":
            return "NC", (config.width,)
        if name in ("logits", "logits_head", "logits_dist"):
            return "NC", (config.num_classes,)
        names = ", ".join(self.outputs(config))
        raise ConfigError(f"LeViT has no output {name!r}; it has {names}")

    def config_from_dict(self, values: Mapping[str, Any]) -> LevitConfig:
        return LevitConfig.from_dict(values)

    def randomize(self, params: LevitParams, rng: np.random.Generator) -> None:
        randomize(params, rng)

    def same_architecture(self, one: LevitConfig, other: LevitConfig) -> bool:
        return same_architecture(one, other)

    def resize(
        self, config: LevitConfig, params: LevitParams, size: tuple[int, int]
    ) -> tuple[LevitConfig, LevitParams, tuple[str, ...]]:
        return resize(config, params, size)

    def holds_arguments(self, values: Mapping[str, Any]) -> bool:
        return holds_arguments(values)

    def config_from_arguments(self, values: Mapping[str, Any], file: str) -> LevitConfig:
        return config_from_arguments(values, file)

    def with_arguments(
        self, config: LevitConfig, values: Mapping[str, Any], file: str
    ) -> LevitConfig:
        refuse_parts(values, file)
        return config

    def named_form(self, config: LevitConfig, named: LevitConfig) -> LevitConfig:
        """Return the linear form or its conv twin: same weights, other features."""
        return replace(config, conv=named.conv)

    def keymap_for(self, config: LevitConfig) -> LevitKeymap:
        """The keymap of timm, of the config's form."""
        return next(keymap for keymap in KEYMAPS if keymap.conv == config.conv)


FAMILY: Final = _Levit(
    name="levit",
    title="LeViT",
    variants=VARIANTS,
    keymaps=KEYMAPS,
    networks={"timm": timm_network, "transformers": transformers_network},
    model_types=("levit",),
    has_grid=True,
)
