"""The dataflow of a vision transformer, under any plan."""

from __future__ import annotations

import math
from typing import Any

from levit.models.layers import LayerNorm, classify
from levit.models.model import Model
from levit.models.ops import Ops
from levit.models.pixels import normalize_pixels
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.layers import TransformerParams, with_tokens

__all__ = ["forward"]


def forward(ops: Ops, model: Model, x: Any) -> dict[str, Any]:
    """(B, C, H, W) float, or (B, H, W, C) uint8 pixels → outputs by name.

    Under ``plan.read_tokens_only`` the last block makes only the tokens that are read after it;
    under ``plan.pool_early`` it makes their average (B, C).
    """
    params: TransformerParams = model.params
    config: TransformerConfig = model.config
    if model.plan.pixels is not None:
        with ops.scope("pixels"):
            x = normalize_pixels(ops, x, model.plan.pixels, folded=model.plan.pixels_folded)
    with ops.scope("embed"):
        x = params.embed.apply(ops, x)
    if params.norm_pre is not None:
        with ops.scope("norm_pre"):
            x = params.norm_pre.apply(ops, x)
    last = len(params.blocks) - 1
    for i, block in enumerate(params.blocks):
        if i == config.local_depth and params.late_tokens is not None:
            with ops.scope("tokens"):
                x = with_tokens(ops, x, params.late_tokens, math.prod(config.grid))
        only_read = model.plan.read_tokens_only and i == last
        with ops.scope(f"blocks.{i}"):
            if model.plan.pool_early and i == last:
                x = block.apply_averaged(ops, x, lambda tokens: _average(ops, config, tokens))
            else:
                x = block.apply(ops, x, config.tokens_read if only_read else None)
    return _outputs(ops, model, x)


def _outputs(ops: Ops, model: Model, x: Any) -> dict[str, Any]:
    params: TransformerParams = model.params
    config: TransformerConfig = model.config
    wanted = set(model.plan.outputs)
    averages = config.pool == "avg"
    values = {}
    if averages or "features" in wanted:  # otherwise only what is read is normalised
        x = _normed(ops, "norm", params.norm, x)
    if "features" in wanted:
        values["features"] = x  # (B, T + N, C)
    if averages and not model.plan.pool_early:
        with ops.scope("pool"):
            x = _average(ops, config, x)  # (B, C)
    elif not averages:
        with ops.scope("read"):
            x = ops.narrow(x, 1, 0, config.tokens_read)  # (B, R, C)
        if "features" not in wanted:
            x = _normed(ops, "norm", params.norm, x)
    x = _normed(ops, "fc_norm", params.fc_norm, x)
    if "embedding" in wanted:
        values["embedding"] = x if averages else _embedding(ops, config, x)
    if params.pooler is not None and "pooled" in wanted:
        with ops.scope("pooler"):
            token = ops.reshape(ops.narrow(x, 1, 0, 1), (0, config.width))
            values["pooled"] = ops.tanh(params.pooler.apply(ops, token))
    return values | classify(ops, wanted, params.head, params.head_dist, x)


def _normed(ops: Ops, name: str, norm: LayerNorm | None, x: Any) -> Any:
    if norm is None:
        return x
    with ops.scope(name):
        return norm.apply(ops, x)


def _average(ops: Ops, config: TransformerConfig, x: Any) -> Any:
    """(B, T + N, …) → (B, …), the mean over the patches."""
    first = config.special_tokens
    if first:
        x = ops.narrow(x, 1, first, math.prod(config.grid))
    return ops.mean(x, (1,))


def _embedding(ops: Ops, config: TransformerConfig, x: Any) -> Any:
    """(B, R, C) → (B, C). One token's mean is itself."""
    with ops.scope("pool"):
        return ops.reshape(x, (0, -1)) if config.tokens_read == 1 else ops.mean(x, (1,))
