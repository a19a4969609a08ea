"""Inputs of every layer on calibration pictures: their extremes, and a sample of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from levit.errors import CalibrationError
from levit.export.onnx.ops import Layer
from levit.export.ranges import TOGETHER, Taps
from levit.models.ops import Array

__all__ = ["Observed", "Source", "observe", "rescaled"]

# A layer has up to 2304 columns (9 · 256): enough rows to know how they go together.
_ROWS: Final = 4096
# Of a half, which is compared in a quick way.
_ROWS_OF_HALF: Final = 1024
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
        result_low, result_high: (O,) the extremes of its result's channels, of a convolution and of
            what makes queries, keys or values.
        made: names of the values and weights that the graph makes at the layer's path.
        half: the same of every other picture from the first on, with a quarter of the rows; None
            where it is that itself.
    """

    low: Array
    high: Array
    rows: Array
    source: Source
    result_low: Array | None = None
    result_high: Array | None = None
    made: frozenset[str] = frozenset()
    half: Observed | None = None

    @property
    def output(self) -> tuple[float, float] | None:
        """The extremes of its result over all channels, of a convolution."""
        _, kernel, _, _ = self.source
        if not kernel or self.result_low is None or self.result_high is None:
            return None
        return float(self.result_low.min()), float(self.result_high.max())

    @property
    def channels(self) -> tuple[Array, Array] | None:
        """(O,) the extremes of its result's channels, low and high, where they are observed."""
        if self.result_low is None or self.result_high is None:
            return None
        return self.result_low, self.result_high


class _Extremes:
    """Extremes of a value's channels so far, of the even pictures and of the odd ones."""

    def __init__(self, channels: int) -> None:
        self.low = np.full((2, channels), np.inf)
        self.high = np.full((2, channels), -np.inf)

    def extend(self, value: Array, axis: int, first: int) -> None:
        """Note those of pictures (N, …), the first of which has the number `first`."""
        others = tuple(i for i in range(value.ndim) if i != axis % value.ndim)
        for parity in range(min(2, len(value))):
            part = value[parity::2]
            at = (first + parity) % 2
            self.low[at] = np.minimum(self.low[at], part.min(axis=others))
            self.high[at] = np.maximum(self.high[at], part.max(axis=others))

    @property
    def are_finite(self) -> bool:
        """True unless a picture that was noted has an infinity or NaN; the other parity may wait.

        A NaN is an extreme to NumPy, and stays one.
        """
        ends = np.stack([self.low, -self.high])
        return not (np.isnan(ends) | np.isneginf(ends)).any()


