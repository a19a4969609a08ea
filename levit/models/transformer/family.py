"""A family of vision transformers of one width: its record, from what is its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from levit.errors import ConfigError
from levit.models.model import Family, SourceNetwork, Variant
from levit.models.transformer.arguments import config_from_arguments, holds_arguments
from levit.models.transformer.build import build
from levit.models.transformer.config import TransformerConfig, same_architecture
from levit.models.transformer.forward import forward
from levit.models.transformer.infer import infer_config
from levit.models.transformer.keymap import TransformerKeymap
from levit.models.transformer.random import randomize
from levit.models.transformer.resize import resize

__all__ = ["transformer_family"]

_LOGITS: Final = ("logits", "logits_head", "logits_dist")


def transformer_family(
    *,
    name: str,
    title: str,
    variants: Mapping[str, Variant],
    keymaps: Sequence[TransformerKeymap],
    networks: Mapping[str, Callable[[Any], SourceNetwork]],
    preprocessing: Callable[[Any, str], Mapping[str, Any]],
    model_types: tuple[str, ...] = (),
    defaults: Mapping[str, Any],
) -> Family:
    """The record of a family.

    Args:
        name, title, variants, keymaps, networks, preprocessing, model_types: as in `Family`.
        defaults: fields of the config that a file with arguments may leave out.
    """

    def infer(shapes: Mapping[str, tuple[int, ...]], keymap: TransformerKeymap, hints: Any) -> Any:
        return infer_config(shapes, keymap, hints, variants)

    def from_arguments(values: Mapping[str, Any], file: str) -> TransformerConfig:
        return config_from_arguments(values, file, defaults)

    def holds(values: Mapping[str, Any]) -> bool:
        return holds_arguments(values, local="local_depth" in defaults)

    def output_layout(config: TransformerConfig, output: str) -> tuple[str, tuple[int, ...]]:
        shapes = {
            "features": ("NLC", (config.tokens, config.width)),
            "embedding": ("NC", (config.width,)),
            "pooled": ("NC", (config.pooler_width,)),
            **dict.fromkeys(_LOGITS, ("NC", (config.num_classes,))),
        }
        if output not in outputs(config):
            raise ConfigError(
                f"this {title} has no output {output!r}; it has {', '.join(outputs(config))}"
            )
        return shapes[output]

    return Family(
        name=name,
        title=title,
        variants=variants,
        keymaps=keymaps,
        infer=infer,
        build=build,
        forward=forward,
        outputs=outputs,
        output_layout=output_layout,
        config_from_dict=TransformerConfig.from_dict,
        randomize=randomize,
        same_architecture=same_architecture,
        resize=resize,
        holds_arguments=holds,
        config_from_arguments=from_arguments,
        networks=networks,
        preprocessing=preprocessing,
        model_types=model_types,
        named_form=lambda config, named: config,
        keymap_for=lambda config: keymaps[0],
        sized_names=True,
    )


def outputs(config: TransformerConfig) -> tuple[str, ...]:
    """Output names that a config can give, the default first."""
    pooled = ("pooled",) if config.pooler_width else ()
    if not config.num_classes:
        return ("embedding", "features", *pooled)
    heads = _LOGITS[1:] if config.distilled_head else ()
    return ("logits", "embedding", "features", *pooled, *heads)
