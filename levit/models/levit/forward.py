"""LeViT's dataflow, under any plan."""

from __future__ import annotations

import math
from typing import Any

from levit.models.layers import Mlp, activate, classify, layers_of
from levit.models.levit.config import LevitConfig
from levit.models.levit.layers import LevitBlock, LevitParams
from levit.models.model import Model
from levit.models.ops import Ops
from levit.models.pixels import normalize_pixels

__all__ = ["forward"]


def forward(ops: Ops, model: Model, x: Any) -> dict[str, Any]:
    """(B, C, H, W) float, or (B, H, W, C) uint8 pixels → outputs by name.

    Under ``plan.channels_first`` the stream is (B, C, h, w), otherwise (B, N, C). With
    ``plan.pool_early`` the token mean is taken between the last MLP's two Linears.
    """
    params: LevitParams = model.params
    plan = model.plan
    channels_first = plan.channels_first
    x = _stem(ops, model, x)
    if not channels_first:
        with ops.scope("tokens"):
            # First the channels, then the grid: where a backend has the convolutions' results
            # channels last, neither moves anything.
            x = ops.transpose(x, (0, 2, 3, 1))  # (B, h, w, C)
            x = ops.reshape(x, (0, math.prod(model.config.grids[0]), -1))  # (B, N, C)
    blocks = layers_of(params, LevitBlock)
    last = next(reversed(blocks), None)
    for path, block in blocks.items():
        with ops.scope(path):
            with ops.scope("attn"):
                attend = block.attn.apply_channels_first if channels_first else block.attn.apply
                y = attend(ops, x)
            x = y if block.attn.stride > 1 else ops.add(x, y)
            with ops.scope("mlp"):
                if plan.pool_early and path == last:
                    embedding = _pooled_residual(ops, block.mlp, x, channels_first=channels_first)
                    break  # out of the scopes too: the heads keep their names
                x = ops.add(x, block.mlp.apply(ops, x, channels_first=channels_first))
    else:
        with ops.scope("pool"):
            embedding = ops.mean(x, _token_axes(channels_first))  # (B, C)
    return _outputs(ops, model, x, embedding)


def _stem(ops: Ops, model: Model, x: Any) -> Any:
    """→ (B, C, h, w): stride-2 convolutions with the activation between, not after."""
    plan = model.plan
    if plan.pixels is not None:
        with ops.scope("pixels"):
            x = normalize_pixels(ops, x, plan.pixels, folded=plan.pixels_folded)
    for i, conv in enumerate(model.params.stem):
        with ops.scope(f"stem.{i}"):
            if i > 0:
                x = activate(ops, x, model.config.activation)
            x = conv.apply(ops, x)
    return x


def _token_axes(channels_first: bool) -> tuple[int, ...]:
    return (2, 3) if channels_first else (1,)


def _pooled_residual(ops: Ops, mlp: Mlp, x: Any, *, channels_first: bool) -> Any:
    """mean(x + down(h)) = mean(x) + down(mean(h)): the stream → (B, C)."""
    axes = _token_axes(channels_first)
    hidden = ops.mean(mlp.hidden(ops, x, channels_first=channels_first), axes)
    with ops.scope("down"):
        return ops.add(ops.mean(x, axes), mlp.down.apply(ops, hidden))


def _outputs(ops: Ops, model: Model, stream: Any, embedding: Any) -> dict[str, Any]:
    params: LevitParams = model.params
    wanted = set(model.plan.outputs)
    values = {"embedding": embedding}
    if "features" in wanted:
        with ops.scope("features"):
            values["features"] = _features(ops, model, stream)
    return values | classify(ops, wanted, params.head, params.head_dist, embedding)


def _features(ops: Ops, model: Model, stream: Any) -> Any:
    """(B, L, C), or (B, C, h, w) for the conv twins, as in timm."""
    config: LevitConfig = model.config
    if config.conv == model.plan.channels_first:
        return stream
    if config.conv:
        return ops.reshape(ops.transpose(stream, (0, 2, 1)), (0, 0, *config.grids[-1]))
    return ops.transpose(ops.reshape(stream, (0, 0, -1)), (0, 2, 1))
