"""Sensitivity of layers: the noise that each makes in the answers when it alone is int8."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from levit.export.grids import Grid, Quantization
from levit.export.progress import Progress, silent
from levit.export.quantization.quantize import mixed
from levit.export.quantization.reference import QuantizedOps
from levit.export.threads import in_threads
from levit.models.layers import Affine, transform
from levit.models.model import Model
from levit.models.ops import Array, NumpyOps, Ops

__all__ = ["Noise", "answer_of", "rank_layers", "signal_to_noise"]

# By the name of a layer or attention, and the grid of its result.
Noise: TypeAlias = dict[tuple[str, Grid | None], float]


def answer_of(model: Model) -> str:
    """The output by which a model is judged: its logits, where it has them."""
    outputs = model.plan.outputs
    return "logits" if "logits" in outputs else outputs[0]


def rank_layers(
    model: Model,
    quantized: Model,
    quantization: Quantization,
    inputs: Array,
    noise: Noise | None = None,
    progress: Progress = silent,
) -> Sequence[tuple[str, float]]:
    """(name, noise power over signal power of the answers), the worst first.

    Args:
        model: in floating point.
        quantized: the same with its weights on grids.
        inputs: a few, as the model takes them; evaluated in float32, once for each layer.
        noise: measured before, of the same model and weights; more is added.
    """
    noise = {} if noise is None else noise
    output = answer_of(model)
    # Folded weights are float64, and would be cast anew in every evaluation.
    model, quantized = _in_float32(model), _in_float32(quantized)
    places: dict[str, tuple[str, Grid | None]] = {
        **{name: (name, grids.output) for name, grids in quantization.layers.items()},
        **{name: (name, None) for name in quantization.attentions},
    }
    missing = [name for name, place in places.items() if place not in noise]
    if missing:
        recorder = _Recorder(np.float32)
        exact = model.forward(recorder, inputs)[output]

        def noise_of(name: str) -> float:
            one = mixed(quantized, model, [name])  # all in floating point but this layer
            ops = _Replay(quantization.only([name]), recorder.results, name)
            answers = one.forward(ops, inputs)[output]
            return 10 ** (-signal_to_noise(exact, answers) / 10)

        for number, found in enumerate(in_threads(noise_of, missing)):
            noise[places[missing[number]]] = found
            progress("looking for the layers that hurt most", number + 1, len(missing))
    ranked = [(name, noise[place]) for name, place in places.items()]
    return sorted(ranked, key=lambda entry: -entry[1])


def _in_float32(model: Model) -> Model:
    def cast(path: str, layer: Affine) -> Affine:
        bias = None if layer.bias is None else layer.bias.astype(np.float32)
        return replace(layer, weight=layer.weight.astype(np.float32), bias=bias)

    return replace(model, params=transform(model.params, Affine, cast)[0])


class _Recorder(NumpyOps):
    """`NumpyOps` that keep the results of convolutions and Linears, by path."""

    def __init__(self, dtype: DTypeLike) -> None:
        super().__init__(dtype)
        self.results: dict[str, Array] = {}

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        y = self.results[self.path] = super().linear(x, weight, bias)
        return y

    def conv(self, x: Array, weight: Array, bias: Array | None, stride: int, padding: int) -> Array:
        y = self.results[self.path] = super().conv(x, weight, bias, stride, padding)
        return y


class _Replay(QuantizedOps):
    """`QuantizedOps` of one layer or attention, with recorded results of all layers before it.

    Nothing has changed up to there, and most of an evaluation is products.
    """

    def __init__(
        self, quantization: Quantization, results: Mapping[str, Array], until: str
    ) -> None:
        super().__init__(quantization, np.float32)
        self._results = results
        self._until = until
        self._is_reached = False

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        known = self._known()
        return super().linear(x, weight, bias) if known is None else known

    def conv(self, x: Array, weight: Array, bias: Array | None, stride: int, padding: int) -> Array:
        known = self._known()
        return super().conv(x, weight, bias, stride, padding) if known is None else known

    def attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        scale: float | None = None,
        bias: Callable[[Ops], Array] | None = None,
    ) -> Array:
        self._note_path()
        return super().attend(q, k, v, scale=scale, bias=bias)

    def _note_path(self) -> None:
        self._is_reached = self._is_reached or self.path == self._until

    def _known(self) -> Array | None:
        self._note_path()
        return None if self._is_reached else self._results[self.path]


def signal_to_noise(reference: Array, found: Array) -> float:
    """Signal over noise in dB, of logits whose mean over the pictures is taken off.

    The mean is common to all pictures, and may be right where all else is wrong. Infinite where
    both are the same; minus infinity where logits are not finite or tell no pictures apart.
    """
    signal = reference - reference.mean(axis=0, dtype=np.float64)
    noise = signal - (found - found.mean(axis=0, dtype=np.float64))
    power, lost = float(np.square(signal).sum()), float(np.square(noise).sum())
    if not (math.isfinite(power) and math.isfinite(lost)):
        return -math.inf
    if lost == 0:
        return math.inf
    return 10 * math.log10(power / lost) if power > 0 else -math.inf
