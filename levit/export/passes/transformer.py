"""Passes of vision transformers of one width: DeiT, ConViT, ViT."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from levit.export.passes.shared import bare, behind, has_affine, with_params
from levit.models.layers import LayerNorm, layers_of, transform
from levit.models.model import Model
from levit.models.transformer.layers import (
    Attention,
    Embedding,
    GatedAttention,
    Head,
    PositionAttention,
    TransformerBlock,
)

__all__ = [
    "fold_gate",
    "fold_layernorm_affine",
    "fold_position_attention",
    "fold_tokens_and_positions",
    "fold_value_bias",
    "keep_only_read_tokens",
]

_MOST_OPEN: Final = 10 * math.log(2)


def fold_layernorm_affine(model: Model) -> tuple[Model, int]:
    """Move a LayerNorm's scale and shift into the Linears that read it.

    ``W(γ·n + β) + b = (W·γ)n + (Wβ + b)``. Into *all* of them: queries, keys and values behind the
    first norm of a block, the MLP behind the second, every head behind the last. The last one only
    where nothing else reads its result: not features, embedding or pooled. Layers without biases
    (ConViT's queries, keys and values) get some: that of the keys is dropped and that of the values
    moved by the passes after this one.
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
    last = layers_of(params, LayerNorm).get("norm")
    others = {"features", "embedding", "pooled"} & set(model.plan.outputs)
    if last is None or others or not has_affine(last):
        return with_params(model, params, count)

    def in_head(_: str, head: Head) -> Head:
        assert last is not None
        assert last.weight is not None
        assert last.bias is not None
        several = LayerNorm(  # of a head that reads tokens side by side
            np.tile(last.weight, head.count), np.tile(last.bias, head.count), last.eps
        )
        return behind(several, head)

    params, heads = transform(params, Head, in_head)
    if heads:
        params, count = replace(params, norm=bare(last)), count + 1
    return with_params(model, params, count)


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
    values are still of all. Not when the tokens themselves are an output.
    """
    blocks = [*layers_of(model.params, TransformerBlock).values()]
    if not blocks or model.plan.read_tokens_only or "features" in model.plan.outputs:
        return model, 0
    # The last block's table belongs to all queries.
    if isinstance(blocks[-1].attn, GatedAttention):
        return model, 0
    return model.with_plan(read_tokens_only=True), 1


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
    order.
    """

    def fold(_: str, embedding: Embedding) -> Embedding:
        tokens, positions = embedding.tokens, embedding.positions
        if embedding.table is not None or not embedding.is_plain:
            return embedding
        if positions is None:  # how many patches there are, only they say
            return embedding
        table = positions.astype(np.float64).copy()
        first = 0 if tokens is None else len(tokens)
        if tokens is not None:
            table[:first] += tokens
        if embedding.bias is not None:
            table[first:] += embedding.bias
        return replace(embedding, bias=None, tokens=None, positions=None, table=table)

    params, count = transform(model.params, Embedding, fold)
    return with_params(model, params, count)