class _Sample:
    """Extremes of what layers of one source read, and rows of it."""

    def __init__(self, layer: Layer, count: int) -> None:
        self._layer = layer
        self._count = count
        self._axis = _channels_of(layer)
        self.extremes = _Extremes(layer.input.shape[self._axis])
        self._rows: Array | None = None  # (count, n, I·k·k)

    def extend(self, value: Array, places: Array, first: int) -> None:
        """Note pictures (N, …) and rows at `places` (N, n) of each."""
        self.extremes.extend(value, self._axis, first)
        for number, one in enumerate(value, start=first):
            rows = _rows(self._layer, one, places[number - first])
            if self._rows is None:
                self._rows = np.empty((self._count, *rows.shape), np.float32)
            self._rows[number] = rows

    @cached_property
    def rows(self) -> Array:
        """(n, I·k·k) of all pictures, one after the other."""
        assert self._rows is not None, "no pictures"
        flat: Array = self._rows.reshape(-1, self._rows.shape[-1])
        return flat

    @cached_property
    def rows_of_half(self) -> Array:
        """(n, I·k·k) of the even pictures."""
        assert self._rows is not None, "no pictures"
        rows = self._rows[::2]
        step = -(-rows.shape[0] * rows.shape[1] // _ROWS_OF_HALF)
        flat: Array = rows[:, ::step].reshape(-1, rows.shape[-1])
        return flat


def observe(taps: Taps, images: Iterable[Array], count: int) -> Mapping[str, Observed]:
    """Run the fp32 graph on every picture, some at a time.

    Args:
        taps: of the model, with the inputs of its layers and those results that are observed.
        images: (1, …) each, as the model takes them.
        count: how many there are.

    Raises:
        CalibrationError: a value is not finite, or a layer reads nothing but zeros.
    """
    layers = taps.layers
    # Layers of one value and one geometry are products with the same rows.
    samples = {_source(layer): (layer, _Sample(layer, count)) for layer in layers.values()}
    results = {
        layer.output.name: (layer, _Extremes(layer.output.shape[_channels_of(layer)]))
        for layer in layers.values()
        if taps.reads(layer.output.name)
    }
    per_picture = max(1, -(-_ROWS // max(count, 1)))
    rng = np.random.default_rng(_SEED)
    first = 0
    for batch in _together(images):
        values = taps.run_together(batch)
        places = rng.random((len(batch), per_picture))
        for layer, sample in samples.values():
            sample.extend(values[layer.input.name], places, first)
            if not sample.extremes.are_finite:
                raise CalibrationError(
                    f"{layer.input.name}: values leave the range of float32 on a calibration "
                    f"picture: look for damaged weights or inputs"
                )
        for name, (layer, extremes) in results.items():
            extremes.extend(values[name], _channels_of(layer), first)
        first += len(batch)
    assert first == count, f"{first} pictures, not {count}"
    found = {}
    for name, layer in layers.items():
        _, sample = samples[_source(layer)]
        if not (sample.extremes.low.any() or sample.extremes.high.any()):
            raise CalibrationError(
                f"{name} reads nothing but zeros on the calibration pictures, so that it has no "
                f"range: calibrate with other pictures"
            )
        made = frozenset(value for value, path in taps.scopes.items() if path == name)
        _, result = results.get(layer.output.name, (layer, None))
        of_half, of_all = (
            _observed(layer, sample, result, made, half=half) for half in (True, False)
        )
        found[name] = replace(of_all, half=of_half)
    return found


def rescaled(
    observed: Mapping[str, Observed], inputs: Mapping[str, Array], results: Mapping[str, Array]
) -> Mapping[str, Observed]:
    """Observations of the same network with some values multiplied, without running it.

    Args:
        inputs: (I,) positive factors of what layers read, by the layer's name.
        results: (O,) positive factors of what layers give.
    """
    rows: dict[int, Array] = {}

    def scaled(name: str, one: Observed) -> Observed:
        if name in results and one.result_low is not None and one.result_high is not None:
            factor = results[name]
            one = replace(
                one, result_low=one.result_low * factor, result_high=one.result_high * factor
            )
        if name not in inputs:
            return one
        factor = inputs[name]
        if id(one.rows) not in rows:  # which layers share, and take most of the memory
            # Each column of a convolution's rows is of a channel, k·k of one after the other.
            columns = np.repeat(factor, one.rows.shape[1] // len(factor)).astype(np.float32)
            rows[id(one.rows)] = one.rows * columns
        return replace(one, low=one.low * factor, high=one.high * factor, rows=rows[id(one.rows)])

    return {
        name: replace(scaled(name, one), half=None if one.half is None else scaled(name, one.half))
        for name, one in observed.items()
    }


def _together(images: Iterable[Array]) -> Iterator[Array]:
    """(1, …) each → (N, …), an even number of them but for the last."""
    batch: list[Array] = []
    for image in images:
        batch.append(image)
        if len(batch) == TOGETHER:
            yield np.concatenate(batch)
            batch = []
    if batch:
        yield np.concatenate(batch)


def _observed(
    layer: Layer, sample: _Sample, result: _Extremes | None, made: frozenset[str], *, half: bool
) -> Observed:
    pictures = slice(0, 1 if half else 2)
    return Observed(
        low=sample.extremes.low[pictures].min(axis=0),
        high=sample.extremes.high[pictures].max(axis=0),
        rows=sample.rows_of_half if half else sample.rows,
        source=_source(layer),
        result_low=None if result is None else result.low[pictures].min(axis=0),
        result_high=None if result is None else result.high[pictures].max(axis=0),
        made=made,
    )


def _channels_of(layer: Layer) -> int:
    """The axis of channels, of what it reads and of what it makes."""
    return 1 if layer.kernel else -1


def _source(layer: Layer) -> Source:
    return layer.input.name, layer.kernel, layer.stride, layer.padding


def _rows(layer: Layer, x: Array, places: Array) -> Array:
    """Some of the rows that a layer's output channels are products with, of one picture.

    Args:
        x: without a batch axis.
        places: of these rows, from 0 up to 1.

    Returns:
        (n, I·k·k), in the order of the weights' axes, n no more than there are.
    """
    if not layer.kernel:
        flat = x.reshape(-1, x.shape[-1])
        tokens: Array = flat[(places[: len(flat)] * len(flat)).astype(int)]
        return tokens
    padded = np.pad(x, ((0, 0), *[(layer.padding, layer.padding)] * 2))
    windows = sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(1, 2))
    windows = windows[:, :: layer.stride, :: layer.stride]  # (I, H', W', k, k)
    height, width = windows.shape[1:3]
    chosen = (places[: height * width] * height * width).astype(int)
    picked = windows[:, chosen // width, chosen % width]  # (I, n, k, k)
    rows: Array = picked.transpose(1, 0, 2, 3).reshape(len(chosen), -1)
    return rows
