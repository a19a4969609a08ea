"""Sensitivity of layers: the noise that each makes in the answers when it alone is int8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from levit.export.grids import Grid, Quantization
from levit.export.progress import Progress, silent
from levit.export.quantization.quantize import mixed
from levit.export.quantization.reference import QuantizedOps
from levit.models.model import Model
from levit.models.ops import Array, NumpyOps

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
    places: dict[str, tuple[str, Grid | None]] = {
        **{name: (name, grids.output) for name, grids in quantization.layers.items()},
        **{name: (name, None) for name in quantization.attentions},
    }
    missing = [name for name, place in places.items() if place not in noise]
    if missing:
        exact = model.forward(NumpyOps(np.float32), inputs)[output]
    for number, name in enumerate(missing):
        one = mixed(quantized, model, [name])  # all in floating point but this layer
        answers = one.forward(QuantizedOps(quantization.only([name]), np.float32), inputs)[output]
        noise[places[name]] = 10 ** (-signal_to_noise(exact, answers) / 10)
        progress("looking for the layers that hurt most", number + 1, len(missing))
    found = [(name, noise[place]) for name, place in places.items()]
    return sorted(found, key=lambda entry: -entry[1])


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
