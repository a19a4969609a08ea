"""The end of DeiT, ConViT and ViT behind their blocks: the last norm, pooling, heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from levit.export.lowering.builder import Builder
from levit.export.lowering.heads import heads_of, mean_bias
from levit.models.layers import Linear as LinearLayer
from levit.models.model import Model
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.layers import Head, TransformerParams

__all__ = ["lower_outputs"]


def lower_outputs(builder: Builder, model: Model, stream: int) -> None:
    """Every output that the plan asks for, and no more than they need.

    Args:
        stream: number of the buffer of what the last block has made.
    """
    params: TransformerParams = model.params
    wanted = set(model.plan.outputs)
    averages = model.config.pool == "avg"
    sources: dict[str, int] = {}
    x = stream
    if averages or "features" in wanted:  # otherwise only what is read is normalised
        x = builder.norm("norm", params.norm, x)
    if "features" in wanted:
        sources["features"] = x
    if wanted - {"features"}:
        x = _read(builder, model, x)
        if not averages and "features" not in wanted:
            x = builder.norm("norm", params.norm, x)
        x = builder.norm("fc_norm", params.fc_norm, x)
        sources |= _of_tokens(builder, model, x)
    builder.outputs(model, sources)


def _read(builder: Builder, model: Model, x: int) -> int:
    """The source of the heads: some tokens, or the mean of the patches."""
    config: TransformerConfig = model.config
    if config.pool == "avg":
        if model.plan.pool_early:
            return x
        x = builder.mean("pool", x, config.special_tokens)
    elif builder.rows(x) == config.tokens_read:
        return x
    else:
        x = builder.pick("read", x, config.tokens_read)
    builder.stage += 1
    return x


def _of_tokens(builder: Builder, model: Model, x: int) -> dict[str, int]:
    """Buffers of the outputs by name, from what the heads read."""
    params: TransformerParams = model.params
    wanted = set(model.plan.outputs)
    sources = {}
    if "embedding" in wanted:
        sources["embedding"] = x if builder.rows(x) == 1 else builder.mean("embedding", x)
    if params.pooler is not None and "pooled" in wanted:
        token = x if builder.rows(x) == 1 else builder.pick("pooler.read", x, 1)
        sources["pooled"] = builder.linear("pooler", params.pooler, token, activation="tanh")
    for name, (path, head) in heads_of(params.head, params.head_dist, _both).items():
        if name in wanted:
            first, count = (head.first, head.count) if isinstance(head, Head) else (0, 1)
            whole = (first, count) == (0, 1) and builder.rows(x) == 1
            read = x if whole else builder.pick(f"{path}.read", x, 1, first=first, together=count)
            sources[name] = builder.linear(path, head, read)
    return sources


def _both(head: LinearLayer, dist: LinearLayer) -> Head:
    """The mean of two heads on two tokens, which reads both side by side."""
    assert isinstance(head, Head)
    assert isinstance(dist, Head)
    assert (dist.first, dist.count) == (head.first + head.count, 1)
    weight = np.concatenate([head.weight, dist.weight], axis=1).astype(np.float64) / 2
    return replace(head, weight=weight, bias=mean_bias(head, dist), count=head.count + 1)
