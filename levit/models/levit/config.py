"""LeViT's configuration and its variants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final

from levit.errors import ConfigError
from levit.json_values import flag, listed, number_pair, whole
from levit.models.layers import ACTIVATIONS
from levit.models.model import Variant

__all__ = [
    "MAX_TOKENS",
    "VARIANTS",
    "BlockConfig",
    "LevitConfig",
    "StageConfig",
    "grids_of_shapes",
    "levit_config",
    "same_architecture",
]


# Far beyond use, and near enough that a slip of the finger, or a file that somebody has made to
# do harm, is an error and not a hang: blocks in all; tokens, whose pairs are counted one by
# one; and weights, of which the largest variant has 90 million.
MAX_DEPTH: Final = 1_000
# 1536x1536 pixels at a stride of 16. Tables of token pairs grow with the square: 680 MB here.
MAX_TOKENS: Final = 96 * 96
MAX_WEIGHTS: Final = 2**28


_FLAGS: Final = ("distilled", "conv", "head_norm", "head_dist_norm")


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Attention of `heads` heads and an MLP of hidden width `mlp_width`."""

    heads: int
    key_dim: int
    value_dim: int
    mlp_width: int


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """`depth` blocks of `width` channels, after a downsampling block or not."""

    width: int
    depth: int
    block: BlockConfig | None
    downsample: BlockConfig | None


