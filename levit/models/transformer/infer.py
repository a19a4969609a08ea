"""A transformer's config, inferred from a checkpoint's shapes and the files beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from levit.errors import CheckpointError, ConfigError
from levit.models.heads import read_heads
from levit.models.hints import Hints
from levit.models.model import Variant
from levit.models.transformer.arguments import stated_in
from levit.models.transformer.config import (
    MAX_DEPTH,
    MAX_TOKENS,
    TransformerConfig,
    same_architecture,
)
from levit.models.transformer.keymap import TransformerKeymap

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
    stated = stated_in(hints)
    found = _from_shapes(read)
    for field in ("width", "depth", "mlp_width", "patch_size", "qkv_bias", "local_depth"):
        if field in stated and stated[field] != found[field]:
            raise ConfigError(
                f"{hints.arguments_from} says {field} {stated[field]}, the weights have "
                f"{found[field]}: correct that, or leave it out"
            )
    assumed: list[str] = []
    template = TransformerConfig(
        **found, image_size=(found["patch_size"], found["patch_size"]), heads=1
    )
    gates = _gates(read)
    heads = gates or stated.get("heads") or _heads_of_variant(template, variants)
    if heads is None:
        raise ConfigError(_ask_for_heads(template.width, keymap.source))
    if gates and stated.get("heads", gates) != gates:
        raise ConfigError(
            f"{hints.arguments_from} says {stated['heads']} heads, the weights have {gates}: "
            f"correct that, or leave it out"
        )
    template = replace(template, heads=heads)
    eps = stated.get("norm_eps", keymap.default_eps)
    activation = stated.get("activation", hints.activation or "gelu")
    # The config of a transformers model leaves out what its class has by default.
    if hints.model_type is None and (
        keymap.source == "transformers" or _variant_of(template, variants) is None
    ):
        if "norm_eps" not in stated:
            assumed.append(_unstated("LayerNorm epsilon", f"{eps:g}", keymap, '"norm_eps": 1e-5'))
        if "activation" not in stated and hints.activation is None:
            assumed.append(_unstated("activation", activation, keymap, '"act_layer": "silu"'))
    size, why = _image_size(read, template, hints, variants)
    config = replace(
        template,
        image_size=size,
        norm_eps=eps,
        activation=activation,
    )
    return config, [*assumed, *why]


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
    if not names.gate:  # of these families, only a ConViT may have none
        read.of(at + names.positions, 3)
    classes, norms = read_heads(read.shapes, names)
    _check_heads(read, distilled=distilled, heads=len(norms))
    pooler = f"{at}{names.pooler}.weight"
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


def _heads_of_variant(template: TransformerConfig, variants: Mapping[str, Variant]) -> int | None:
    """Choose the number of heads of the variants that are this network otherwise, if they agree."""
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


def _image_size(
    read: _Shapes,
    template: TransformerConfig,
    hints: Hints,
    variants: Mapping[str, Variant],
) -> tuple[tuple[int, int], list[str]]:
    """(height, width) in pixels, and what was assumed."""
    names, patch = read.keymap, template.patch_size
    if not template.positions:
        return _size_without_positions(template, hints, variants)
    key = names.prefix + names.positions
    count, width = read.of(key, 3)[1:]
    patches = count - (0 if template.local_depth else template.special_tokens)
    if patches < 1 or width != template.width:
        raise CheckpointError(f"{key}: {count} positions of width {width} do not fit this network")
    if patches > MAX_TOKENS:
        raise CheckpointError(
            f"the checkpoint has {patches:,} tokens, over the limit of {MAX_TOKENS:,}"
        )
    grids = [(h, patches // h) for h in range(1, patches + 1) if patches % h == 0]
    sizes = [(h * patch, w * patch) for h, w in grids]
    if hints.resize_to in sizes:
        return hints.resize_to, []
    if hints.image_size is not None and hints.image_size not in sizes:
        side = math.isqrt(patches)
        trained = f"{side * patch}x{side * patch} pixels" if side**2 == patches else "another size"
        raise ConfigError(
            f"the checkpoint was trained at {trained} ({patches} patches), not at "
            f"{_size(hints.image_size)} as {hints.image_size_from} says; correct that "
            f"(--image-size resizes the model to another size)"
        )
    for said in (hints.image_size, hints.input_size):
        if said is not None and said in sizes:
            return said, []
    side = math.isqrt(patches)
    if side**2 == patches:
        # Every source has square images unless it says otherwise.
        return (side * patch, side * patch), []
    listed = " or ".join(map(_size, sizes))
    raise ConfigError(
        f"the checkpoint's shapes fit several image sizes: {listed}; say which with --image-size "
        f"HxW"
    )


def _size_without_positions(
    template: TransformerConfig, hints: Hints, variants: Mapping[str, Variant]
) -> tuple[tuple[int, int], list[str]]:
    for size in (hints.image_size, hints.resize_to, hints.input_size):
        if size is not None:
            return size, []
    for name, variant in variants.items():
        if same_architecture(replace(variant.config, positions=False), template):
            size = variant.config.image_size
            return size, [f"image size {_size(size)}: the default of {name}"]
    raise ConfigError(
        "nothing in the checkpoint tells its image size: say it with --image-size HxW"
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
