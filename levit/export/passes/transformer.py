"""Passes of vision transformers of one width: DeiT, ConViT, ViT."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from levit.export.passes.shared import bare, behind, has_affine, scaled_rows, with_params
from levit.models.layers import LayerNorm, Linear, layers_of, transform
from levit.models.model import Model
from levit.models.transformer.layers import (
    Attention,
    Embedding,
    GatedAttention,
    PositionAttention,
    TransformerBlock,
    TransformerParams,
)

__all__ = [
    "average_before_last_linear",
    "fold_gate",
    "fold_layer_scale",
    "fold_layernorm_affine",
    "fold_position_attention",
    "fold_tokens_and_positions",
    "fold_value_bias",
    "keep_only_read_tokens",
]

_MOST_OPEN: Final = 10 * math.log(2)


def fold_layer_scale(model: Model) -> tuple[Model, int]:
    """Move a layer scale into the Linear before it: attention's projection, the MLP's second.

    ``γ·(Wx + b) = (γ·W)x + γ·b``, row by row. Fires where both Linears of a block are plain.
    """

    def fold(_: str, block: TransformerBlock) -> TransformerBlock:
        one, other, proj, down = block.scale1, block.scale2, block.attn.proj, block.mlp.down
        if one is None or other is None or not (proj.is_plain and down.is_plain):
            return block
        return replace(
            block,
            attn=replace(block.attn, proj=scaled_rows(proj, one.gamma)),
            mlp=replace(block.mlp, down=scaled_rows(down, other.gamma)),
            scale1=None,
            scale2=None,
        )

    params, count = transform(model.params, TransformerBlock, fold)
    return with_params(model, params, count)


def fold_layernorm_affine(model: Model) -> tuple[Model, int]:
    """Move a LayerNorm's scale and shift into the Linears that read it.

    ``W(γ·n + β) + b = (W·γ)n + (Wβ + b)``. Into *all* of them: queries, keys and values behind the
    first norm of a block, the MLP behind the second, every head behind the last. The last one only
    where nothing else reads its result: not features, embedding or pooled. A mean over tokens in
    between changes nothing: ``mean(γ·n + β) = γ·mean(n) + β``. A norm before the blocks stays,
    because the residuals read it. Layers without biases (ConViT's queries, keys and values) get
    some: that of the keys is dropped and that of the values moved by the passes after this one.
    """

    def in_block(_: str, block: TransformerBlock) -> TransformerBlock:
        attn, up = block.attn, block.mlp.up
        readers = (attn.q, attn.k, attn.v, up)
        norms_fold = has_affine(block.norm1, block.norm2)
        if not norms_fold or not all(reader.is_plain for reader in readers):
            return block
        q, k, v = (behind(block.norm1, layer) for layer in readers[:3])
        return replace(
            block,
            norm1=bare(block.norm1),
            attn=replace(attn, q=q, k=k, v=v),
            norm2=bare(block.norm2),
            mlp=replace(block.mlp, up=behind(block.norm2, up)),
        )

    params, count = transform(model.params, TransformerBlock, in_block)
    if isinstance(params, TransformerParams):
        params, heads = _fold_last(params, set(model.plan.outputs))
        count += heads
    return with_params(model, params, count)


def _fold_last(params: TransformerParams, outputs: set[str]) -> tuple[TransformerParams, int]:
    """Fold the norm that the heads read, before the pooling or behind it."""
    if params.fc_norm is not None:
        last, others = params.fc_norm, {"embedding", "pooled"}  # it makes no features
    elif params.norm is not None:
        last, others = params.norm, {"features", "embedding", "pooled"}
    else:
        return params, 0
    if params.head is None or others & outputs or not has_affine(last):
        return params, 0
    head, dist = params.head, params.head_dist
    params = replace(
        params,
        head=behind(_side_by_side(last, head), head),
        head_dist=None if dist is None else behind(_side_by_side(last, dist), dist),
    )
    if params.fc_norm is not None:
        return replace(params, fc_norm=bare(last)), 1
    return replace(params, norm=bare(last)), 1


def _side_by_side(norm: LayerNorm, head: Linear) -> LayerNorm:
    """The norm of as many tokens as a head reads side by side."""
    assert norm.weight is not None
    assert norm.bias is not None
    count = head.weight.shape[1] // len(norm.weight)
    return LayerNorm(np.tile(norm.weight, count), np.tile(norm.bias, count), norm.eps)


def fold_value_bias(model: Model) -> tuple[Model, int]:
    """Move the values' bias through the attention, into the projection behind it.

    The weights of a query sum to one, so ``Σ a(v + b) = Σ av + b`` and ``P(y + b) + c = Py + (Pb +
    c)``; those of a gated attention too. Not in LeViT, where an activation stands between.
    """

    def fold(_: str, attention: Attention) -> Attention:
        v, proj = attention.v, attention.proj
        if v.bias is None or not (v.is_plain and proj.is_plain):
            return attention
        if isinstance(attention, GatedAttention) and attention.position.is_open:
            return attention  # whose rows sum to more than one
        bias = proj.weight.astype(np.float64) @ v.bias
        bias = bias if proj.bias is None else bias + proj.bias
        return replace(attention, v=replace(v, bias=None), proj=replace(proj, bias=bias))

    params, count = transform(model.params, Attention, fold)
    return with_params(model, params, count)


def keep_only_read_tokens(model: Model) -> tuple[Model, int]:
    """Restrict the last block's queries, projection and MLP to the tokens that are read after it.

    Each of these is done token by token, so that those of the others are thrown away; keys and
    values are still of all. Not when the tokens themselves are an output, nor where the head reads
    the mean of all patches.
    """
    blocks = [*layers_of(model.params, TransformerBlock).values()]
    if not blocks or model.plan.read_tokens_only or "features" in model.plan.outputs:
        return model, 0
    # The last block's table belongs to all queries.
    if isinstance(blocks[-1].attn, GatedAttention) or model.config.pool == "avg":
        return model, 0
    return model.with_plan(read_tokens_only=True), 1


def average_before_last_linear(model: Model) -> tuple[Model, int]:
    """Average the patches before the last MLP's second Linear, and the residual beside it.

    ``mean(x + Wh + b) = mean(x) + W·mean(h) + b``: the product runs on one token instead of all.
    Fires where the head reads the mean with no norm before it, and the tokens are no output.
    """
    blocks = [*layers_of(model.params, TransformerBlock).values()]
    if not blocks or model.config.pool != "avg" or model.plan.pool_early:
        return model, 0
    if model.params.norm is not None or "features" in model.plan.outputs:
        return model, 0
    if not blocks[-1].mlp.down.is_plain:
        return model, 0
    return model.with_plan(pool_early=True), 1


def fold_position_attention(model: Model) -> tuple[Model, int]:
    """Compute the positional softmax of a gated attention once: a static table.

    ``((1 - g)·A + g·P) / Σ`` with ``g = σ(gate)``: rows of A and P sum to one, and so does what is
    divided by its sum. The table is ``g·P``; ``1 - g`` is σ of the opposite, which keeps its digits
    where g is close to 1, and nothing is divided by it.
    """
    params, count = transform(model.params, PositionAttention, lambda _, position: position.fold())
    return with_params(model, params, count)


def fold_gate(model: Model) -> tuple[Model, int]:
    """Move the share that a gate leaves to the content from the attention into the values.

    ``((1 - g)·A + g·P)v = (A + g/(1 - g)·P)((1 - g)v)``, and of ``g = σ(γ)`` the quotient is
    ``e^γ`` and ``1 - g`` is ``σ(-γ)``: nothing is divided. It saves a product for every pair of
    tokens.
    Fires where the table is static, the values have no bias left, and every ``e^γ`` is at most
    2^10, so that weights, whose rows then sum to ``1 + e^γ``, stay in every type's range.
    """

    def fold(_: str, attention: GatedAttention) -> GatedAttention:
        position, v = attention.position, attention.v
        if position.rest is None or v.bias is not None or not v.is_plain:
            return attention
        if position.gate.max() > _MOST_OPEN:
            return attention
        rows = np.repeat(position.rest[:, 0, 0], len(v.weight) // attention.heads)
        weight = v.weight.astype(np.float64) * rows[:, None]
        return replace(attention, v=replace(v, weight=weight), position=position.ungated())

    params, count = transform(model.params, GatedAttention, fold)
    return with_params(model, params, count)


def fold_tokens_and_positions(model: Model) -> tuple[Model, int]:
    """Add tokens, position embeddings and the patches' bias into one static table.

    Patches are padded with a zero for each token, and the table is added to all. Sums, in another
    order. Position embeddings may be of the patches alone.
    """

    def fold(_: str, embedding: Embedding) -> Embedding:
        tokens, positions = embedding.tokens, embedding.positions
        if embedding.table is not None or not embedding.is_plain:
            return embedding
        if positions is None:  # how many patches there are, only they say
            return embedding
        table = positions.astype(np.float64).copy()
        first = 0 if tokens is None else len(tokens)
        if tokens is not None and len(table) == math.prod(embedding.grid):
            table = np.concatenate([tokens, table])
        elif tokens is not None:
            table[:first] += tokens
        if embedding.bias is not None:
            table[first:] += embedding.bias
        return replace(embedding, bias=None, tokens=None, positions=None, table=table)

    params, count = transform(model.params, Embedding, fold)
    return with_params(model, params, count)
