"""Channels made alike before they share one grid: exact passes, driven by calibration.

Passes as in `levit.export.passes` that take observations of the layers beside the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import numpy as np

from levit.export.grids import Scheme, fit_grid
from levit.export.passes.shared import scaled_columns, scaled_rows, with_params
from levit.export.quantization.observe import Observed, Source
from levit.export.threads import in_threads
from levit.models.layers import Affine, LayerNorm, layers_of, transform
from levit.models.levit.layers import LevitBlock, LevitStage
from levit.models.model import Model
from levit.models.ops import Array
from levit.models.transformer.layers import TransformerBlock

__all__ = [
    "EQUALIZERS",
    "Equalized",
    "equalize_norms",
    "equalize_stream",
    "equalizer_of",
    "stream_of",
    "with_stream",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Equalized:
    """A model whose channels were made alike.

    Attributes:
        count: of the places where they were; the model is as it was where there are none.
        inputs, results: the factors (C,) of what layers read and give now, by the layer's name.
    """

    model: Model
    count: int = 0
    inputs: Mapping[str, Array] = field(default_factory=dict)
    results: Mapping[str, Array] = field(default_factory=dict)


Equalizer: TypeAlias = Callable[[Model, Mapping[str, Observed], Scheme], Equalized]

# How much of the difference between channels goes from the input into the weights' columns.
_STRENGTHS: Final = (0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
_ROWS: Final = 512
# The norms of a transformer's block, and the layers that read each.
_READERS: Final = {"norm1": ("attn.q", "attn.k", "attn.v"), "norm2": ("mlp.up",)}
# Most of the noise that may be left: channels that are alike all come to the ends of their grid
# together, where other pictures are cut off, which the calibration does not show.
_WORTH: Final = 0.5


def equalize_stream(model: Model, observed: Mapping[str, Observed], scheme: Scheme) -> Equalized:
    """Scale the residual stream of each stage of LeViT, channel by channel: ``x' = f·x``.

    There is no norm on the stream, so the factor goes exactly into the rows of all that adds to
    it and out of the columns of all that reads it. ``f = |W|^(1-a) / |x|^a`` of the largest
    magnitudes (Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4), where a is the one of
    a few whose quantized products are nearest to the exact ones, or none. Not for a last stage
    whose tokens or their mean are outputs.
    """
    if not all(layer.is_plain for layer in layers_of(model.params, Affine).values()):
        return Equalized(model=model)
    params, count = model.params, 0
    inputs: dict[str, Array] = {}
    results: dict[str, Array] = {}
    stages = len(layers_of(params, LevitStage))
    for number in range(stages):
        if number == stages - 1 and {"features", "embedding"} & set(model.plan.outputs):
            continue
        # Of the stream as it is, not as an earlier stage has left its readers.
        writers, readers = stream_of(model.params, number)
        factor = _best_factor(_by_source(readers, observed), scheme)
        if factor is not None:
            params = with_stream(params, number, factor)
            inputs |= dict.fromkeys(readers, factor)
            results |= dict.fromkeys(writers, factor)
            count += 1
    model, count = with_params(model, params, count)
    return Equalized(model=model, count=count, inputs=inputs, results=results)


def stream_of(params: Any, number: int) -> tuple[dict[str, Affine], dict[str, Affine]]:
    """Layers that add to the residual stream of a stage of LeViT, and those that read it, by path.

    Args:
        number: of the stage, from 0.
    """
    everything = layers_of(params, Affine)
    stages = [*layers_of(params, LevitStage).items()]
    path, stage = stages[number]
    writers = [] if number else [name for name in everything if name.startswith("stem.")][-1:]
    readers = []
    for at, block in layers_of(stage, LevitBlock, path).items():
        writers += [f"{at}.attn.proj", f"{at}.mlp.down"]
        readers += [f"{at}.mlp.up"]
        if block is not stage.downsample:
            readers += [f"{at}.attn.{part}" for part in "qkv"]
    if number + 1 < len(stages):
        readers += [f"{stages[number + 1][0]}.downsample.attn.{part}" for part in "qkv"]
    else:
        readers += [name for name in ("head", "head_dist") if name in everything]
    return {n: everything[n] for n in writers}, {n: everything[n] for n in readers}


def with_stream(params: Any, number: int, factor: Array) -> Any:
    """Scale a stage's residual stream by `factor` (C,) in its writers, and back in its readers.

    Exact: between those there are only sums, and the token mean is linear.
    """
    writers, readers = stream_of(params, number)

    def change(path: str, layer: Affine) -> Affine:
        if path in writers:
            layer = scaled_rows(layer, factor)
        return scaled_columns(layer, 1 / factor) if path in readers else layer

    return transform(params, Affine, change)[0]


def equalize_norms(model: Model, observed: Mapping[str, Observed], scheme: Scheme) -> Equalized:
    """Scale the results of the LayerNorms before attention and MLP: ``x' = f·x``.

    The factor goes into the norm's own scale and shift and out of the columns of all that reads
    it: exact, and free. Chosen as in equalize_stream.
    """
    layers = layers_of(model.params, Affine)
    norms: dict[str, Array] = {}
    columns: dict[str, Array] = {}
    for path in layers_of(model.params, TransformerBlock):
        for norm, parts in _READERS.items():
            readers = {name: layers[name] for name in (f"{path}.{part}" for part in parts)}
            factor = _best_factor(_by_source(readers, observed), scheme)
            if factor is not None:
                norms[f"{path}.{norm}"] = factor
                columns |= dict.fromkeys(readers, factor)

    def read(path: str, layer: Affine) -> Affine:
        return scaled_columns(layer, 1 / columns[path]) if path in columns else layer

    def make(path: str, norm: LayerNorm) -> LayerNorm:
        return _scaled_norm(norm, norms[path]) if path in norms else norm

    params, _ = transform(model.params, Affine, read)
    params, _ = transform(params, LayerNorm, make)
    model, count = with_params(model, params, len(norms))
    return Equalized(model=model, count=count, inputs=columns)


# Equalisers by the blocks that a model is made of.
EQUALIZERS: Final[Mapping[type, Equalizer]] = {
    LevitBlock: equalize_stream,
    TransformerBlock: equalize_norms,
}


def equalizer_of(model: Model) -> Equalizer:
    """Return the equaliser of a model's blocks."""
    return next(f for block, f in EQUALIZERS.items() if layers_of(model.params, block))


