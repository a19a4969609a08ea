"""A transformer's config, inferred from a checkpoint's shapes and the files beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from levit.errors import CheckpointError, ConfigError
from levit.models.heads import read_heads
from levit.models.hints import Hints
from levit.models.model import Variant
from levit.models.transformer.arguments import stated_in
from levit.models.transformer.config import MAX_DEPTH, TransformerConfig, same_architecture
from levit.models.transformer.features import refuse_features
from levit.models.transformer.image_size import Grid, infer_grid, size_without_positions
from levit.models.transformer.keymap import TransformerKeymap
from levit.models.transformer.names import Named, read_name
from levit.models.transformer.pooling import choose_pooling

__all__ = ["infer_config"]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Shapes:
    """Shapes of a checkpoint; a missing one is an error that names it."""

    shapes: Shapes
    keymap: TransformerKeymap

    def of(self, key: str, rank: int) -> tuple[int, ...]:
        shape = self.shapes.get(key)
        if shape is None:
            raise CheckpointError(
                f"the checkpoint has no tensor {key!r}, without which its configuration cannot be "
                f"told; is the file complete?"
            )
        if len(shape) != rank:
            raise CheckpointError(f"{key}: a tensor of shape {shape} does not belong here")
        return shape

    def has(self, key: str) -> bool:
        return key in self.shapes

    def depth(self) -> int:
        names, number = self.keymap, 0
        while self.has(f"{names.block_name(number)}{names.norm1}.weight"):
            number += 1
            if number > MAX_DEPTH:
                raise CheckpointError(f"the checkpoint has over {MAX_DEPTH} blocks")
        return number

    def local_depth(self, depth: int) -> int:
        gated = [self.keymap.is_gated(i, self.shapes) for i in range(depth)]
        if gated != sorted(gated, reverse=True):
            raise CheckpointError("blocks with positional attention come first in a ConViT")
        return sum(gated)


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
    read = _Shapes(shapes, keymap)
    refuse_features(shapes, keymap)
    stated = stated_in(hints)
    named = read_name(hints, variants, stated)
    found = _from_shapes(read)
    _check_pooler(found, hints)
    _check_stated(found, stated, hints.arguments_from)
    found["pool"], unsaid = choose_pooling(found, stated, named, keymap)
    if not stated.get("final_norm", named.config is None or named.config.final_norm):
        found["final_norm"] = False
    assumed: list[str] = []
    template = TransformerConfig(
        **found, image_size=(found["patch_size"], found["patch_size"]), heads=1
    )
    gates = _gates(read)
    grid = _grid(read, replace(template, heads=gates or 1), hints, stated, named, variants)
    template = replace(template, image_size=grid.image_size, token_positions=grid.token_positions)
    heads = gates or stated.get("heads") or _heads_of_variant(template, variants, named)
    if heads is None:
        raise ConfigError(_ask_for_heads(template.width, keymap.source))
    if gates and stated.get("heads", gates) != gates:
        raise ConfigError(
            f"{hints.arguments_from} says {stated['heads']} heads, the weights have {gates}: "
            f"correct that, or leave it out"
        )
    template = replace(template, heads=heads)
    # Names are timm's; transformers' code has another epsilon under them.
    of_name = None if keymap.source == "transformers" else named.norm_eps
    eps = stated.get("norm_eps", of_name or keymap.default_eps)
    named_activation = None if named.config is None else named.config.activation
    activation = stated.get("activation", hints.activation or named_activation or "gelu")
    config = replace(template, norm_eps=eps, activation=activation)
    # The config of a transformers model leaves out what its class has by default.
    unnamed = named.config is None or keymap.source == "transformers"
    if unnamed and hints.model_type is None:
        if config.pre_norm and not named.name:
            _ask_for_clip(stated)
        assumed += _unnamed(config, keymap, stated, variants)
    return config, [*assumed, *unsaid, *grid.assumed]


def _ask_for_clip(stated: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a norm before the blocks may be of several kinds of networks."""
    if not {"norm_eps", "activation"} <= set(stated):
        raise ConfigError(
            "a norm before the blocks is of a CLIP model (epsilon 1e-05, gelu or quick_gelu) or of "
            "another (1e-06, gelu), and nothing says which: say it, such as with --config "
            '\'{"norm_eps": 1e-05, "act_layer": "gelu"}\''
        )


def _unnamed(
    config: TransformerConfig,
    keymap: TransformerKeymap,
    stated: Mapping[str, Any],
    variants: Mapping[str, Variant],
) -> list[str]:
    """Say what was assumed of a network whose name, if it has one, is in no table."""
    unsaid = [field for field in ("norm_eps", "activation") if field not in stated]
    assumed = []
    # The original code has one epsilon and one activation.
    if keymap.source != "original" or _variant_of(config, variants) is None:
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


