"""The configuration of a vision transformer of one width."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from levit.errors import ConfigError
from levit.json_values import flag, number_pair
from levit.models.layers import ACTIVATIONS

__all__ = ["MAX_TOKENS", "POOLS", "TransformerConfig", "same_architecture", "with_image_size"]

# Far beyond use, and near enough that a slip of the finger, or a file made to do harm, is an error
# and not a full memory: blocks; tokens; positions' tables of a gated attention; weights, of which
# the largest variant has 87 million, and an ONNX file 2 GB.
MAX_DEPTH: Final = 1_000
MAX_TOKENS: Final = 96 * 96
MAX_TABLE: Final = 2**28
MAX_WEIGHTS: Final = 2**29 - 2**20

POOLS: Final = ("token", "avg")

_FLAGS: Final = (
    "qkv_bias", "proj_bias", "distilled", "distilled_head", "positions", "class_token",
    "token_positions", "pre_norm", "layer_scale", "final_norm", "fc_norm",
    "head_norm", "head_dist_norm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Settings of a network.

    Attributes:
        image_size: (height, width) in pixels; multiples of `patch_size`.
        patch_size: side of the square patch that becomes a token, in pixels.
        in_channels: of the image.
        num_classes: 0 for a headless model.
        width: channels of a token.
        depth: blocks.
        heads: of every attention; they divide `width`.
        mlp_width: of the hidden layer.
        activation: of the hidden layer.
        norm_eps: of every LayerNorm.
        qkv_bias: whether queries, keys and values have biases.
        distilled: whether there is a distillation token beside the class token.
        distilled_head: whether a head of its own reads it.
        pooler_width: channels of transformers' pooler, 0 where there is none.
        local_depth: how many blocks, from the first, have a gated positional attention; the class
            token enters after them (ConViT). 0 where it is there from the start.
        positions: whether there are position embeddings.
        head_norm, head_dist_norm: whether a BatchNorm stands before the classifier and before the
            distillation head, as a linear probe has it.
        class_token: whether there is a class token.
        registers: tokens beside it that nothing reads after the last block.
        token_positions: whether the tokens in front of the patches have position embeddings too.
        pre_norm: whether a LayerNorm stands before the blocks; the patches have no bias then.
        layer_scale: whether what attention and MLP add is scaled, each channel by its own factor.
        proj_bias: whether the attention's projection and the MLP have biases.
        pool: what the head reads: ``token``, the class token, or ``avg``, the mean of the patches.
        final_norm: whether there is a LayerNorm after the blocks.
        fc_norm: whether that one comes after the pooling and not before it.
    """

    image_size: tuple[int, int]
    patch_size: int
    in_channels: int = 3
    num_classes: int = 1000
    width: int
    depth: int
    heads: int
    mlp_width: int
    activation: str = "gelu"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    distilled: bool = False
    distilled_head: bool = False
    pooler_width: int = 0
    local_depth: int = 0
    positions: bool = True
    head_norm: bool = False
    head_dist_norm: bool = False
    class_token: bool = True
    registers: int = 0
    token_positions: bool = True
    pre_norm: bool = False
    layer_scale: bool = False
    proj_bias: bool = True
    pool: str = "token"
    final_norm: bool = True
    fc_norm: bool = False

    def __post_init__(self) -> None:
        numbers = [self.patch_size, self.in_channels, self.width, self.depth, self.heads]
        numbers.append(self.mlp_width)
        others = [self.num_classes, self.pooler_width, self.local_depth, self.registers]
        others += self.image_size
        if not all(type(n) is int for n in (*numbers, *others)):
            raise ConfigError("widths, heads, depths and sizes are whole numbers")
        if min(numbers) < 1 or min(others) < 0:
            raise ConfigError("widths, heads, depths and channels must be positive")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"unknown activation {self.activation!r}; known: {', '.join(ACTIVATIONS)}"
            )
        if not (math.isfinite(self.norm_eps) and self.norm_eps > 0):
            raise ConfigError(f"the LayerNorms' epsilon must be positive, not {self.norm_eps!r}")
        if self.width % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide a width of {self.width}")
        if self.distilled_head and not self.distilled:
            raise ConfigError("a distillation head needs a distillation token")
        if self.local_depth and (self.distilled or self.local_depth >= self.depth):
            raise ConfigError(
                f"the class token enters after {self.local_depth} local blocks: there must be "
                f"more blocks than that ({self.depth}), and no distillation token"
            )
        self._check_tokens()
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"{self.depth} blocks are over the limit of {MAX_DEPTH}")
        self._check_image_size()
        weights = self.depth * self.width * (4 * self.width + 2 * self.mlp_width)
        weights += self.width * (self.num_classes + self.in_channels * self.patch_size**2)
        if weights > MAX_WEIGHTS:
            raise ConfigError(f"a network of {weights:.2g} weights is over the limit")

    def _check_tokens(self) -> None:
        if self.pool not in POOLS:
            raise ConfigError(f"unknown pooling {self.pool!r}; known: {', '.join(POOLS)}")
        if self.pool == "token" and not self.class_token:
            raise ConfigError("pooling by the class token needs a class token")
        if self.registers > MAX_TOKENS:
            raise ConfigError(f"{self.registers:,} registers are over the limit of {MAX_TOKENS:,}")
        if self.fc_norm and not self.final_norm:
            raise ConfigError("a norm behind the pooling is the final norm, which is left out")
        unusual = (
            not self.class_token
            or self.registers > 0
            or not self.token_positions
            or self.fc_norm
            or not self.final_norm
        )
        if self.distilled and (unusual or self.pool != "token"):
            raise ConfigError(
                "a distillation token stands beside a class token alone, and both are read behind "
                "the final norm"
            )
        if self.local_depth and (unusual or self.pre_norm or self.layer_scale):
            raise ConfigError(
                "local blocks have no registers, layer scale or norms but those of a ConViT"
            )

    def _check_image_size(self) -> None:
        patch, (height, width) = self.patch_size, self.image_size
        if any(n < patch or n % patch for n in self.image_size):
            # The next ones below and above each side; an edge that fits stays.
            below, above = (
                tuple(max(1, -(sign * n // patch) * -sign) * patch for n in self.image_size)
                for sign in (1, -1)
            )
            near = " or ".join(f"{h}x{w}" for h, w in dict.fromkeys((below, above)))
            raise ConfigError(
                f"image size {height}x{width} does not divide into patches of {patch} pixels: both "
                f"sides must be multiples of {patch}, such as {near}"
            )
        tokens = math.prod(self.grid)
        if tokens > MAX_TOKENS:
            raise ConfigError(
                f"image size {height}x{width} makes {tokens:,} tokens, over the limit of "
                f"{MAX_TOKENS:,}"
            )
        if self.local_depth * self.heads * tokens**2 > MAX_TABLE:
            raise ConfigError(
                f"image size {height}x{width} makes positional attention tables of "
                f"{self.local_depth * self.heads * tokens**2:,} entries, over the limit of "
                f"{MAX_TABLE:,}: take a smaller one"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) in patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def special_tokens(self) -> int:
        """Number of tokens in front, at the last block, that stand for no patch."""
        return self.class_token + self.distilled + self.registers

    @property
    def tokens(self) -> int:
        """Number of tokens at the last block."""
        return self.special_tokens + math.prod(self.grid)

    @property
    def tokens_read(self) -> int:
        """Number of tokens, from the first, that are read after the last block.

        A classifier without a distillation head reads the class token alone, whatever stands beside
        it; a headless distilled model pools both, as timm does. A mean over the patches reads all.
        """
        if self.pool == "avg":
            return self.tokens
        return 1 + (self.distilled_head or (self.distilled and not self.num_classes))

    @property
    def classifier_heads(self) -> int:
        """Number of classifier heads."""
        return 1 + self.distilled_head if self.num_classes else 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransformerConfig:
        """The reverse of :meth:`to_dict`, also after JSON.

        Raises:
            ConfigError: a field is missing, unknown or of the wrong type.
        """
        try:
            return cls(
                **{
                    **values,
                    "image_size": number_pair(values["image_size"], "image_size"),
                    **{name: flag(values[name], name) for name in _FLAGS if name in values},
                }
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"not the config of a vision transformer ({error!r})") from error


def same_architecture(one: TransformerConfig, other: TransformerConfig) -> bool:
    """Return True if all is equal that fine-tuning leaves alone: not classes, channels, image size.

    Epsilon and activation do not count either: they cannot be read off a checkpoint. Nor does the
    pooling, with the place of the norm beside it: both come with a new head.
    """

    def bare(config: TransformerConfig) -> TransformerConfig:
        return replace(
            config,
            image_size=(config.patch_size, config.patch_size),
            in_channels=3,
            num_classes=0,
            distilled_head=False,
            head_norm=False,
            head_dist_norm=False,
            pooler_width=0,
            activation="gelu",
            norm_eps=1e-6,
            pool="token" if config.class_token else "avg",
            final_norm=True,
            fc_norm=False,
        )

    return bare(one) == bare(other)


def with_image_size(config: TransformerConfig, size: tuple[int, int]) -> TransformerConfig:
    """The config of the same network on images of another size.

    Raises:
        ConfigError: the size does not divide into patches, or is over a limit.
    """
    return replace(config, image_size=size)
