"""Which layers hurt most: the noise that each makes in the answers when it alone is int8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from levit.export.contract import signal_to_noise
from levit.export.quantization.grid import Quantization
from levit.export.quantization.layers import layers_by_name
from levit.export.quantization.quantize import mixed
from levit.export.quantization.reference import QuantizedOps
from levit.models.model import Model
from levit.models.ops import Array, NumpyOps

__all__ = ["answer_of", "rank_layers"]


def answer_of(model: Model) -> str:
    """The output by which a model is judged: its logits, where it has them."""
    outputs = model.plan.outputs
    return "logits" if "logits" in outputs else outputs[0]


def rank_layers(
    model: Model, quantized: Model, quantization: Quantization, inputs: Array
) -> Sequence[tuple[str, float]]:
    """(name, noise power over signal power of the answers), the worst first.

    Args:
        model: in floating point.
        quantized: the same with its weights on grids.
        inputs: a few, as the model takes them; evaluated in float32, once for each layer.
    """
    output = answer_of(model)
    exact = model.forward(NumpyOps(np.float32), inputs)[output]
    names = list(layers_by_name(model))
    found = []
    for name in quantization.layers:
        one = mixed(model, quantized, [other for other in names if other != name])
        rounded = one.forward(QuantizedOps(quantization.only([name]), np.float32), inputs)[output]
        found.append((name, 10 ** (-signal_to_noise(exact, rounded) / 10)))
    return sorted(found, key=lambda entry: -entry[1])
