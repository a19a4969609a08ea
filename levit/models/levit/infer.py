"""LeViT's config, inferred from a checkpoint's shapes and the files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

from levit.errors import CheckpointError, ConfigError
from levit.models.asked_size import asked_size
from levit.models.heads import read_heads
from levit.models.hints import Hints
from levit.models.levit.arguments import (
    check_parts,
    config_from_arguments,
    holds_arguments,
)
from levit.models.levit.config import (
    MAX_TOKENS,
    VARIANTS,
    BlockConfig,
    LevitConfig,
    StageConfig,
    grids_of_shapes,
    same_architecture,
)
from levit.models.levit.keymap import BlockNames, DownsampleNames, LevitKeymap

__all__ = ["infer_config"]

Shapes = Mapping[str, tuple[int, ...]]


class _Shapes:
    """Shapes of a checkpoint; a missing one is an error that names it."""

    def __init__(self, shapes: Shapes, keymap: LevitKeymap) -> None:
        self._shapes = shapes
        self._keymap = keymap

    def weight(self, layer: str, leaf: str | None = None) -> tuple[int, int]:
        """(out, in) of a layer's weight."""
        shape = self.named(layer + (leaf or self._keymap.weight))
        if len(shape) < 2:
            raise CheckpointError(f"{layer}: a weight of shape {shape} is no Linear")
        return shape[0], shape[1]

    def stem(self, number: int) -> tuple[int, int]:
        """(out, in) of a convolution of the stem, from 0."""
        return self.weight(self._keymap.stem_name(number), self._keymap.stem_weight)

    def named(self, key: str) -> tuple[int, ...]:
        shape = self._shapes.get(key)
        if shape is None:
            raise CheckpointError(
                f"the checkpoint has no tensor {key!r}, without which its configuration cannot "
                f"be told; is the file complete?"
            )
        return shape

    def has(self, layer: str) -> bool:
        return layer + self._keymap.weight in self._shapes

    def depth(self, stage: int, depths: Sequence[int]) -> int:
        """Number of blocks of a stage, after stages of these depths."""
        number = 0
        while self.has(self._keymap.block_names(stage, number, depths).qkv):
            number += 1
        return number


def infer_config(
    shapes: Shapes, keymap: LevitKeymap, hints: Hints
) -> tuple[LevitConfig, list[str]]:
    """Infer the config from a checkpoint's shapes and the hints beside it.

    Args:
        shapes: of every tensor.
        hints: from a config.json or the user; they decide where shapes cannot.

    Returns:
        The config, and what had to be assumed, in words.

    Raises:
        CheckpointError: a tensor that tells the shape of the network is missing or odd.
        ConfigError: shapes leave a choice (the message lists the candidates and the flag
            that decides), or contradict the hints.
    """
    read = _Shapes(shapes, keymap)
    stem_widths = tuple(_stem_widths(read, shapes, keymap))
    stages: list[StageConfig] = []
    tokens: list[int] = []
    depths: list[int] = []
    while True:
        s = len(stages)
        names = keymap.downsample_names(s, depths) if s else None
        if names is not None and not read.has(names.kv):
            if read.depth(s, depths):
                raise CheckpointError(
                    f"stage {s} does not begin with a downsampling block: this is not a LeViT"
                )
            break
        depth = read.depth(s, depths)
        first = keymap.block_names(s, 0, depths)
        width = stem_widths[-1]
        if depth or names is not None:
            width = read.weight(first.proj if depth else cast("DownsampleNames", names).proj)[0]
        stages.append(
            StageConfig(
                width=width,
                depth=depth,
                block=_block_config(read, first) if depth else None,
                downsample=None if names is None else _downsample_config(read, names),
            )
        )
        # h·w of a stage, or 0 where only the next stage knows it.
        tokens.append(read.named(first.bias)[1] if depth else 0)
        depths.append(depth)
    if not any(depths) and len(stages) == 1:
        raise CheckpointError("the checkpoint has a LeViT stem but no stages")
    tokens = _fill_token_counts(tokens, depths, read, keymap)
    if max(tokens) > MAX_TOKENS:
        raise CheckpointError(
            f"the checkpoint has {max(tokens):,} tokens, over the limit of {MAX_TOKENS:,}"
        )
    in_channels = read.stem(0)[1]
    num_classes, norms = read_heads(shapes, keymap, separable=True)
    stride = 2 ** len(stem_widths)
    template = LevitConfig(
        image_size=(stride, stride),
        in_channels=in_channels,
        num_classes=num_classes,
        distilled=len(norms) > 1,
        head_norm=norms[0] if norms else True,
        head_dist_norm=norms[1] if len(norms) > 1 else True,
        stem_widths=stem_widths,
        stages=tuple(stages),
        conv=keymap.conv,
    )
    if hints.arguments is not None and holds_arguments(hints.arguments):
        stated = config_from_arguments(hints.arguments, hints.arguments_from)
        if not same_architecture(replace(stated, conv=keymap.conv), template):
            raise ConfigError(
                f"{hints.arguments_from} holds other widths, heads or depths than the weights "
                f"beside it: correct that, or leave them out"
            )
    if hints.arguments is not None and hints.model_type is None:
        check_parts(template, hints.arguments, hints.arguments_from)
    return _decide(template, tokens, keymap, hints)