def _scaled_norm(norm: LayerNorm, factor: Array) -> LayerNorm:
    weight = factor if norm.weight is None else norm.weight * factor
    return replace(norm, weight=weight, bias=None if norm.bias is None else norm.bias * factor)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    """A layer that reads what is scaled.

    Attributes:
        weight: (O, I) float32.
        exact: (n, O) its products with sampled rows, which no factor changes.
        power: of those, less their mean.
    """

    weight: Array
    exact: Array
    power: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """Layers that read one value, on one grid.

    Attributes:
        rows: (n, I) float32 of the value.
        low, high: (I,) its extremes.
    """

    rows: Array
    low: Array
    high: Array
    readers: Sequence[_Reader]


def _by_source(layers: Mapping[str, Affine], observed: Mapping[str, Observed]) -> list[_Group]:
    """The layers that are looked at, those of one input together."""
    names: dict[Source, list[str]] = {}
    for name in layers:
        if name in observed:
            names.setdefault(observed[name].source, []).append(name)
    return [
        _group(observed[group[0]], [layers[name].weight for name in group])
        for group in names.values()
    ]


def _group(seen: Observed, weights: Sequence[Array]) -> _Group:
    # Spread over all pictures, one after the other in there.
    rows = seen.rows[:: max(1, len(seen.rows) // _ROWS)]
    readers = []
    for weight in weights:
        single = weight.astype(np.float32)
        exact = rows @ single.T
        power = float(np.square(exact - exact.mean(axis=0)).sum())
        readers.append(_Reader(weight=single, exact=exact, power=power))
    return _Group(rows=rows, low=seen.low, high=seen.high, readers=readers)


def _best_factor(groups: Sequence[_Group], scheme: Scheme) -> Array | None:
    """(C,) of the stream that these read, or None where none is much better than all ones."""
    if not groups:
        return None
    peaks = np.max([np.maximum(-one.low, one.high) for one in groups], axis=0)
    weights = [np.abs(reader.weight) for group in groups for reader in group.readers]
    columns = np.max([weight.max(axis=0) for weight in weights], axis=0).astype(np.float64)
    if not ((peaks > 0) & (columns > 0)).any():
        return None
    # Channels that are never read, or always zero, stay.
    alive = (peaks > 0) & (columns > 0)
    peaks, columns = np.where(alive, peaks, 1.0), np.where(alive, columns, 1.0)
    factors = []
    for strength in _STRENGTHS:
        factor = np.where(alive, columns ** (1 - strength) / peaks**strength, 1.0)
        factor[alive] /= np.exp(np.log(factor[alive]).mean())
        factors.append(factor)
    tried = [np.ones(len(peaks)), *factors]
    as_it_is, *costs = in_threads(lambda factor: _cost(groups, factor, scheme), tried)
    best = int(np.argmin(costs))
    return factors[best] if costs[best] < _WORTH * as_it_is else None


def _cost(groups: Sequence[_Group], factor: Array, scheme: Scheme) -> float:
    """The noise of all quantized products, each over its signal."""
    total = 0.0
    forth, back = factor.astype(np.float32), (1 / factor).astype(np.float32)
    for group in groups:
        grid = fit_grid((group.low * factor).min(), (group.high * factor).max(), scheme)
        rounded = grid.nearest(group.rows * forth)
        for reader in group.readers:
            scaled = reader.weight * back
            step = np.abs(scaled).max(axis=1, keepdims=True) / scheme.largest_weight
            step = np.where(step > 0, step, np.float32(1))
            noise = rounded @ (np.rint(scaled / step) * step).T
            noise -= reader.exact
            if reader.power > 0:
                total += float(np.square(noise, out=noise).sum()) / reader.power
    return total
