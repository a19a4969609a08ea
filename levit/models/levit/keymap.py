"""LeViT's tensor names by source format, as data, and the config that shapes imply."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from levit.errors import CheckpointError, ConfigError
from levit.models.hints import Hints
from levit.models.levit.config import (
    VARIANTS,
    BlockConfig,
    LevitConfig,
    StageConfig,
    grids_of_shapes,
    same_architecture,
)

__all__ = ["KEYMAPS", "LevitKeymap", "infer_config"]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class LevitKeymap:
    """Where one source format keeps what. ``{s}`` is the stage, ``{b}`` the block in it.

    Attributes:
        conv: Linears are stored as 1×1 convolutions.
        weight, norm: leaf names under a layer's name.
        ignored: patterns of keys that inference does not need.
    """

    source: str
    conv: bool
    weight: str
    norm: Mapping[str, str]
    stem: str
    qkv: str
    bias: str
    proj: str
    mlp_up: str
    mlp_down: str
    down_kv: str
    down_q: str
    down_bias: str
    down_proj: str
    down_mlp_up: str
    down_mlp_down: str
    head: str
    head_dist: str
    ignored: tuple[str, ...]

    def matches(self, shapes: Shapes) -> bool:
        """Whether the stem and an attention projection are where this format has them."""
        stem = shapes.get(self.weight.format(layer=self.stem.format(i=1)))
        if stem is None or len(stem) != 4:
            return False
        for template in (self.qkv, self.down_kv):
            for stage in (0, 1):
                shape = shapes.get(self.weight.format(layer=template.format(s=stage, b=0)))
                if shape is not None:
                    return len(shape) == (4 if self.conv else 2)
        return False

    def ignores(self, key: str) -> bool:
        """Whether a key carries nothing that inference needs."""
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.ignored)


def _timm(source: str, *, conv: bool) -> LevitKeymap:
    block, down = "stages.{s}.blocks.{b}.", "stages.{s}.downsample."
    return LevitKeymap(
        source=source,
        conv=conv,
        weight="{layer}.linear.weight",
        norm={
            "weight": "{layer}.bn.weight",
            "bias": "{layer}.bn.bias",
            "mean": "{layer}.bn.running_mean",
            "var": "{layer}.bn.running_var",
        },
        stem="stem.conv{i}",
        qkv=block + "attn.qkv",
        bias=block + "attn.attention_biases",
        proj=block + "attn.proj.ln",
        mlp_up=block + "mlp.ln1",
        mlp_down=block + "mlp.ln2",
        down_kv=down + "attn_downsample.kv",
        down_q=down + "attn_downsample.q.ln",
        down_bias=down + "attn_downsample.attention_biases",
        down_proj=down + "attn_downsample.proj.ln",
        down_mlp_up=down + "mlp.ln1",
        down_mlp_down=down + "mlp.ln2",
        head="head",
        head_dist="head_dist",
        # The indices follow from the grid; older timm stored them.
        ignored=("*.num_batches_tracked", "*.attention_bias_idxs"),
    )


KEYMAPS: Final[Sequence[LevitKeymap]] = (_timm("timm", conv=False), _timm("timm", conv=True))


class _Shapes:
    """Reads shapes off a checkpoint; what is missing is an error that names it."""

    def __init__(self, shapes: Shapes, keymap: LevitKeymap) -> None:
        self._shapes = shapes
        self._keymap = keymap

    def weight(self, layer: str) -> tuple[int, int]:
        """(out, in) of a layer's weight."""
        shape = self.named(self._keymap.weight.format(layer=layer))
        if len(shape) < 2:
            raise CheckpointError(f"{layer}: a weight of shape {shape} is no Linear")
        return shape[0], shape[1]

    def named(self, key: str) -> tuple[int, ...]:
        shape = self._shapes.get(key)
        if shape is None:
            raise CheckpointError(
                f"the checkpoint has no tensor {key!r}, without which its configuration cannot "
                f"be told; is the file complete?"
            )
        return shape

    def has(self, layer: str) -> bool:
        return self._keymap.weight.format(layer=layer) in self._shapes

    def count(self, template: str, **fixed: int) -> int:
        """How many consecutive layers a template with one free number finds, from 0."""
        number = 0
        while self.has(template.format(b=number, **fixed)):
            number += 1
        return number