# Fields that shapes decide, and a file may contradict.
_TOLD: Final = (
    "width", "depth", "mlp_width", "patch_size", "qkv_bias", "proj_bias", "local_depth",
    "class_token", "registers", "pre_norm", "layer_scale", "fc_norm",
)  # fmt: skip


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


def _from_shapes(read: _Shapes) -> dict[str, Any]:
    """Fields that the shapes decide."""
    names, at = read.keymap, read.keymap.prefix
    width, in_channels, patch, other = read.of(f"{at}{names.patch}.weight", 4)
    if patch != other:
        raise CheckpointError(f"patches of {patch}x{other} pixels are not supported, only squares")
    depth = read.depth()
    if not depth:
        raise CheckpointError(f"the checkpoint has no {names.block_name(0)}{names.norm1}.weight")
    first = names.block_name(0)
    mlp_width = read.of(f"{first}{names.up}.weight", 2)[0]
    layer = (names.gated[0] if names.gated else names.q)[0]
    distilled = read.has(at + names.distillation_token)
    if not names.gate and not read.has(at + names.positions):  # which only a ConViT may lack
        raise CheckpointError(
            f"the checkpoint has no tensor {at + names.positions!r}: a vision transformer with "
            f"rotary embeddings, or without positions, is not supported; or is the file incomplete?"
        )
    classes, norms = read_heads(read.shapes, names)
    _check_heads(read, distilled=distilled, heads=len(norms))
    pooler = f"{at}{names.pooler}.weight"
    registers = at + names.registers
    return {
        "patch_size": patch,
        "in_channels": in_channels,
        "num_classes": classes,
        "width": width,
        "depth": depth,
        "mlp_width": mlp_width,
        "qkv_bias": read.has(f"{first}{layer}.bias"),
        "distilled": distilled,
        "distilled_head": len(norms) > 1,
        "head_norm": norms[:1] == [True],
        "head_dist_norm": norms[1:] == [True],
        "pooler_width": read.of(pooler, 2)[0] if names.pooler and read.has(pooler) else 0,
        "local_depth": read.local_depth(depth),
        "positions": read.has(at + names.positions),
        "class_token": read.has(at + names.class_token),
        "registers": (read.of(registers, 3)[1] if names.registers and read.has(registers) else 0),
        "pre_norm": read.has(f"{at}{names.norm_pre}.weight"),
        "layer_scale": any(read.has(first + scale) for scale in names.scales),
        "proj_bias": any(read.has(f"{first}{n}.bias") for n in (names.proj, names.up, names.down)),
        "fc_norm": read.has(f"{at}{names.fc_norm}.weight"),
    }


def _check_heads(read: _Shapes, *, distilled: bool, heads: int) -> None:
    """Timm's and the original's distilled models have both heads or none."""
    names = read.keymap
    if distilled and heads == 1 and len(names.heads) > 1:
        raise CheckpointError(
            f"the checkpoint has a distillation token ({names.distillation_token}) and no "
            f"distillation head ({names.heads[1]}.weight): is the file complete?"
        )
    if not distilled and heads > 1:
        raise CheckpointError(
            f"the checkpoint has a distillation head ({names.heads[1]}.weight) and no distillation "
            f"token ({names.prefix}{names.distillation_token}): is the file complete?"
        )


def _gates(read: _Shapes) -> int | None:
    names = read.keymap
    return read.of(names.block_name(0) + names.gate, 1)[0] if names.gate else None


def _heads_of_variant(
    template: TransformerConfig, variants: Mapping[str, Variant], named: Named
) -> int | None:
    """Choose the heads of the named variant, or of those that are this network if they agree."""
    # A name says nothing of a network of another width.
    if named.config is not None and named.config.width == template.width:
        return named.config.heads
    found = {
        variant.config.heads
        for variant in variants.values()
        if same_architecture(replace(variant.config, heads=1), template)
    }
    return found.pop() if len(found) == 1 else None


def _variant_of(template: TransformerConfig, variants: Mapping[str, Variant]) -> str | None:
    """The name of a variant of this network."""
    return next((n for n, v in variants.items() if same_architecture(v.config, template)), None)


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


def _unstated(what: str, value: str, keymap: TransformerKeymap, other: str) -> str:
    """Say aloud what no file states, and the flag that states another value."""
    library = "transformers" if keymap.source == "transformers" else "timm"
    return f"{what} {value}: the default of {library} (another: --config '{{{other}}}')"


def _grid(
    read: _Shapes,
    template: TransformerConfig,
    hints: Hints,
    stated: Mapping[str, Any],
    named: Named,
    variants: Mapping[str, Variant],
) -> Grid:
    """Infer the image size, from the position embeddings where there are any."""
    if not template.positions:
        return size_without_positions(template, hints, variants)
    key = read.keymap.prefix + read.keymap.positions
    count, width = read.of(key, 3)[1:]
    if width != template.width:
        raise CheckpointError(f"{key}: {count} positions of width {width} do not fit this network")
    return infer_grid(count, template, read.keymap, hints, stated, named)