def _stem_widths(read: _Shapes, shapes: Shapes, keymap: LevitKeymap) -> Iterator[int]:
    number = 0
    while number == 0 or keymap.stem_name(number) + keymap.stem_weight in shapes:
        yield read.stem(number)[0]
        number += 1


def _heads(read: _Shapes, key: str) -> int:
    shape = read.named(key)
    if len(shape) != 2 or shape[0] < 1:
        raise CheckpointError(f"{key}: an attention bias table is (heads, positions), not {shape}")
    return shape[0]


def _whole(number: int, parts: int, layer: str) -> int:
    if number % parts or number <= 0:
        raise CheckpointError(f"{layer}: {number} rows do not divide among {parts} heads")
    return number // parts


def _block_config(read: _Shapes, names: BlockNames) -> BlockConfig:
    heads = _heads(read, names.bias)
    value_dim = _whole(read.weight(names.proj)[1], heads, names.proj)
    key_dim = _whole(_whole(read.weight(names.qkv)[0], heads, names.qkv) - value_dim, 2, names.qkv)
    mlp_width = read.weight(names.up)[0]
    return BlockConfig(heads=heads, key_dim=key_dim, value_dim=value_dim, mlp_width=mlp_width)


def _downsample_config(read: _Shapes, names: DownsampleNames) -> BlockConfig:
    heads = _heads(read, names.bias)
    key_dim = _whole(read.weight(names.q)[0], heads, names.q)
    value_dim = _whole(read.weight(names.kv)[0] - heads * key_dim, heads, names.kv)
    mlp_width = read.weight(names.up)[0]
    return BlockConfig(heads=heads, key_dim=key_dim, value_dim=value_dim, mlp_width=mlp_width)


def _fill_token_counts(
    tokens: list[int], depths: list[int], read: _Shapes, keymap: LevitKeymap
) -> list[int]:
    filled = list(tokens)
    for s in range(1, len(tokens)):
        # A downsampling block's table spans the keys, the tokens of the stage before.
        before = read.named(keymap.downsample_names(s, depths).bias)[1]
        if filled[s - 1] not in (0, before):
            raise CheckpointError(
                f"stage {s - 1} has {filled[s - 1]} tokens in its blocks and {before} in the "
                f"downsampling after it"
            )
        filled[s - 1] = before
    return filled


def _decide(
    template: LevitConfig, tokens: list[int], keymap: LevitKeymap, hints: Hints
) -> tuple[LevitConfig, list[str]]:
    stride = template.stem_stride
    known = next((n for n, v in VARIANTS.items() if same_architecture(v.config, template)), None)
    variant = VARIANTS[known].config if known else None
    usable = [i for i, count in enumerate(tokens) if count]
    last = usable[-1] + 1 if usable else 0
    grids = grids_of_shapes(tokens[:last], [s > 0 for s in range(last)]) if last else []
    sizes = [(h * stride, w * stride) for h, w in grids if h == w or not keymap.square]
    if not sizes:
        raise CheckpointError(f"no image size gives the token counts {tokens} of this checkpoint")
    assumed: list[str] = []
    if hints.image_size is not None and hints.image_size in sizes:
        # It comes first: a size that the user wants may have as many tokens.
        image_size = hints.image_size
    elif hints.resize_to is not None and hints.resize_to in sizes:
        image_size = hints.resize_to
        assumed += asked_size(image_size, sizes)
    elif hints.image_size is not None:
        raise ConfigError(
            f"the checkpoint was trained at {_or(sizes)} pixels, not {_size(hints.image_size)} "
            f"as {hints.image_size_from} says; correct that (--image-size resizes the model to "
            f"another size)"
        )
    elif len(sizes) == 1:
        image_size = sizes[0]
    elif hints.input_size in sizes:
        image_size = hints.input_size
    elif variant is not None and variant.image_size in sizes:
        image_size = variant.image_size
        assumed.append(f"image size {_size(image_size)}: the default of {known}")
    else:
        raise ConfigError(
            f"the checkpoint's shapes fit several image sizes: say which with --image-size "
            f"{_or(sizes)}"
        )
    activation = hints.activation or keymap.activation
    if activation is None:
        activation = variant.activation if variant else "hard_swish"
        if known is None:
            assumed.append("activation hard_swish: the paper's (no config says otherwise)")
    config = replace(
        template,
        image_size=image_size,
        activation=activation,
        attention_activation=hints.attention_activation or activation,
    )
    return config, assumed


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _or(sizes: Sequence[tuple[int, int]]) -> str:
    return " or ".join(map(_size, sizes))
