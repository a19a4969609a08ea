"""The dataflow of a vision transformer, under any plan."""

from __future__ import annotations

import math
from typing import Any

from levit.models.layers import classify
from levit.models.model import Model
from levit.models.ops import Ops
from levit.models.pixels import normalize_pixels
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.layers import TransformerParams, with_tokens

__all__ = ["forward"]


def forward(ops: Ops, model: Model, x: Any) -> dict[str, Any]:
    """(B, C, H, W) float, or (B, H, W, C) uint8 pixels → outputs by name.

    Under ``plan.read_tokens_only`` the last block makes only the tokens that are read after it.
    """
    params: TransformerParams = model.params
    config: TransformerConfig = model.config
    if model.plan.pixels is not None:
        with ops.scope("pixels"):
            x = normalize_pixels(ops, x, model.plan.pixels, folded=model.plan.pixels_folded)
    with ops.scope("embed"):
        x = params.embed.apply(ops, x)
    last = len(params.blocks) - 1
    for i, block in enumerate(params.blocks):
        if i == config.local_depth and params.late_tokens is not None:
            with ops.scope("tokens"):
                x = with_tokens(ops, x, params.late_tokens, math.prod(config.grid))
        only_read = model.plan.read_tokens_only and i == last
        with ops.scope(f"blocks.{i}"):
            x = block.apply(ops, x, config.tokens_read if only_read else None)
    return _outputs(ops, model, x)


def _outputs(ops: Ops, model: Model, x: Any) -> dict[str, Any]:
    params: TransformerParams = model.params
    config: TransformerConfig = model.config
    wanted = set(model.plan.outputs)
    values = {}
    if "features" in wanted:
        with ops.scope("norm"):
            values["features"] = x = params.norm.apply(ops, x)  # (B, T + N, C)
    with ops.scope("read"):
        x = ops.narrow(x, 1, 0, config.tokens_read)  # (B, R, C)
    if "features" not in wanted:
        with ops.scope("norm"):
            x = params.norm.apply(ops, x)
    if "embedding" in wanted:
        with ops.scope("pool"):
            # One token's mean is itself.
            one = config.tokens_read == 1
            values["embedding"] = ops.reshape(x, (0, -1)) if one else ops.mean(x, (1,))
    if params.pooler is not None and "pooled" in wanted:
        with ops.scope("pooler"):
            token = ops.reshape(ops.narrow(x, 1, 0, 1), (0, config.width))
            values["pooled"] = ops.tanh(params.pooler.apply(ops, token))
    return values | classify(ops, wanted, params.head, params.head_dist, x)
