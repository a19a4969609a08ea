"""Inputs of every layer on calibration pictures: their extremes, and a sample of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from levit.errors import CalibrationError
from levit.export.onnx.ops import Layer
from levit.export.ranges import Taps
from levit.models.ops import Array

__all__ = ["Observed", "Source", "observe"]

# A layer has up to 2304 columns (9 · 256): enough rows to know how they go together.
_ROWS: Final = 4096
_SEED: Final = 20210406

# A value by name, and the kernel, stride and padding with which it is read.
Source: TypeAlias = tuple[str, int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """Observations of one layer.

    Attributes:
        low, high: (I,) the extremes of its input's channels over all pictures.
        rows: (n, I·k·k) float32: a sample of the rows that its output channels are products with.
        source: the value that it reads and how: layers of one source share rows and a grid.
        output: the extremes of its result, of a convolution.
        channels: (O,) twice, the extremes of its result's channels, of a convolution and of what
            makes queries, keys or values.
        made: names of the values and weights that the graph makes at the layer's path.
    """

    low: Array
    high: Array
    rows: Array
    source: Source
    output: tuple[float, float] | None = None
    channels: tuple[Array, Array] | None = None
    made: frozenset[str] = frozenset()


@dataclass(kw_only=True)
class _Sample:
    """Extremes of a value so far, and rows of it."""

    low: Array = field(default_factory=lambda: np.array(np.inf))
    high: Array = field(default_factory=lambda: np.array(-np.inf))
    rows: list[Array] = field(default_factory=list)

    @property
    def extremes(self) -> tuple[float, float]:
        """Of all entries together."""
        return float(self.low.min()), float(self.high.max())

    def extend(self, value: Array, axis: int) -> None:
        """Note the extremes of each entry of `axis`."""
        others = tuple(i for i in range(value.ndim) if i != axis % value.ndim)
        self.low = np.minimum(self.low, value.min(axis=others))
        self.high = np.maximum(self.high, value.max(axis=others))


def observe(taps: Taps, images: Iterable[Array], count: int) -> Mapping[str, Observed]:
    """Run the fp32 graph on every picture.

    Args:
        taps: of the model, with the inputs of its layers and the results of its convolutions.
        images: (1, …) each, as the model takes them.
        count: how many there are, about.

    Raises:
        CalibrationError: a value is not finite, or a layer reads nothing but zeros.
    """
    layers = taps.layers
    # Layers of one value and one geometry are products with the same rows.
    inputs = {_source(layer): layer for layer in layers.values()}
    samples = {key: _Sample() for key in inputs}
    results = {
        layer.output.name: (layer, _Sample())
        for layer in layers.values()
        if taps.reads(layer.output.name)
    }
    per_picture = max(1, -(-_ROWS // max(count, 1)))
    rng = np.random.default_rng(_SEED)
    for image in images:
        (values,) = taps.run(image)
        places = rng.random(per_picture)
        for key, layer in inputs.items():
            value, sample = values[layer.input.name], samples[key]
            sample.extend(value, 1 if layer.kernel else -1)
            if not (np.isfinite(sample.low).all() and np.isfinite(sample.high).all()):
                raise CalibrationError(
                    f"{layer.input.name}: values leave the range of float32 on a calibration "
                    f"picture: look for damaged weights or inputs"
                )
            sample.rows.append(_rows(layer, value, places))
        for name, (layer, sample) in results.items():
            sample.extend(values[name], 1 if layer.kernel else -1)
    rows = {key: np.concatenate(sample.rows) for key, sample in samples.items()}
    found = {}
    for name, layer in layers.items():
        key = _source(layer)
        low, high = samples[key].low, samples[key].high
        if not (low.any() or high.any()):
            raise CalibrationError(
                f"{name} reads nothing but zeros on the calibration pictures, so that it has no "
                f"range: calibrate with other pictures"
            )
        _, made = results.get(layer.output.name, (layer, None))
        found[name] = Observed(
            low=low,
            high=high,
            rows=rows[key],
            source=_source(layer),
            output=None if made is None or not layer.kernel else made.extremes,
            channels=None if made is None else (made.low, made.high),
            made=frozenset(value for value, path in taps.scopes.items() if path == name),
        )
    return found


def _source(layer: Layer) -> Source:
    return layer.input.name, layer.kernel, layer.stride, layer.padding


def _rows(layer: Layer, x: Array, places: Array) -> Array:
    """Some of the rows that a layer's output channels are products with, of one picture.

    Args:
        places: of these rows, from 0 up to 1.

    Returns:
        (n, I·k·k), in the order of the weights' axes, n no more than there are.
    """
    if not layer.kernel:
        flat = x.reshape(-1, x.shape[-1])
        tokens: Array = flat[(places[: len(flat)] * len(flat)).astype(int)]
        return tokens
    padded = np.pad(x[0], ((0, 0), *[(layer.padding, layer.padding)] * 2))
    windows = sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(1, 2))
    windows = windows[:, :: layer.stride, :: layer.stride]  # (I, H', W', k, k)
    height, width = windows.shape[1:3]
    chosen = (places[: height * width] * height * width).astype(int)
    picked = windows[:, chosen // width, chosen % width]  # (I, n, k, k)
    rows: Array = picked.transpose(1, 0, 2, 3).reshape(len(chosen), -1)
    return rows
