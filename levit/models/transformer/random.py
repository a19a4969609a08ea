"""Random weights of a vision transformer (`random_weights` says why these)."""

from __future__ import annotations

import numpy as np

from levit.models.layers import LayerNorm, Linear
from levit.models.ops import Array
from levit.models.transformer.layers import GatedAttention, TransformerParams

__all__ = ["randomize"]

# Deviation of a residual branch's output against a stream of about 1: twenty-four branches then
# change the stream without drowning what entered it.
_BRANCH = 0.15
_QUERY_KEY = 0.6
# Tokens and positions beside patches of deviation 1.
_EMBEDDING = 0.3


def randomize(params: TransformerParams, rng: np.random.Generator) -> None:
    """Fill the arrays in place."""
    embed = params.embed
    _normal(embed.weight, rng, 1 / np.sqrt(embed.weight[0].size))
    if embed.bias is not None:
        _normal(embed.bias, rng, 0.1)
    for table in (embed.tokens, embed.positions, params.late_tokens):
        if table is not None:
            _normal(table, rng, _EMBEDDING)
    for block in params.blocks:
        attn, mlp = block.attn, block.mlp
        for norm in (block.norm1, block.norm2):
            _norm(norm, rng)
        for layer in (attn.q, attn.k):
            _linear(layer, rng, _QUERY_KEY)
        for layer in (attn.v, mlp.up):
            _linear(layer, rng)
        for layer in (attn.proj, mlp.down):
            _linear(layer, rng, _BRANCH)
        if isinstance(attn, GatedAttention):
            _positions(attn, rng)
        for scale in (block.scale1, block.scale2):
            if scale is not None:
                scale.gamma[...] = rng.uniform(0.5, 1.5, scale.gamma.shape)
    for last in (params.norm, params.fc_norm, params.norm_pre):
        if last is not None:
            _norm(last, rng)
    for head in (params.head, params.head_dist):
        if head is not None:
            _linear(head, rng)
    if params.pooler is not None:
        _linear(params.pooler, rng)


def _linear(layer: Linear, rng: np.random.Generator, gain: float = 1.0) -> None:
    _normal(layer.weight, rng, gain / np.sqrt(layer.weight.shape[1]))
    if layer.bias is not None:
        _normal(layer.bias, rng, 0.1 * gain)


def _norm(norm: LayerNorm, rng: np.random.Generator) -> None:
    assert norm.weight is not None
    assert norm.bias is not None
    norm.weight[...] = rng.uniform(0.7, 1.3, norm.weight.shape)
    _normal(norm.bias, rng, 0.2)


def _positions(attn: GatedAttention, rng: np.random.Generator) -> None:
    """Every head looks at an offset of its own, as ConViT begins."""
    position = attn.position
    centres = rng.uniform(-1.5, 1.5, (len(position.gate), 2))
    sharpness = rng.uniform(0.3, 1.5, (len(position.gate), 1))
    # -s·|Δ - c|² = s·(2c·Δ - |Δ|²) and a constant, which softmax ignores.
    position.weight[...] = sharpness * np.concatenate(
        [2 * centres, -np.ones_like(sharpness)], axis=1
    )
    _normal(position.bias, rng, 0.1)
    _normal(position.gate, rng, 1.5)


def _normal(array: Array, rng: np.random.Generator, deviation: float) -> None:
    array[...] = rng.standard_normal(array.shape, np.float32) * np.float32(deviation)
