"""A folded model and what its layers read → the model on integer grids."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from levit.export.quantization.grid import LayerGrids, Quantization, Scheme, fit_grid
from levit.export.quantization.inputs import HEADROOM, choose_input_grid
from levit.export.quantization.layers import layers_by_name, with_layers
from levit.export.quantization.observe import Observed
from levit.export.quantization.weights import correct_bias, round_weight
from levit.models.model import Model
from levit.models.ops import Array

__all__ = ["mixed", "quantize"]


def quantize(
    model: Model,
    observed: Mapping[str, Observed],
    scheme: Scheme,
    *,
    keep: Collection[str] = (),
    outputs_of: Collection[str] = (),
    compensate: bool = True,
) -> tuple[Model, Quantization]:
    """Put weights on grids, choose those of inputs, and correct biases.

    Args:
        model: folded, as it is emitted.
        observed: by layer.
        keep: layers that stay in floating point.
        outputs_of: convolutions whose results are quantized too.

        compensate: as in `round_weight`.

    Returns:
        (the model with the weights that the integers stand for, the description).
    """
    weights = {
        name: layer.weight.reshape(len(layer.weight), -1).astype(np.float64)
        for name, layer in layers_by_name(model).items()
    }
    names = [name for name in observed if name in weights and name not in keep]
    readers: dict[str, list[str]] = {}
    for name in names:
        readers.setdefault(observed[name].source, []).append(name)
    grids: dict[str, LayerGrids] = {}
    rounded: dict[str, Array] = {}
    for group in readers.values():
        first = observed[group[0]]
        grid = choose_input_grid(
            first.low.min(), first.high.max(), first.rows, [weights[name] for name in group], scheme
        )
        for name in group:
            seen = observed[name]
            on_grid = grid.nearest(seen.rows.astype(np.float64))
            rounded[name], scale = round_weight(
                weights[name], on_grid, scheme.largest_weight, compensate=compensate
            )
            output = None
            if name in outputs_of and seen.output is not None:
                low, high = seen.output
                output = fit_grid(HEADROOM * low, HEADROOM * high, scheme)
            grids[name] = LayerGrids(input=grid, weight_scale=scale, output=output)

    def change(name: str, layer: Any) -> Any:
        if name not in grids:
            return layer
        rows = observed[name].rows.astype(np.float64)
        bias = correct_bias(
            weights[name], layer.bias, rounded[name], rows, grids[name].input.nearest(rows)
        )
        bias = _at_products(bias, grids[name])
        return replace(layer, weight=rounded[name].reshape(layer.weight.shape), bias=bias)

    return with_layers(model, change), Quantization(scheme=scheme, layers=grids)


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
    original = layers_by_name(model)

    def change(name: str, layer: Any) -> Any:
        return original[name] if name in names else layer

    return with_layers(quantized, change)
