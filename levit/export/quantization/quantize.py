"""Quantization of a folded model, from observations of its layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    for group in readers.values():
        first = observed[group[0]]
        weights = [_rows_of(layers[name]) for name in group]
        chosen = (
            without_range(inputs[group[0]])
            if inputs and group[0] in inputs
            else choose_input_grid(first.low.min(), first.high.max(), first.rows, weights, scheme)
        )
        rows = first.rows
        on_grid = chosen.grid.nearest(rows)
        # As one layer of all their rows: each is rounded by itself, with what they share.
        together, scales = round_weight(
            np.concatenate(weights), on_grid, scheme, compensate=compensate
        )
        ends = np.cumsum([len(weight) for weight in weights])[:-1]
        for name, weight, integers, scale in zip(
            group, weights, np.split(together, ends), np.split(scales, ends), strict=True
        ):
            layer = layers[name]
            grids[name] = LayerGrids(input=chosen.grid, range_rule=chosen.rule, weight_scale=scale)
            bias = correct_bias(weight, layer.bias, integers, rows, on_grid)
            rounded[name] = replace(
                layer,
                weight=integers.reshape(layer.weight.shape),
                bias=_placed(bias, integers.reshape(layer.weight.shape), grids[name]),
            )
        if compensate:
            progress("rounding weights", len(rounded), total)
    params, _ = transform(model.params, Affine, rounded.get)
    return replace(model, params=params), Quantization(scheme=scheme, layers=grids)


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
