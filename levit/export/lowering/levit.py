"""LeViT's tree of layers → a program."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from levit.errors import ExportError
from levit.export.lowering.builder import Builder, Lowered
from levit.export.lowering.heads import heads_of, mean_bias
from levit.export.lowering.picture import input_of
from levit.models.layers import Conv as ConvLayer
from levit.models.layers import Linear as LinearLayer
from levit.models.levit.layers import Attention as AttentionLayer
from levit.models.levit.layers import LevitBlock, LevitParams
from levit.models.model import Model
from levit.native.program import Attention, Conv, Subsample, View, padded

__all__ = ["lower_levit"]

_LOG2_E: Final = math.log2(math.e)


def lower_levit(model: Model) -> Lowered:
    """Walk the network in the order in which it is computed.

    A stage of the program ends where a downsampling block has projected: the tokens of the
    larger grid stay within it, and only the smaller ones are carried on.

    Raises:
        ExportError: the stem is none of 3×3 convolutions with stride 2.
    """
    builder = Builder()
    stream = _stem(builder, model)
    blocks = list(_blocks(model.params))
    pooled = None
    for path, block in blocks:
        stream = _attend(builder, f"{path}.attn", block.attn, stream)
        up = builder.linear(f"{path}.mlp.up", block.mlp.up, stream, activation=block.mlp.activation)
        if model.plan.pool_early and path == blocks[-1][0]:
            hidden = builder.mean(f"{path}.mlp.pool", up)
            pooled = builder.mean("pool", stream)
            builder.linear(f"{path}.mlp.down", block.mlp.down, hidden, into=pooled)
        else:
            builder.linear(f"{path}.mlp.down", block.mlp.down, up, into=stream)
    _outputs(builder, model, stream, pooled)
    return builder.finish(input_of(model))


def _stem(builder: Builder, model: Model) -> int:
    """Convolutions with the activation between, not after; the number of the tokens' buffer."""
    height, width = model.config.image_size
    source = None
    last = len(model.params.stem) - 1
    for i, layer in enumerate(model.params.stem):
        _require_halving(layer, f"stem.{i}", height, width)
        height, width = height // 2, width // 2
        layer = layer.fold()
        channels = len(layer.weight)
        target = (
            builder.grid(height, width, channels)
            if i < last
            else builder.tokens(height * width, channels)
        )
        bias = None if layer.bias is None else builder.array(f"stem.{i}.bias", layer.bias)
        builder.add(
            Conv(
                name=f"stem.{i}",
                stage=builder.stage,
                source=source,
                target=target,
                weight=builder.array(f"stem.{i}.weight", layer.weight),
                bias=bias,
                activation=model.config.activation if i < last else None,
            )
        )
        source = target
    assert source is not None, "a LeViT has a stem"
    return source


def _require_halving(layer: ConvLayer, name: str, height: int, width: int) -> None:
    """Raise `ExportError` unless a convolution halves an even grid, as the kernels do."""
    if layer.weight.shape[2:] != (3, 3) or (layer.stride, layer.padding) != (2, 1):
        raise ExportError(
            f"target 'native' has 3x3 convolutions with stride 2 and padding 1, and {name} is "
            f"another: use --target onnx or openvino"
        )
    if height % 2 or width % 2:
        raise ExportError(
            f"target 'native' halves even grids, and {name} reads {height}x{width}: use another "
            f"--image-size, or --target onnx or openvino"
        )


def _blocks(params: LevitParams) -> Iterator[tuple[str, LevitBlock]]:
    """Every block by its path, in the order in which they are computed."""
    for i, stage in enumerate(params.stages):
        if stage.downsample is not None:
            yield f"stages.{i}.downsample", stage.downsample
        for j, block in enumerate(stage.blocks):
            yield f"stages.{i}.blocks.{j}", block


def _attend(builder: Builder, path: str, attn: AttentionLayer, stream: int) -> int:
    """An attention with its projection; the number of the stream's buffer after it."""
    # softmax(s) = softmax₂(s · log₂e), and s is q·k and the table's entry.
    factor = _LOG2_E * (1 if attn.scale is None else attn.scale)
    q = builder.part(f"{path}.q", attn.q, attn.heads, factor)
    k = builder.part(f"{path}.k", attn.k, attn.heads)
    v = builder.part(f"{path}.v", attn.v, attn.heads)
    keys = attn.heads * padded(k.width)
    if attn.stride == 1:
        together = builder.project(f"{path}.qkv", stream, attn.heads, (q, k, v))
        queries = View(buffer=together, column=0, width=q.width)
        first = attn.heads * padded(q.width)
    else:
        together = builder.project(f"{path}.kv", stream, attn.heads, (k, v))
        rows = builder.tokens(math.prod(attn.query_grid), attn.q.weight.shape[1])
        builder.add(
            Subsample(
                name=f"{path}.subsample",
                stage=builder.stage,
                source=stream,
                target=rows,
                grid=attn.grid,
                step=attn.stride,
            )
        )
        alone = builder.project(f"{path}.q", rows, attn.heads, (q,))
        queries = View(buffer=alone, column=0, width=q.width)
        first = 0
    target = builder.tokens(builder.rows(queries.buffer), attn.heads * v.width)
    table = attn.bias.fold().values.astype(np.float64) * _LOG2_E
    builder.add(
        Attention(
            name=path,
            stage=builder.stage,
            queries=queries,
            keys=View(buffer=together, column=first, width=k.width),
            values=View(buffer=together, column=first + keys, width=v.width),
            target=target,
            heads=attn.heads,
            table=builder.array(f"{path}.bias", table),
            activation=attn.activation,
        )
    )
    if attn.stride == 1:
        return builder.linear(f"{path}.proj", attn.proj, target, into=stream)
    projected = builder.linear(f"{path}.proj", attn.proj, target)
    builder.stage += 1
    return projected


def _outputs(builder: Builder, model: Model, stream: int, pooled: int | None) -> None:
    """Heads, as far as they are wanted, and every output in the plan's order."""
    params: LevitParams = model.params
    wanted = model.plan.outputs
    sources = {"features": stream}
    if set(wanted) - {"features"}:
        embedding = builder.mean("pool", stream) if pooled is None else pooled
        sources["embedding"] = embedding
        for name, (path, head) in heads_of(params.head, params.head_dist, _both).items():
            if name in wanted:
                sources[name] = builder.linear(path, head, embedding)
    builder.outputs(model, sources)


def _both(head: LinearLayer, dist: LinearLayer) -> LinearLayer:
    """The mean of two heads that read the same."""
    weight = (head.weight.astype(np.float64) + dist.weight) / 2
    return replace(head, weight=weight, bias=mean_bias(head, dist))
