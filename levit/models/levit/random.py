"""Random weights of a LeViT (`random_weights` says why these)."""

from __future__ import annotations

import numpy as np

from levit.models.layers import BatchNorm, Conv, Linear
from levit.models.levit.layers import Attention, LevitParams

__all__ = ["randomize"]

# Deviation of a residual branch's output against a stream of about 1: ten or twenty branches
# then change the stream without drowning what entered it.
_BRANCH = 0.15
# Gain of queries and keys: at 1, scores are so far apart that on some pictures softmax turns
# roundings into other choices of tokens, and float32 is wrong by 1e-5 to 1e-4.
_QUERY_KEY = 0.6


def randomize(params: LevitParams, rng: np.random.Generator) -> None:
    """Fill the arrays in place, all but the norms' statistics."""
    for conv in params.stem:
        _fill(conv, rng)
    for stage in params.stages:
        for block in (*filter(None, (stage.downsample,)), *stage.blocks):
            attn, mlp = block.attn, block.mlp
            for layer in (attn.q, attn.k):
                _fill(layer, rng, gain=_QUERY_KEY)
            for layer in (attn.v, mlp.up):
                _fill(layer, rng)
            _fill(attn.proj, rng, gain=1.0 if attn.stride > 1 else _BRANCH)
            _fill(mlp.down, rng, gain=_BRANCH)
            _fill_bias(attn, rng)
    for head in filter(None, (params.head, params.head_dist)):
        _fill(head, rng)
        assert head.bias is not None
        head.bias[...] = rng.normal(0, 0.1, head.bias.shape)


def _fill(layer: Conv | Linear, rng: np.random.Generator, gain: float = 1.0) -> None:
    weight = layer.weight
    fan_in = weight[0].size
    weight[...] = rng.standard_normal(weight.shape, np.float32) / np.float32(np.sqrt(fan_in))
    for norm in (layer.norm, layer.norm_before if isinstance(layer, Linear) else None):
        if isinstance(norm, BatchNorm):
            norm.weight[...] = gain * rng.uniform(0.7, 1.3, norm.weight.shape)
            norm.bias[...] = gain * rng.normal(0, 0.2, norm.bias.shape)


def _fill_bias(attn: Attention, rng: np.random.Generator) -> None:
    height, width = attn.grid
    rows, columns = np.divmod(np.arange(height * width), width)
    distance = np.hypot(rows, columns)
    values = attn.bias.values
    slope = rng.uniform(0.5, 2.0, (len(values), 1))
    values[...] = -slope * distance + rng.normal(0, 0.3, values.shape)
