"""Named tensors → the layers of a vision transformer."""

from __future__ import annotations

import math

import numpy as np

from levit.models.layers import BatchNorm, LayerNorm, Linear, Mlp
from levit.models.model import Weights
from levit.models.ops import Array
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.keymap import Part, TransformerKeymap
from levit.models.transformer.layers import (
    Attention,
    Embedding,
    GatedAttention,
    Head,
    LayerScale,
    PositionAttention,
    TransformerBlock,
    TransformerParams,
)

__all__ = ["build"]


def build(
    config: TransformerConfig, keymap: TransformerKeymap, weights: Weights
) -> TransformerParams:
    """Assemble the layers from tensors named as `keymap` says."""
    make = _Builder(config, keymap, weights)
    prefix, width = keymap.prefix, config.width
    late = config.local_depth > 0
    front = make.front()
    patches = math.prod(config.grid)
    with_positions = 0 if late or not config.token_positions else config.special_tokens
    embed = make.embedding(
        prefix + keymap.patch,
        tokens=None if late else front,
        positions=make.positions(prefix + keymap.positions, patches + with_positions)
        if config.positions
        else None,
    )
    blocks = tuple(make.block(i) for i in range(config.depth))
    norm = make.norm(prefix + keymap.norm) if config.final_norm and not config.fc_norm else None
    heads = [make.head(which) for which in range(config.classifier_heads)]
    pooler = None
    if config.pooler_width:
        pooler = make.linear(prefix + keymap.pooler, config.pooler_width, width)
    return TransformerParams(
        embed=embed,
        blocks=blocks,
        norm=norm,
        late_tokens=front if late else None,
        head=heads[0] if heads else None,
        head_dist=heads[1] if len(heads) > 1 else None,
        pooler=pooler,
        norm_pre=make.norm(prefix + keymap.norm_pre) if config.pre_norm else None,
        fc_norm=make.norm(prefix + keymap.fc_norm) if config.fc_norm else None,
    )


class _Builder:
    """Reads layers out of named tensors."""

    def __init__(
        self, config: TransformerConfig, keymap: TransformerKeymap, weights: Weights
    ) -> None:
        self._config = config
        self._keymap = keymap
        self._weights = weights

    def front(self) -> Array | None:
        """(T, C): the tokens in front of the patches."""
        config, names = self._config, self._keymap
        counts = {
            names.class_token: int(config.class_token),
            names.distillation_token: int(config.distilled),
            names.registers: config.registers,
        }
        tables = [self._tokens(name, count) for name, count in counts.items() if count]
        return np.concatenate(tables) if len(tables) > 1 else next(iter(tables), None)

    def _tokens(self, name: str, count: int) -> Array:
        shape = (1, count, self._config.width)
        table: Array = self._weights.tensor(self._keymap.prefix + name, shape)[0]
        return table

    def positions(self, name: str, count: int) -> Array:
        table: Array = self._weights.tensor(name, (1, count, self._config.width))[0]
        return table

    def embedding(self, layer: str, tokens: Array | None, positions: Array | None) -> Embedding:
        config = self._config
        side, width = config.patch_size, config.width
        return Embedding(
            self._weights.tensor(f"{layer}.weight", (width, config.in_channels, side, side)),
            None if config.pre_norm else self._weights.tensor(f"{layer}.bias", (width,)),
            stride=side,
            padding=0,
            grid=config.grid,
            tokens=tokens,
            positions=positions,
        )

    def linear(self, layer: str, out_features: int, in_features: int, bias: bool = True) -> Linear:
        return Linear(
            self._weights.tensor(f"{layer}.weight", (out_features, in_features)),
            self._weights.tensor(f"{layer}.bias", (out_features,)) if bias else None,
        )

    def head(self, which: int) -> Linear:
        config, tensor = self._config, self._weights.tensor
        has_norm = config.head_dist_norm if which else config.head_norm
        names = self._keymap.head_names(which, norm=has_norm)
        norm = None
        if has_norm:
            weight, bias, mean, var = (
                tensor(names.norm[part], (config.width,))
                for part in ("weight", "bias", "mean", "var")
            )
            norm = BatchNorm(weight, bias, mean, var)
        weight = tensor(names.weight, (config.num_classes, config.width))
        bias = tensor(names.bias, (config.num_classes,))
        if config.pool == "avg":
            return Linear(weight, bias, norm_before=norm)
        return Head(weight, bias, norm_before=norm, first=which)

    def norm(self, layer: str) -> LayerNorm:
        shape = (self._config.width,)
        return LayerNorm(
            self._weights.tensor(f"{layer}.weight", shape),
            self._weights.tensor(f"{layer}.bias", shape),
            self._config.norm_eps,
        )

    def block(self, number: int) -> TransformerBlock:
        config, names = self._config, self._keymap
        at = names.block_name(number)
        return TransformerBlock(
            norm1=self.norm(at + names.norm1),
            attn=self._attention(at, gated=number < config.local_depth),
            norm2=self.norm(at + names.norm2),
            mlp=Mlp(
                up=self.linear(at + names.up, config.mlp_width, config.width, config.proj_bias),
                down=self.linear(at + names.down, config.width, config.mlp_width, config.proj_bias),
                activation=config.activation,
            ),
            scale1=self._scale(at, 0),
            scale2=self._scale(at, 1),
        )

    def _scale(self, at: str, which: int) -> LayerScale | None:
        if not self._config.layer_scale:
            return None
        name = at + self._keymap.scales[which]
        return LayerScale(self._weights.tensor(name, (self._config.width,)))

    def _attention(self, at: str, *, gated: bool) -> Attention:
        config, names = self._config, self._keymap
        q, k, v = self._parts(at, names.gated if gated else (names.q, names.k, names.v))
        proj = self.linear(at + names.proj, config.width, config.width, config.proj_bias)
        scale = (config.width // config.heads) ** -0.5
        if not gated:
            return Attention(q=q, k=k, v=v, proj=proj, heads=config.heads, scale=scale)
        position = PositionAttention(
            weight=self._weights.tensor(f"{at}{names.position}.weight", (config.heads, 3)),
            bias=self._weights.tensor(f"{at}{names.position}.bias", (config.heads,)),
            gate=self._weights.tensor(at + names.gate, (config.heads,)),
            grid=config.grid,
        )
        return GatedAttention(
            q=q, k=k, v=v, proj=proj, heads=config.heads, scale=scale, position=position
        )

    def _parts(self, at: str, parts: tuple[Part, ...]) -> list[Linear]:
        """Queries, keys and values; those that lie in one tensor are read once."""
        width = self._config.width
        read = {
            (layer, count): self.linear(
                at + layer, count * width, width, bias=self._config.qkv_bias
            )
            for layer, _, count in dict.fromkeys((layer, 0, count) for layer, _, count in parts)
        }
        return [_rows(read[layer, count], part * width, width) for layer, part, count in parts]


def _rows(linear: Linear, start: int, count: int) -> Linear:
    end = start + count
    bias = None if linear.bias is None else linear.bias[start:end]
    return Linear(linear.weight[start:end], bias)