def infer_config(
    shapes: Shapes, keymap: LevitKeymap, hints: Hints
) -> tuple[LevitConfig, list[str]]:
    """The config that a checkpoint's shapes, and what stands beside it, imply.

    Args:
        shapes: of every tensor.
        hints: what a config.json or the user says; it decides where shapes cannot.

    Returns:
        The config, and what had to be assumed, in words.

    Raises:
        CheckpointError: a tensor that tells the shape of the network is missing or odd.
        ConfigError: shapes leave a choice (the message lists the candidates and the flag
            that decides), or contradict the hints.
    """
    read = _Shapes(shapes, keymap)
    read.weight(keymap.stem.format(i=1))  # at least one
    stem_widths = tuple(_stem_widths(read, keymap))
    stages: list[StageConfig] = []
    tokens: list[int] = []
    while True:
        s = len(stages)
        down = _downsample_config(read, keymap, s)
        depth = read.count(keymap.qkv, s=s)
        empty_first = s == 0 and read.has(keymap.down_kv.format(s=1))
        if not depth and down is None and not empty_first:
            break
        if (down is not None) != (s > 0):
            raise CheckpointError(
                f"stage {s} {'begins' if down else 'does not begin'} with a downsampling block: "
                f"this is not a LeViT as timm builds it"
            )
        block = _block_config(read, keymap, s) if depth else None
        width = stem_widths[-1]
        if depth or down is not None:
            last = keymap.proj.format(s=s, b=0) if depth else keymap.down_proj.format(s=s)
            width = read.weight(last)[0]
        stages.append(StageConfig(width=width, depth=depth, block=block, downsample=down))
        tokens.append(_tokens(read, keymap, s, depth))
    if not stages:
        raise CheckpointError("the checkpoint has a LeViT stem but no stages")
    tokens = _fill_token_counts(tokens, read, keymap)
    in_channels = read.weight(keymap.stem.format(i=1))[1]
    num_classes = read.weight(keymap.head)[0] if read.has(keymap.head) else 0
    stride = 2 ** len(stem_widths)
    template = LevitConfig(
        image_size=(stride, stride),
        in_channels=in_channels,
        num_classes=num_classes,
        distilled=read.has(keymap.head_dist),
        stem_widths=stem_widths,
        stages=tuple(stages),
        conv=keymap.conv,
    )
    return _decide(template, tokens, hints)


def _stem_widths(read: _Shapes, keymap: LevitKeymap) -> Iterator[int]:
    number = 1
    while read.has(keymap.stem.format(i=number)):
        yield read.weight(keymap.stem.format(i=number))[0]
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


def _block_config(read: _Shapes, keymap: LevitKeymap, s: int) -> BlockConfig:
    qkv, proj = keymap.qkv.format(s=s, b=0), keymap.proj.format(s=s, b=0)
    heads = _heads(read, keymap.bias.format(s=s, b=0))
    value_dim = _whole(read.weight(proj)[1], heads, proj)
    key_dim = _whole(_whole(read.weight(qkv)[0], heads, qkv) - value_dim, 2, qkv)
    mlp_width = read.weight(keymap.mlp_up.format(s=s, b=0))[0]
    return BlockConfig(heads=heads, key_dim=key_dim, value_dim=value_dim, mlp_width=mlp_width)


def _downsample_config(read: _Shapes, keymap: LevitKeymap, s: int) -> BlockConfig | None:
    kv, q = keymap.down_kv.format(s=s), keymap.down_q.format(s=s)
    if not read.has(kv):
        return None
    heads = _heads(read, keymap.down_bias.format(s=s))
    key_dim = _whole(read.weight(q)[0], heads, q)
    value_dim = _whole(read.weight(kv)[0] - heads * key_dim, heads, kv)
    mlp_width = read.weight(keymap.down_mlp_up.format(s=s))[0]
    return BlockConfig(heads=heads, key_dim=key_dim, value_dim=value_dim, mlp_width=mlp_width)


def _tokens(read: _Shapes, keymap: LevitKeymap, s: int, depth: int) -> int:
    """h·w of a stage, or 0 where only the next stage knows it."""
    return read.named(keymap.bias.format(s=s, b=0))[1] if depth else 0


def _fill_token_counts(tokens: list[int], read: _Shapes, keymap: LevitKeymap) -> list[int]:
    filled = list(tokens)
    for s in range(1, len(tokens)):
        # A downsampling block's table spans the keys, the tokens of the stage before.
        before = read.named(keymap.down_bias.format(s=s))[1]
        if filled[s - 1] not in (0, before):
            raise CheckpointError(
                f"stage {s - 1} has {filled[s - 1]} tokens in its blocks and {before} in the "
                f"downsampling after it"
            )
        filled[s - 1] = before
    return filled


def _decide(
    template: LevitConfig, tokens: list[int], hints: Hints
) -> tuple[LevitConfig, list[str]]:
    stride = template.stem_stride
    known = next((n for n, v in VARIANTS.items() if same_architecture(v.config, template)), None)
    variant = VARIANTS[known].config if known else None
    usable = [i for i, count in enumerate(tokens) if count]
    last = usable[-1] + 1 if usable else 0
    grids = grids_of_shapes(tokens[:last], [s > 0 for s in range(last)]) if last else []
    sizes = [(h * stride, w * stride) for h, w in grids]
    if not sizes:
        raise CheckpointError(f"no image size gives the token counts {tokens} of this checkpoint")
    assumed = []
    if hints.image_size is not None:
        if hints.image_size not in sizes:
            raise ConfigError(
                f"the checkpoint was trained at {_or(sizes)} pixels, not {_size(hints.image_size)} "
                f"as {hints.image_size_from} says; correct that (another size needs its bias "
                f"tables interpolated, which this release does not do)"
            )
        image_size = hints.image_size
    elif len(sizes) == 1:
        image_size = sizes[0]
    elif hints.input_size in sizes:
        image_size = hints.input_size
    elif variant is not None and variant.image_size in sizes:
        image_size = variant.image_size
        assumed.append(f"image size {_size(image_size)}: the default of {known}")
    else:
        raise ConfigError(
            f"the checkpoint's shapes fit several image sizes: {_or(sizes)}; say which with "
            f"--image-size HxW"
        )
    activation = hints.activation
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
