"""A transformer's config, inferred from a checkpoint's shapes and the files beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from levit.errors import CheckpointError, ConfigError
from levit.models.hints import Hints
from levit.models.model import Variant
from levit.models.transformer.arguments import stated_in
from levit.models.transformer.config import TransformerConfig, same_architecture
from levit.models.transformer.features import refuse_features
from levit.models.transformer.image_size import Grid, infer_grid, size_without_positions
from levit.models.transformer.keymap import TransformerKeymap
from levit.models.transformer.names import Named, read_name
from levit.models.transformer.pooling import choose_pooling
from levit.models.transformer.shapes import ShapeReader, Shapes, fields_of_shapes

__all__ = ["infer_config"]

# Fields that shapes decide, and a file may contradict.
_TOLD: Final = (
    "width", "depth", "mlp_width", "patch_size", "qkv_bias", "proj_bias", "local_depth",
    "class_token", "registers", "pre_norm", "layer_scale", "fc_norm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """Everything that decides where shapes do not.

    Attributes:
        keymap: of the source.
        hints: from the files and the user.
        stated: fields of the config that they state.
        named: facts of the model's name.
        variants: of the family.
    """

    keymap: TransformerKeymap
    hints: Hints
    stated: Mapping[str, Any]
    named: Named
    variants: Mapping[str, Variant]


def infer_config(
    shapes: Shapes,
    keymap: TransformerKeymap,
    hints: Hints,
    variants: Mapping[str, Variant],
) -> tuple[TransformerConfig, list[str]]:
    """Infer the config from a checkpoint's shapes and the hints beside it.

    Args:
        shapes: of every tensor.
        hints: from a config.json or the user; they decide where shapes cannot.
        variants: of the family, which decide what nothing states.

    Returns:
        The config, and what had to be assumed, in words.

    Raises:
        CheckpointError: a tensor that tells the shape of the network is missing or odd.
        ConfigError: shapes leave a choice (the message says what decides), or contradict the hints.
    """
    refuse_features(shapes, keymap)
    read, stated = ShapeReader(shapes, keymap), stated_in(hints)
    named = read_name(hints, variants, stated)
    facts = _Facts(keymap=keymap, hints=hints, stated=stated, named=named, variants=variants)
    found = fields_of_shapes(read)
    _check_pooler(found, hints)
    _check_stated(found, stated, hints.arguments_from)
    found["pool"], pooling = choose_pooling(found, stated, named, keymap)
    if not stated.get("final_norm", named.config is None or named.config.final_norm):
        found["final_norm"] = False
    patch, gates = found["patch_size"], read.gates()
    template = TransformerConfig(**found, image_size=(patch, patch), heads=1)
    grid = _choose_grid(read, replace(template, heads=gates or 1), facts)
    template = replace(template, image_size=grid.image_size, token_positions=grid.token_positions)
    heads = _choose_heads(template, gates, facts)
    config = _with_constants(replace(template, heads=heads), facts)
    return config, [*_constants_in_words(config, facts), *pooling, *grid.assumed]


def _check_pooler(found: Mapping[str, Any], hints: Hints) -> None:
    """Raise `ConfigError` where a classifier could read the pooler, or not."""
    if found["pooler_width"] and found["num_classes"] and hints.heads is None:
        raise ConfigError(
            "the checkpoint has transformers' pooler and a classifier: no class of transformers "
            "has both, so nothing says what the classifier reads; export the live model "
            "(levit.export.export with model=), or put a config.json beside it whose "
            "'architectures' is the class, such as ViTForImageClassification, which reads no pooler"
        )


def _check_stated(found: Mapping[str, Any], stated: Mapping[str, Any], file: str) -> None:
    """Raise `ConfigError` where a file says what the weights are not."""
    for field in _TOLD:
        if field in stated and stated[field] != found[field]:
            raise ConfigError(
                f"{file} says {field} {stated[field]}, the weights have {found[field]}: correct "
                f"that, or leave it out"
            )


def _choose_grid(read: ShapeReader, template: TransformerConfig, facts: _Facts) -> Grid:
    """Infer the image size, from the position embeddings where there are any."""
    keymap, hints = facts.keymap, facts.hints
    if not template.positions:
        return size_without_positions(template, hints, facts.variants)
    key = keymap.prefix + keymap.positions
    count, width = read.of(key, 3)[1:]
    if width != template.width:
        raise CheckpointError(f"{key}: {count} positions of width {width} do not fit this network")
    return infer_grid(count, template, keymap, hints, facts.stated, facts.named)


def _choose_heads(template: TransformerConfig, gates: int | None, facts: _Facts) -> int:
    """Choose the number of attention heads: by the gates, what is stated, or a variant."""
    stated = facts.stated.get("heads")
    if gates and stated not in (None, gates):
        raise ConfigError(
            f"{facts.hints.arguments_from} says {stated} heads, the weights have {gates}: "
            f"correct that, or leave it out"
        )
    heads = gates or stated or _heads_of_variant(template, facts)
    if heads is None:
        raise ConfigError(_ask_for_heads(template.width, facts.keymap.source))
    return int(heads)


def _heads_of_variant(template: TransformerConfig, facts: _Facts) -> int | None:
    """Choose the heads of the named variant, or of those that are this network if they agree."""
    named = facts.named.config
    # A name says nothing of a network of another width.
    if named is not None and named.width == template.width:
        return named.heads
    found = {
        variant.config.heads
        for variant in facts.variants.values()
        if same_architecture(replace(variant.config, heads=1), template)
    }
    return found.pop() if len(found) == 1 else None


def _ask_for_heads(width: int, source: str) -> str:
    """Ask for the number of attention heads, with the flag that states it."""
    # Most networks have 64 channels a head; the number must divide the width.
    divisors = [heads for heads in range(1, width + 1) if width % heads == 0]
    heads = min(divisors, key=lambda heads: abs(math.log(width / heads / 64)))
    key = "num_attention_heads" if source == "transformers" else "num_heads"
    return (
        f"the number of attention heads is not in the shapes (a width of {width}): say the one of "
        f"the training, such as --config '{{\"{key}\": {heads}}}' where a head has "
        f"{width // heads} channels"
    )


def _with_constants(config: TransformerConfig, facts: _Facts) -> TransformerConfig:
    """Choose the epsilon of the norms and the activation, which no tensor shows."""
    keymap, named, stated = facts.keymap, facts.named, facts.stated
    # Names are timm's; transformers' code has another epsilon under them.
    of_name = None if keymap.source == "transformers" else named.norm_eps
    activation = facts.hints.activation or (named.config and named.config.activation) or "gelu"
    return replace(
        config,
        norm_eps=stated.get("norm_eps", of_name or keymap.default_eps),
        activation=stated.get("activation", activation),
    )


def _constants_in_words(config: TransformerConfig, facts: _Facts) -> list[str]:
    """Say what was assumed of a network whose name, if it has one, is in no table.

    Raises:
        ConfigError: there is no likeliest value.
    """
    keymap, stated = facts.keymap, facts.stated
    # The config of a transformers model leaves out what its class has by default.
    of_class = keymap.source == "transformers" and facts.hints.model_type is not None
    of_variant = keymap.source != "transformers" and facts.named.config is not None
    if of_class or of_variant:
        return []
    unsaid = [field for field in ("norm_eps", "activation") if field not in stated]
    if config.pre_norm and not facts.named.name and unsaid:
        raise ConfigError(
            "a norm before the blocks is of a CLIP model (epsilon 1e-05, gelu or quick_gelu) or of "
            "another (1e-06, gelu), and nothing says which: say it, such as with --config "
            '\'{"norm_eps": 1e-05, "act_layer": "gelu"}\''
        )
    variants = facts.variants.values()
    is_variant = any(same_architecture(variant.config, config) for variant in variants)
    assumed = []
    # The original code has one epsilon and one activation.
    if keymap.source != "original" or not is_variant:
        others = {"norm_eps": '"norm_eps": 1e-5', "activation": '"act_layer": "silu"'}
        words = {
            "norm_eps": ("LayerNorm epsilon", f"{config.norm_eps:g}"),
            "activation": ("activation", config.activation),
        }
        assumed = [_unstated(*words[field], keymap, others[field]) for field in unsaid]
    if keymap.source == "original" and config.layer_scale:
        assumed.append(
            "no rotary embeddings, as in DeiT III (those of timm's vit_…_rope_ape models are not "
            "in their tensors)"
        )
    return assumed


def _unstated(what: str, value: str, keymap: TransformerKeymap, other: str) -> str:
    """Say aloud what no file states, and the flag that states another value."""
    library = "transformers" if keymap.source == "transformers" else "timm"
    return f"{what} {value}: the default of {library} (another: --config '{{{other}}}')"
