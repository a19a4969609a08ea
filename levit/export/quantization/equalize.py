"""Channels made alike before they share one grid: exact passes, driven by calibration.

As those of `levit.export.passes`, but that they take what layers read beside the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from levit.export.passes.residual import is_folded, scaled_columns, stream_layers, with_stream
from levit.export.quantization.grid import Scheme, fit_grid
from levit.export.quantization.layers import layer_names, name_of
from levit.export.quantization.observe import Observed, Source
from levit.models.layers import Conv, LayerNorm, Linear
from levit.models.levit.layers import LevitParams
from levit.models.model import Model
from levit.models.ops import Array
from levit.models.transformer.layers import TransformerBlock, TransformerParams

__all__ = ["equalize_norms", "equalize_stream"]

# How much of the difference between channels goes from the input into the weights' columns.
_STRENGTHS: Final = (0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
_ROWS: Final = 512
# Of the noise, that may be left at most: channels that are alike all come to the ends of their grid
# together, where other pictures are cut off, which the calibration does not show.
_WORTH: Final = 0.5


def equalize_stream(
    model: Model, observed: Mapping[str, Observed], scheme: Scheme
) -> tuple[Model, int]:
    """The residual stream of each stage of LeViT, channel by channel: ``x' = f·x``.

    There is no norm on the stream, so the factor goes exactly into the rows of all that adds to
    it and out of the columns of all that reads it. ``f = |W|^(1-a) / |x|^a`` of the largest
    magnitudes (Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4), where a is the one of
    a few whose quantized products are nearest to the exact ones, or none. Not for a last stage
    whose tokens or their mean are outputs.

    Returns:
        The model, and the number of stages.
    """
    params = model.params
    if not isinstance(params, LevitParams) or not is_folded(params):
        return model, 0
    names = layer_names(model)
    count = 0
    for s in range(len(params.stages)):
        if s == len(params.stages) - 1 and {"features", "embedding"} & set(model.plan.outputs):
            continue
        # Of the stream as it is, not as an earlier stage has left its readers.
        _, readers = stream_layers(model.params, s)
        factor = _best_factor(_by_source(readers, names, observed), observed, scheme)
        if factor is not None:
            params = with_stream(params, s, factor)
            count += 1
    return (replace(model, params=params), count) if count else (model, 0)


def equalize_norms(
    model: Model, observed: Mapping[str, Observed], scheme: Scheme
) -> tuple[Model, int]:
    """What a LayerNorm gives to queries, keys and values, and to an MLP: ``x' = f·x``.

    The factor goes into the norm's own scale and shift and out of the columns of all that reads
    it: exact, and free. Chosen as in equalize_stream.

    Returns:
        The model, and the number of norms.
    """
    params = model.params
    if not isinstance(params, TransformerParams):
        return model, 0
    names = layer_names(model)
    blocks, count = [], 0
    for block in params.blocks:
        attention, mlp = block.attn, block.mlp
        first = _best_factor(
            _by_source([attention.q, attention.k, attention.v], names, observed), observed, scheme
        )
        if first is not None:
            q, k, v = (
                scaled_columns(layer, 1 / first)
                for layer in (attention.q, attention.k, attention.v)
            )
            attention = replace(attention, q=q, k=k, v=v)
        second = _best_factor(_by_source([mlp.up], names, observed), observed, scheme)
        if second is not None:
            mlp = replace(mlp, up=scaled_columns(mlp.up, 1 / second))
        blocks.append(
            TransformerBlock(
                norm1=_scaled_norm(block.norm1, first),
                attn=attention,
                norm2=_scaled_norm(block.norm2, second),
                mlp=mlp,
            )
        )
        count += (first is not None) + (second is not None)
    if not count:
        return model, 0
    return replace(model, params=replace(params, blocks=tuple(blocks))), count


def _scaled_norm(norm: LayerNorm, factor: Array | None) -> LayerNorm:
    if factor is None:
        return norm
    weight = factor if norm.weight is None else norm.weight * factor
    return replace(norm, weight=weight, bias=None if norm.bias is None else norm.bias * factor)


def _by_source(
    layers: Sequence[Conv | Linear], names: Mapping[int, str], observed: Mapping[str, Observed]
) -> list[list[tuple[str, Array]]]:
    """(name, weights (O, I)) of the layers that are looked at, those of one input together."""
    groups: dict[Source, list[tuple[str, Array]]] = {}
    for layer in layers:
        name = name_of(layer, names)
        if name in observed:
            weight = layer.weight.astype(np.float64)
            groups.setdefault(observed[name].source, []).append((name, weight))
    return list(groups.values())


def _best_factor(
    groups: Sequence[Sequence[tuple[str, Array]]],
    observed: Mapping[str, Observed],
    scheme: Scheme,
) -> Array | None:
    """(C,) of the stream that these read, or None where none is much better than all ones."""
    if not groups:
        return None
    seen = [observed[group[0][0]] for group in groups]
    peaks = np.max([np.maximum(-one.low, one.high) for one in seen], axis=0)
    columns = np.max([np.abs(w).max(axis=0) for group in groups for _, w in group], axis=0)
    if not ((peaks > 0) & (columns > 0)).any():
        return None
    # What is never read, or never there, stays.
    alive = (peaks > 0) & (columns > 0)
    peaks, columns = np.where(alive, peaks, 1.0), np.where(alive, columns, 1.0)
    least = _WORTH * _cost(groups, seen, np.ones(len(peaks)), scheme)
    best = None
    for strength in _STRENGTHS:
        factor = np.where(alive, columns ** (1 - strength) / peaks**strength, 1.0)
        factor[alive] /= np.exp(np.log(factor[alive]).mean())
        cost = _cost(groups, seen, factor, scheme)
        if cost < least:
            least, best = cost, factor
    return best


def _cost(
    groups: Sequence[Sequence[tuple[str, Array]]],
    seen: Sequence[Observed],
    factor: Array,
    scheme: Scheme,
) -> float:
    """The noise of all quantized products, each over its signal."""
    total = 0.0
    for group, one in zip(groups, seen, strict=True):
        # Spread over all pictures, one after the other in there.
        x = one.rows[:: max(1, len(one.rows) // _ROWS)] * factor.astype(np.float32)
        grid = fit_grid((one.low * factor).min(), (one.high * factor).max(), scheme)
        rounded = grid.nearest(x)
        for _, weight in group:
            scaled = (weight / factor).astype(np.float32)
            step = np.abs(scaled).max(axis=1, keepdims=True) / scheme.largest_weight
            step = np.where(step > 0, step, 1.0)
            exact = x @ scaled.T
            noise = rounded @ (np.rint(scaled / step) * step).T - exact
            power = float(np.square(exact - exact.mean(axis=0)).sum())
            if power > 0:
                total += float(np.square(noise).sum()) / power
    return total