@dataclass(frozen=True, kw_only=True)
class LevitConfig:
    """Settings of LeViT's network.

    Attributes:
        image_size: (height, width) in pixels; multiples of ``stem_stride``.
        in_channels: of the image.
        num_classes: 0 for a headless model.
        distilled: whether there is a second, distillation head.
        stem_widths: output channels of the stem's stride-2 convolutions.
        stages: from the first.
        activation, attention_activation: ``hard_swish`` or ``silu``.
        head_norm, head_dist_norm: whether a BatchNorm stands before the classifier and before the
            distillation head; a Linear that was put in their place has none.
        conv: timm's ``levit_conv_*`` twin, which has the same weights as 1×1 convolutions
            and returns features as (B, C, H, W).
    """

    image_size: tuple[int, int]
    in_channels: int = 3
    num_classes: int = 1000
    distilled: bool = True
    stem_widths: tuple[int, ...]
    stages: tuple[StageConfig, ...]
    activation: str = "hard_swish"
    attention_activation: str = "hard_swish"
    conv: bool = False
    head_norm: bool = True
    head_dist_norm: bool = True

    def __post_init__(self) -> None:
        for name in (self.activation, self.attention_activation):
            if name not in ACTIVATIONS:
                raise ConfigError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
        if not self.stages or not self.stem_widths:
            raise ConfigError("a LeViT has at least one stage and one stem convolution")
        blocks = [b for s in self.stages for b in (s.block, s.downsample) if b is not None]
        widths = [*self.stem_widths, *(stage.width for stage in self.stages), self.in_channels]
        widths += [n for b in blocks for n in (b.heads, b.key_dim, b.value_dim, b.mlp_width)]
        depths = [stage.depth for stage in self.stages]
        if not all(type(n) is int for n in (*widths, *depths, self.num_classes)):
            raise ConfigError("widths, heads, depths and channels of a LeViT are whole numbers")
        if min(widths) < 1 or self.num_classes < 0 or min(depths) < 0:
            raise ConfigError("widths, heads, depths and channels of a LeViT must be positive")
        count = sum(depths) + len(depths)
        if count > MAX_DEPTH:
            raise ConfigError(f"{count} blocks in all stages are over the limit of {MAX_DEPTH}")
        if self._weights() > MAX_WEIGHTS:
            raise ConfigError(f"a network of {self._weights():.2g} weights is over the limit")
        if any(stage.depth and stage.block is None for stage in self.stages):
            raise ConfigError("a stage of a LeViT that has a depth has blocks of some size")
        if any((stage.downsample is None) != (i == 0) for i, stage in enumerate(self.stages)):
            raise ConfigError("every stage of a LeViT but the first begins with a downsampling")
        if self.stem_widths[-1] != self.stages[0].width:
            raise ConfigError("the stem's last width must be the first stage's")
        stride = self.stem_stride
        if any(n < stride or n % stride for n in self.image_size):
            height, width = self.image_size
            near = " or ".join(
                f"{max(1, round(height / stride) + d) * stride}x"
                f"{max(1, round(width / stride) + d) * stride}"
                for d in (0, 1)
            )
            raise ConfigError(
                f"image size {height}x{width} does not fit the stem, whose stride is {stride}: "
                f"both sides must be multiples of {stride}, such as {near}"
            )
        tokens = math.prod(n // stride for n in self.image_size)
        if tokens > MAX_TOKENS:
            raise ConfigError(
                f"image size {self.image_size[0]}x{self.image_size[1]} makes {tokens:,} tokens, "
                f"over the limit of {MAX_TOKENS:,}"
            )

    def _weights(self) -> int:
        """Number of weights in the matrices; the rest is a percent."""
        stem = (self.in_channels, *self.stem_widths)
        total = 9 * sum(a * b for a, b in pairwise(stem))
        total += (1 + self.distilled) * self.num_classes * self.stages[-1].width
        before = 0
        for stage in self.stages:
            for block, count, width in (
                (stage.block, stage.depth, stage.width),
                (stage.downsample, 1, before),
            ):
                if block is not None:
                    attention = block.heads * (2 * block.key_dim + block.value_dim) * width
                    out = block.heads * block.value_dim * stage.width
                    total += count * (attention + out + 2 * block.mlp_width * stage.width)
            before = stage.width
        return total

    @property
    def stem_stride(self) -> int:
        """Pixels per token along each side, in the first stage."""
        return int(2 ** len(self.stem_widths))

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(height, width) in tokens of each stage."""
        height, width = (n // self.stem_stride for n in self.image_size)
        grids = []
        for stage in self.stages:
            if stage.downsample is not None:
                height, width = -(-height // 2), -(-width // 2)
            grids.append((height, width))
        return tuple(grids)

    @property
    def classifier_heads(self) -> int:
        """Number of classifier heads."""
        return 1 + self.distilled if self.num_classes else 0

    @property
    def width(self) -> int:
        """Channels of the last stage, and so of the embedding."""
        return self.stages[-1].width

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LevitConfig:
        """The reverse of :meth:`to_dict`, also after JSON.

        Raises:
            ConfigError: a field is missing, unknown or of the wrong type.
        """
        try:
            stages = tuple(
                StageConfig(
                    **{
                        **stage,
                        "block": _block(stage["block"]),
                        "downsample": _block(stage["downsample"]),
                    }
                )
                for stage in listed(values["stages"], "stages")
            )
            flags = {name: flag(values[name], name) for name in _FLAGS if name in values}
            stem_widths = listed(values["stem_widths"], "stem_widths")
            return cls(
                **{
                    **values,
                    **flags,
                    "image_size": number_pair(values["image_size"], "image_size"),
                    "stem_widths": tuple(whole(width, "stem_widths") for width in stem_widths),
                    "stages": stages,
                }
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"not the config of a LeViT ({error!r})") from error


def _block(values: Mapping[str, Any] | None) -> BlockConfig | None:
    return None if values is None else BlockConfig(**values)


def levit_config(
    *,
    widths: Sequence[int],
    key_dim: int,
    heads: Sequence[int],
    depths: Sequence[int],
    image_size: tuple[int, int] = (224, 224),
    in_channels: int = 3,
    num_classes: int = 1000,
    attention_ratio: float | Sequence[float] = 2.0,
    mlp_ratio: float | Sequence[float] = 2.0,
    stem_convs: int = 4,
    activation: str = "hard_swish",
    distilled: bool = True,
    conv: bool = False,
) -> LevitConfig:
    """A config from timm's arguments (``embed_dim``, ``key_dim``, ``num_heads``, ``depth``).

    The downsampling blocks have the paper's shape: ``width // key_dim`` heads of the width
    before, values 4 times as wide as keys, an MLP of twice the width after.
    """
    stages = []
    for i, width in enumerate(widths):
        block = BlockConfig(
            heads=heads[i],
            key_dim=key_dim,
            value_dim=int(_at(attention_ratio, i) * key_dim),
            mlp_width=int(width * _at(mlp_ratio, i)),
        )
        downsample = BlockConfig(
            heads=widths[i - 1] // key_dim,
            key_dim=key_dim,
            value_dim=4 * key_dim,
            mlp_width=2 * width,
        )
        stages.append(
            StageConfig(
                width=width,
                depth=depths[i],
                block=block if depths[i] else None,
                downsample=downsample if i else None,
            )
        )
    return LevitConfig(
        image_size=image_size,
        in_channels=in_channels,
        num_classes=num_classes,
        distilled=distilled,
        stem_widths=tuple(widths[0] // 2**i for i in reversed(range(stem_convs))),
        stages=tuple(stages),
        activation=activation,
        attention_activation=activation,
        conv=conv,
    )


def _at(value: float | Sequence[float], stage: int) -> float:
    return value[stage] if isinstance(value, Sequence) else value


def grids_of_shapes(tokens: Sequence[int], downsamples: Sequence[bool]) -> list[tuple[int, int]]:
    """First-stage grids (h, w) whose stages have these token counts.

    Args:
        tokens: h·w of each stage.
        downsamples: whether the stage begins with a downsampling block.
    """
    first = tokens[0]
    found = []
    for height in range(1, first + 1):
        if first % height:
            continue
        h, w = height, first // height
        for count, halves in zip(tokens, downsamples, strict=True):
            if halves:
                h, w = -(-h // 2), -(-w // 2)
            if h * w != count:
                break
        else:
            found.append((height, first // height))
    # Squares first: they are what people mean.
    return sorted(found, key=lambda grid: abs(math.log(grid[0] / grid[1])))


_SIZES: Final[Mapping[str, dict[str, Any]]] = {
    "128s": dict(widths=(128, 256, 384), key_dim=16, heads=(4, 6, 8), depths=(2, 3, 4)),
    "128": dict(widths=(128, 256, 384), key_dim=16, heads=(4, 8, 12), depths=(4, 4, 4)),
    "192": dict(widths=(192, 288, 384), key_dim=32, heads=(3, 5, 6), depths=(4, 4, 4)),
    "256": dict(widths=(256, 384, 512), key_dim=32, heads=(4, 6, 8), depths=(4, 4, 4)),
    "384": dict(widths=(384, 512, 768), key_dim=32, heads=(6, 9, 12), depths=(4, 4, 4)),
    "384_s8": dict(
        widths=(384, 512, 768), key_dim=32, heads=(6, 9, 12), depths=(4, 4, 4),
        activation="silu", stem_convs=3,
    ),
    "512_s8": dict(
        widths=(512, 640, 896), key_dim=64, heads=(8, 10, 14), depths=(4, 4, 4),
        activation="silu", stem_convs=3, distilled=False,
    ),
    "512": dict(
        widths=(512, 768, 1024), key_dim=64, heads=(8, 12, 16), depths=(4, 4, 4),
        activation="silu", distilled=False,
    ),
    "256d": dict(
        widths=(256, 384, 512), key_dim=32, heads=(4, 6, 8), depths=(4, 8, 6),
        activation="silu", distilled=False,
    ),
    "512d": dict(
        widths=(512, 640, 768), key_dim=64, heads=(8, 10, 12), depths=(4, 8, 6),
        activation="silu", distilled=False,
    ),
}  # fmt: skip

# ImageNet-1k top-1 and top-5 in percent, from the model cards of timm: linear, conv.
_ACCURACY: Final[Mapping[str, tuple[tuple[float, float], tuple[float, float]]]] = {
    "128s": ((76.534, 92.864), (76.532, 92.864)),
    "128": ((78.474, 94.014), (78.474, 94.02)),
    "192": ((79.858, 94.792), (79.86, 94.792)),
    "256": ((81.512, 95.48), (81.512, 95.48)),
    "384": ((82.596, 96.012), (82.596, 96.012)),
}


def _variants() -> dict[str, Variant]:
    variants = {}
    for conv, prefix in ((False, "levit_"), (True, "levit_conv_")):
        for size, arguments in _SIZES.items():
            published = _ACCURACY.get(size)
            top1, top5 = published[conv] if published else (None, None)
            variants[prefix + size] = Variant(
                config=levit_config(**arguments, conv=conv),
                hub_id=f"timm/{prefix}{size}.fb_dist_in1k" if published else None,
                top1=top1,
                top5=top5,
            )
    return variants


VARIANTS: Final[Mapping[str, Variant]] = _variants()


def same_architecture(one: LevitConfig, other: LevitConfig) -> bool:
    """Return True if all that fine-tuning keeps is equal: not classes, heads, channels, size.

    Activations do not count either: they cannot be read off a checkpoint.
    """
    free = dict(
        image_size=(one.stem_stride, one.stem_stride),
        in_channels=3,
        num_classes=0,
        distilled=False,
        head_norm=True,
        head_dist_norm=True,
        activation="hard_swish",
        attention_activation="hard_swish",
    )
    if one.stem_stride != other.stem_stride:
        return False
    return replace(one, **free) == replace(other, **free)  # type: ignore[arg-type]
