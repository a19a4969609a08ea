"""The image size of a vision transformer, and which tokens have position embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from levit.errors import CheckpointError, ConfigError
from levit.models.asked_size import asked_size
from levit.models.hints import Hints
from levit.models.model import Variant
from levit.models.transformer.config import MAX_TOKENS, TransformerConfig, same_architecture
from levit.models.transformer.keymap import TransformerKeymap
from levit.models.transformer.names import Named

__all__ = ["Grid", "infer_grid", "size_without_positions"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A reading of a table of position embeddings.

    Attributes:
        image_size: (height, width) in pixels.
        token_positions: whether the tokens in front of the patches have positions too.
        assumed: choices that nothing stated, in words.
    """

    image_size: tuple[int, int]
    token_positions: bool = True
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """One way to read the table: (height, width) in pixels that it would fit."""

    token_positions: bool
    patches: int
    sizes: tuple[tuple[int, int], ...]

    def square(self, patch: int) -> tuple[int, int] | None:
        side = math.isqrt(self.patches)
        return (side * patch, side * patch) if side**2 == self.patches else None


def infer_grid(
    count: int,
    template: TransformerConfig,
    keymap: TransformerKeymap,
    hints: Hints,
    stated: Mapping[str, Any],
    named: Named,
) -> Grid:
    """Infer the image size from the number of position embeddings.

    Args:
        count: position embeddings in the checkpoint.
        template: the config as far as it is known.
        stated: fields of the config that a file states.

    Raises:
        CheckpointError: there are none of patches, or too many.
        ConfigError: several sizes fit and nothing decides, or the hints contradict.
    """
    readings = _readings(count, template, keymap, stated, named)
    patch = template.patch_size
    if hints.image_size is not None and not _holding(readings, hints.image_size, hints.resize_to):
        raise ConfigError(
            f"the checkpoint was trained at {_trained(readings[0], patch)} ({readings[0].patches} "
            f"patches), not at {_size(hints.image_size)} as {hints.image_size_from} says; correct "
            f"that (--image-size resizes the model to another size)"
        )
    # What the training had comes first: a size that the user wants may have as many patches.
    said = [hints.image_size, hints.resize_to, hints.input_size]
    if named.config is not None:
        said.append(named.config.image_size)
    for size in said:
        for reading in readings:
            if size is not None and size in reading.sizes:
                return Grid(
                    image_size=size,
                    token_positions=reading.token_positions,
                    assumed=_unsaid(size, reading, hints),
                )
    squares = [reading for reading in readings if reading.square(patch)]
    if len(squares) > 1:
        raise ConfigError(
            f"{count} position embeddings are of the patches alone or of all tokens: say which "
            f"with --config '{{\"no_embed_class\": true}}'"
        )
    if squares:
        size = squares[0].square(patch)
        assert size is not None
        return Grid(
            image_size=size,
            token_positions=squares[0].token_positions,
            assumed=_square(size, squares[0], keymap, hints),
        )
    sizes = dict.fromkeys(size for reading in readings for size in reading.sizes)
    raise ConfigError(
        f"the checkpoint's shapes fit several image sizes: {' or '.join(map(_size, sizes))}; say "
        f"which with --image-size HxW"
    )


def _readings(
    count: int,
    template: TransformerConfig,
    keymap: TransformerKeymap,
    stated: Mapping[str, Any],
    named: Named,
) -> list[_Reading]:
    special = 0 if template.local_depth else template.special_tokens
    choices: Sequence[bool] = (True, False)
    if not special or template.distilled:
        choices = (True,)
    elif keymap.token_positions is not None:
        choices = (keymap.token_positions,)
    elif "token_positions" in stated:
        choices = (stated["token_positions"],)
    elif named.config is not None:
        choices = (named.config.token_positions,)
    readings = []
    for token_positions in choices:
        patches = count - special * token_positions
        if patches > MAX_TOKENS:
            raise CheckpointError(
                f"the checkpoint has {patches:,} tokens, over the limit of {MAX_TOKENS:,}"
            )
        patch = template.patch_size
        sizes = tuple(
            (h * patch, patches // h * patch) for h in range(1, patches + 1) if patches % h == 0
        )
        if sizes:
            reading = _Reading(token_positions=token_positions, patches=patches, sizes=sizes)
            readings.append(reading)
    if not readings:
        raise CheckpointError(
            f"{keymap.prefix}{keymap.positions}: {count} positions do not fit this network"
        )
    return readings


def _holding(readings: Sequence[_Reading], *sizes: tuple[int, int] | None) -> bool:
    return any(size in reading.sizes for reading in readings for size in sizes)


def _trained(reading: _Reading, patch: int) -> str:
    square = reading.square(patch)
    return f"{_size(square)} pixels" if square else "another size"


def _unsaid(size: tuple[int, int], reading: _Reading, hints: Hints) -> tuple[str, ...]:
    """Say that the size is only what the user wants, where no file states it."""
    if size == hints.image_size or size != hints.resize_to:
        return ()
    return asked_size(size, reading.sizes)


def _square(
    size: tuple[int, int], reading: _Reading, keymap: TransformerKeymap, hints: Hints
) -> tuple[str, ...]:
    """Say that a square was assumed, where the source's code knows others and nothing is said."""
    others = [one for one in reading.sizes if one[0] < size[0]]
    only_squares = keymap.source == "original" or bool(keymap.gate)
    told = keymap.source == "transformers" and hints.arguments is not None
    if not others or only_squares or told:
        return ()
    return (f"image size {_size(size)}: a square ({_size(others[-1])} has the same tokens)",)


def size_without_positions(
    template: TransformerConfig, hints: Hints, variants: Mapping[str, Variant]
) -> Grid:
    """Choose the image size of a network without position embeddings (ConViT).

    Raises:
        ConfigError: nothing says it.
    """
    for size in (hints.image_size, hints.resize_to, hints.input_size):
        if size is not None:
            return Grid(image_size=size)
    for name, variant in variants.items():
        if same_architecture(replace(variant.config, positions=False), template):
            size = variant.config.image_size
            assumed = f"image size {_size(size)}: the default of {name}"
            return Grid(image_size=size, assumed=(assumed,))
    raise ConfigError(
        "nothing in the checkpoint tells its image size: say it with --image-size HxW"
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
