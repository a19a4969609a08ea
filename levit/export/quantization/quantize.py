"""Quantization of a folded model, from observations of its layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from levit.export.grids import (
    Grid,
    LayerGrids,
    PixelGrid,
    Quantization,
    Scheme,
    fit_grid,
)
from levit.export.progress import Progress, silent
from levit.export.quantization.inputs import HEADROOM, choose_input_grid, without_range
from levit.export.quantization.observe import Observed, Source
from levit.export.quantization.weights import correct_bias, round_weight
from levit.export.threads import in_threads
from levit.models.layers import Affine, layers_of, transform
from levit.models.model import Model
from levit.models.ops import Array

__all__ = ["mixed", "quantize", "with_result_grids"]


def quantize(
    model: Model,
    observed: Mapping[str, Observed],
    scheme: Scheme,
    *,
    keep: Collection[str] = (),
    inputs: Mapping[str, PixelGrid] | None = None,
    compensate: bool = True,
    progress: Progress = silent,
) -> tuple[Model, Quantization]:
    """Put weights on grids, choose those of inputs, and correct biases.

    Args:
        model: folded, as it is emitted.
        observed: by layer.
        keep: layers that stay in floating point.
        inputs: grids that need no range, of what these layers read.
        compensate: as in `round_weight`.
        progress: told how many layers are rounded.

    Returns:
        (the model with the weights that the integers stand for, the description).
    """
    layers = {
        name: layer for name, layer in layers_of(model.params, Affine).items() if name in observed
    }
    readers: dict[Source, list[str]] = {}
    for name in layers:
        if name not in keep:
            readers.setdefault(observed[name].source, []).append(name)
    total = sum(map(len, readers.values()))
    grids: dict[str, LayerGrids] = {}
    rounded: dict[str, Affine] = {}

    def round_group(group: Sequence[str]) -> Sequence[tuple[str, Affine, LayerGrids]]:
        chosen = [(name, layers[name]) for name in group]
        grid = None if inputs is None else inputs.get(group[0])
        return _round_group(chosen, observed[group[0]], scheme, grid, compensate=compensate)

    for found in in_threads(round_group, readers.values()):
        for name, layer, layer_grids in found:
            rounded[name], grids[name] = layer, layer_grids
        if compensate:
            progress("rounding weights", len(rounded), total)
    params, _ = transform(model.params, Affine, rounded.get)
    return replace(model, params=params), Quantization(scheme=scheme, layers=grids)


def _round_group(
    layers: Sequence[tuple[str, Affine]],
    seen: Observed,
    scheme: Scheme,
    grid: PixelGrid | None,
    *,
    compensate: bool,
) -> list[tuple[str, Affine, LayerGrids]]:
    """(name, the layer on its grids, these) of layers that read one value.

    Args:
        grid: of that value, where it needs no range.
    """
    weights = [_rows_of(layer) for _, layer in layers]
    chosen = (
        choose_input_grid(seen.low.min(), seen.high.max(), seen.rows, weights, scheme)
        if grid is None
        else without_range(grid)
    )
    on_grid = chosen.grid.nearest(seen.rows)
    # As one layer of all their rows: each is rounded by itself, with what they share.
    together, scales = round_weight(np.concatenate(weights), on_grid, scheme, compensate=compensate)
    ends = np.cumsum([len(weight) for weight in weights])[:-1]
    found = []
    for (name, layer), weight, integers, scale in zip(
        layers, weights, np.split(together, ends), np.split(scales, ends), strict=True
    ):
        grids = LayerGrids(input=chosen.grid, range_rule=chosen.rule, weight_scale=scale)
        bias = correct_bias(weight, layer.bias, integers, seen.rows, on_grid)
        whole = integers.reshape(layer.weight.shape)
        rounded = replace(layer, weight=whole, bias=_placed(bias, whole, grids))
        found.append((name, rounded, grids))
    return found


def with_result_grids(
    quantization: Quantization, results: Mapping[str, tuple[float, float]]
) -> Quantization:
    """Put the results of convolutions on grids too.

    Args:
        results: extremes of the result of each convolution.
    """

    def grid_of(low: float, high: float) -> Grid:
        return fit_grid(HEADROOM * low, HEADROOM * high, quantization.scheme)

    layers = {
        name: replace(grids, output=grid_of(*results[name])) if name in results else grids
        for name, grids in quantization.layers.items()
    }
    return replace(quantization, layers=layers)


def _rows_of(layer: Affine) -> Array:
    """Weights as (O, I·k·k), in float64."""
    rows: Array = layer.weight.reshape(len(layer.weight), -1).astype(np.float64)
    return rows


def _placed(bias: Array, weight: Array, grids: LayerGrids) -> Array:
    """The bias as it is added to integers, on their scale."""
    if isinstance(grids.input, PixelGrid):
        share = grids.input.share(weight)
        return _at_products(bias - share, grids) + share
    return _at_products(bias, grids)


def _at_products(bias: Array, grids: LayerGrids) -> Array:
    """The bias as whole multiples of the products' scale, as kernels of integers add it.

    For every target: a thousandth of a step in front of a rounding is another rounding here and
    there, and a few layers further on the noise is another, as large as before.
    """
    scale = grids.bias_scale.astype(np.float64)
    limits = np.iinfo(np.int32)
    result: Array = np.clip(np.rint(bias / scale), limits.min, limits.max) * scale
    return result


def mixed(model: Model, quantized: Model, names: Collection[str]) -> Model:
    """`quantized` with the layers of these names as they are in `model`."""
    original = {k: v for k, v in layers_of(model.params, Affine).items() if k in names}
    return replace(quantized, params=transform(quantized.params, Affine, original.get)[0])
