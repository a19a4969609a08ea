"""The tree of layers of DeiT, ConViT and ViT → a program."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from levit.errors import ExportError
from levit.export.lowering.builder import Builder, Lowered
from levit.export.lowering.picture import input_of
from levit.export.lowering.transformer_heads import lower_outputs
from levit.export.passes.shared import scaled_rows
from levit.models.layers import Linear as LinearLayer
from levit.models.model import Model
from levit.models.ops import Array
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.layers import Attention as AttentionLayer
from levit.models.transformer.layers import (
    Embedding,
    GatedAttention,
    LayerScale,
    TransformerBlock,
    TransformerParams,
)
from levit.native.program import Attention, Patches, View, padded

__all__ = ["lower_transformer"]

_LOG2_E: Final = math.log2(math.e)


def lower_transformer(model: Model) -> Lowered:
    """Walk the network in the order in which it is computed.

    A second stage of the program begins where few tokens are left: those that the heads read, or
    their mean. There several images make a tile, where one alone fills it.

    Raises:
        ExportError: the patches overlap, or leave pixels out.
    """
    builder = Builder()
    config: TransformerConfig = model.config
    params: TransformerParams = model.params
    stream = builder.norm("norm_pre", params.norm_pre, _embed(builder, model))
    last = len(params.blocks) - 1
    for i, block in enumerate(params.blocks):
        if i == config.local_depth and params.late_tokens is not None:
            stream = builder.stack("tokens", params.late_tokens, stream)
        path, is_last = f"blocks.{i}", i == last
        read = config.tokens_read if is_last and model.plan.read_tokens_only else None
        stream = _attend(builder, path, block, stream, read)
        first = config.special_tokens if is_last and model.plan.pool_early else None
        stream = _mlp(builder, path, block, stream, first)
    lower_outputs(builder, model, stream)
    return builder.finish(input_of(model))


def _embed(builder: Builder, model: Model) -> int:
    """Patches as tokens, behind those that stand for none; the number of the stream's buffer."""
    embed: Embedding = model.params.embed.fold()
    side = embed.weight.shape[2]
    if embed.weight.shape[3] != side or (embed.stride, embed.padding) != (side, 0):
        raise ExportError(
            "target 'native' cuts images into squares side by side, and embed is another "
            "convolution: use --target onnx or openvino"
        )
    table = _table(embed)
    count = math.prod(embed.grid)
    first = 0 if table is None else len(table) - count
    patches = builder.tokens(first + count, math.prod(embed.weight.shape[1:]))
    builder.add(
        Patches(name="embed.patches", stage=builder.stage, target=patches, size=side, first=first)
    )
    # In the order in which a square's values lie in the input.
    weight = embed.weight if model.plan.pixels is None else embed.weight.transpose(0, 2, 3, 1)
    weight = weight.reshape(len(weight), -1)
    if table is None:
        return builder.linear("embed", LinearLayer(weight, embed.bias), patches)
    stream = builder.stack("embed.table", table)
    return builder.linear("embed", LinearLayer(weight), patches, into=stream)


def _table(embed: Embedding) -> Array | None:
    """(T + N, C) of tokens, positions and the patches' bias; None where there is none of those."""
    if embed.table is not None:
        return embed.table
    if embed.tokens is None and embed.positions is None:
        return None
    count = math.prod(embed.grid)
    first = 0 if embed.tokens is None else len(embed.tokens)
    table = np.zeros((first + count, len(embed.weight)))
    if embed.positions is not None:
        table[-len(embed.positions) :] += embed.positions
    if embed.tokens is not None:
        table[:first] += embed.tokens
    if embed.bias is not None:
        table[first:] += embed.bias
    return table


def _attend(
    builder: Builder, path: str, block: TransformerBlock, stream: int, read: int | None
) -> int:
    """The stream behind an attention, of the first `read` tokens only where that is a number."""
    attn = block.attn
    normed = builder.norm(f"{path}.norm1", block.norm1, stream)
    # softmax(s) = softmax₂(s · log₂e).
    factor = _LOG2_E * (1 if attn.scale is None else attn.scale)
    q = builder.part(f"{path}.attn.q", attn.q, attn.heads, factor)
    k = builder.part(f"{path}.attn.k", attn.k, attn.heads)
    v = builder.part(f"{path}.attn.v", attn.v, attn.heads)
    if read is None:
        together = builder.project(f"{path}.attn.qkv", normed, attn.heads, (q, k, v))
        queries = View(buffer=together, column=0, width=q.width)
        first = attn.heads * padded(q.width)
    else:
        stream = builder.pick(f"{path}.read", stream, read)
        wanted = builder.pick(f"{path}.read_normed", normed, read)
        together = builder.project(f"{path}.attn.kv", normed, attn.heads, (k, v))
        alone = builder.project(f"{path}.attn.q", wanted, attn.heads, (q,))
        queries, first = View(buffer=alone, column=0, width=q.width), 0
    target = builder.tokens(builder.rows(stream), attn.heads * v.width)
    positions, rest = _positions(builder, f"{path}.attn.position", attn)
    values = first + attn.heads * padded(k.width)
    builder.add(
        Attention(
            name=f"{path}.attn",
            stage=builder.stage,
            queries=queries,
            keys=View(buffer=together, column=first, width=k.width),
            values=View(buffer=together, column=values, width=v.width),
            target=target,
            heads=attn.heads,
            table=None,
            positions=positions,
            rest=rest,
        )
    )
    if read is not None:
        builder.stage += 1
    proj = _scaled(attn.proj, block.scale1)
    return builder.linear(f"{path}.attn.proj", proj, target, into=stream)


def _positions(builder: Builder, path: str, attn: AttentionLayer) -> tuple[str | None, str | None]:
    """Names of a gated attention's table of weights, and of the shares that it leaves."""
    if not isinstance(attn, GatedAttention):
        return None, None
    position = attn.position.fold()
    assert position.table is not None, "it has been folded"
    table = builder.array(f"{path}.table", position.table)
    if position.rest is None:
        return table, None
    return table, builder.array(f"{path}.rest", position.rest[:, 0, 0])


def _mlp(
    builder: Builder, path: str, block: TransformerBlock, stream: int, first: int | None
) -> int:
    """The stream behind an MLP; its mean over tokens from the `first` where that is a number."""
    mlp = block.mlp
    normed = builder.norm(f"{path}.norm2", block.norm2, stream)
    hidden = builder.linear(f"{path}.mlp.up", mlp.up, normed, activation=mlp.activation)
    if first is not None:
        hidden = builder.mean(f"{path}.mlp.pool", hidden, first)
        stream = builder.mean("pool", stream, first)
        builder.stage += 1
    down = _scaled(mlp.down, block.scale2)
    return builder.linear(f"{path}.mlp.down", down, hidden, into=stream)


def _scaled(layer: LinearLayer, scale: LayerScale | None) -> LinearLayer:
    """A layer with the layer scale behind it."""
    return layer if scale is None else scaled_rows(layer.fold(), scale.gamma)
