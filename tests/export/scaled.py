"""Networks as trained whose values leave float16, made from ones whose values do not."""

from dataclasses import replace

import numpy as np

from levit.models.layers import Mlp, transform
from levit.models.levit.layers import Attention, LevitBlock


def rows(layer, factor):
    """What the layer gives, times `factor`."""
    norm = layer.norm
    norm = replace(norm, weight=norm.weight * factor, bias=norm.bias * factor)
    return replace(layer, norm=norm)


def columns(layer, factor):
    """The layer for an input that is `factor` times what it was."""
    if layer.norm_before is None:
        return replace(layer, weight=layer.weight / factor)
    norm = layer.norm_before
    return replace(
        layer, norm_before=replace(norm, mean=norm.mean * factor, weight=norm.weight / factor)
    )


def scaled_stream(model, factor):
    """The same function; the stream of every stage is `factor` times as large."""

    def read(attention):
        q, k, v = (columns(layer, factor) for layer in (attention.q, attention.k, attention.v))
        return replace(attention, q=q, k=k, v=v, proj=rows(attention.proj, factor))

    def block(_, old):
        mlp = replace(old.mlp, up=columns(old.mlp.up, factor), down=rows(old.mlp.down, factor))
        return LevitBlock(read(old.attn), mlp)

    params, _ = transform(model.params, LevitBlock, block)
    heads = {
        name: None if layer is None else columns(layer, factor)
        for name, layer in (("head", params.head), ("head_dist", params.head_dist))
    }
    stem = (*params.stem[:-1], rows(params.stem[-1], factor))
    return replace(model, params=replace(params, stem=stem, **heads))


def scaled_queries(model, factor):
    """The same function; queries are times `factor`, and keys divided by it."""

    def change(_, attention):
        return replace(attention, q=rows(attention.q, factor), k=rows(attention.k, 1 / factor))

    return replace(model, params=transform(model.params, Attention, change)[0])


def scaled_hidden(model, factor):
    """Another function: all that goes through an activation of a block is `factor` times as large.

    What comes after is divided by it again.
    """

    def mlp(_, old):
        return replace(old, up=rows(old.up, factor), down=columns(old.down, factor))

    def attention(_, old):
        return replace(old, v=rows(old.v, factor), proj=columns(old.proj, factor))

    params, _ = transform(model.params, Mlp, mlp)
    return replace(model, params=transform(params, Attention, attention)[0])


def scaled_stem(model, factor):
    """Another function: the stem between its convolutions is `factor` times as large."""
    stem = list(model.params.stem)
    for i in range(len(stem) - 1):
        stem[i] = rows(stem[i], factor)
        stem[i + 1] = replace(stem[i + 1], weight=stem[i + 1].weight / factor)
    return replace(model, params=replace(model.params, stem=tuple(stem)))


def masked_scores(model, value=-1e5):
    """Another function: nobody looks straight at what lies farthest away."""

    def change(_, attention):
        values = np.array(attention.bias.values)
        values[:, -1] = value
        return replace(attention, bias=replace(attention.bias, values=values))

    return replace(model, params=transform(model.params, Attention, change)[0])


def scaled_logits(model, factor):
    """The same classes, by logits that are `factor` times as large."""
    params = model.params
    heads = {
        name: None
        if layer is None
        else replace(layer, weight=layer.weight * factor, bias=layer.bias * factor)
        for name, layer in (("head", params.head), ("head_dist", params.head_dist))
    }
    return replace(model, params=replace(params, **heads))
