"""A family of vision transformers of one width: all that DeiT, ConViT and ViT share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from levit.errors import ConfigError
from levit.models.model import Family, Model, Weights
from levit.models.ops import Ops
from levit.models.transformer.arguments import (
    config_from_arguments,
    holds_arguments,
    with_arguments,
)
from levit.models.transformer.build import build
from levit.models.transformer.config import TransformerConfig, same_architecture
from levit.models.transformer.forward import forward
from levit.models.transformer.infer import infer_config
from levit.models.transformer.keymap import TransformerKeymap
from levit.models.transformer.layers import TransformerParams
from levit.models.transformer.random import randomize
from levit.models.transformer.resize import resize

__all__ = ["TransformerFamily"]

_LOGITS: Final = ("logits", "logits_head", "logits_dist")


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformerFamily(Family):
    """A family that is a table of variants, the tensor names of its sources, and preprocessing.

    Attributes:
        defaults: fields of the config that a file with arguments may leave out.
    """

    defaults: Mapping[str, Any]
    sized_names: bool = True

    def infer(
        self, shapes: Mapping[str, tuple[int, ...]], keymap: TransformerKeymap, hints: Any
    ) -> tuple[TransformerConfig, list[str]]:
        return infer_config(shapes, keymap, hints, self.variants)

    def build(
        self, config: TransformerConfig, keymap: TransformerKeymap, weights: Weights
    ) -> TransformerParams:
        return build(config, keymap, weights)

    def forward(self, ops: Ops, model: Model, x: Any) -> dict[str, Any]:
        return forward(ops, model, x)

    def outputs(self, config: TransformerConfig) -> tuple[str, ...]:
        pooled = ("pooled",) if config.pooler_width else ()
        if not config.num_classes:
            return ("embedding", "features", *pooled)
        heads = _LOGITS[1:] if config.distilled_head else ()
        return ("logits", "embedding", "features", *pooled, *heads)

    def output_layout(self, config: TransformerConfig, name: str) -> tuple[str, tuple[int, ...]]:
        shapes = {
            "features": ("NLC", (config.tokens, config.width)),
            "embedding": ("NC", (config.width,)),
            "pooled": ("NC", (config.pooler_width,)),
            **dict.fromkeys(_LOGITS, ("NC", (config.num_classes,))),
        }
        possible = self.outputs(config)
        if name not in possible:
            raise ConfigError(
                f"this {self.title} has no output {name!r}; it has {', '.join(possible)}"
            )
        return shapes[name]

    def preprocessing_of_variant(self, config: TransformerConfig) -> dict[str, Any]:
        """Settings of a variant of this architecture, and of this image size where there is one."""
        same = [v for v in self.variants.values() if same_architecture(v.config, config)]
        sized = [v for v in same if v.config.image_size == config.image_size]
        return dict(next((v.preprocessing for v in sized or same), {}))

    def config_from_dict(self, values: Mapping[str, Any]) -> TransformerConfig:
        return TransformerConfig.from_dict(values)

    def randomize(self, params: TransformerParams, rng: np.random.Generator) -> None:
        randomize(params, rng)

    def same_architecture(self, one: TransformerConfig, other: TransformerConfig) -> bool:
        return same_architecture(one, other)

    def resize(
        self, config: TransformerConfig, params: TransformerParams, size: tuple[int, int]
    ) -> tuple[TransformerConfig, TransformerParams, tuple[str, ...]]:
        return resize(config, params, size)

    def holds_arguments(self, values: Mapping[str, Any]) -> bool:
        return holds_arguments(values, local="local_depth" in self.defaults)

    def config_from_arguments(self, values: Mapping[str, Any], file: str) -> TransformerConfig:
        return config_from_arguments(values, file, self.defaults)

    def with_arguments(
        self, config: TransformerConfig, values: Mapping[str, Any], file: str
    ) -> TransformerConfig:
        return with_arguments(config, values, file)
