"""fp16's range: what leaves it is rescaled where that is exact, and else kept in float32."""

from __future__ import annotations

import numpy as np

from levit.export.onnx.ops import OnnxOps
from levit.export.passes import Applied
from levit.export.precision import PRECISIONS
from levit.export.ranges import Ranges, Taps, sample_inputs, scan_ranges
from levit.export.rescale import LIMIT, RESCALINGS
from levit.models.levit.layers import LevitParams
from levit.models.model import Model
from levit.models.ops import Array
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["Scanner", "find_islands", "fit_range"]


class Scanner:
    """Ranges of a model's values over sample pictures; those of the last model are kept.

    Args:
        golden: inputs of the model; more pictures are drawn beside them.
        spec: how they are normalised; None where the model takes no RGB.
        dialect: in which the model is emitted.
    """

    def __init__(
        self, golden: Array, spec: PreprocessSpec | None, dialect: type[OnnxOps] = OnnxOps
    ) -> None:
        self._golden = golden
        self._spec = spec
        self._dialect = dialect
        self._last: tuple[Model, Taps, Ranges] | None = None

    def scan(self, model: Model) -> tuple[Taps, Ranges]:
        """(the graph with its weights, the ranges of its values)."""
        if self._last is None or not _is_same(self._last[0], model):
            taps = Taps(model, dialect=self._dialect)
            ranges = scan_ranges(taps, sample_inputs(model, self._golden, self._spec))
            self._last = (model, taps, ranges)
        return self._last[1:]

    def taps(self, model: Model) -> Taps:
        """The graph alone."""
        if self._last is not None and _is_same(self._last[0], model):
            return self._last[1]
        return Taps(model, names=(), dialect=self._dialect)


def _is_same(one: Model, other: Model) -> bool:
    return one.params is other.params and one.plan == other.plan


def fit_range(model: Model, precision: str, scanner: Scanner) -> list[Applied]:
    """Run the rescaling passes, at fp16; bfloat16 has the range of float32.

    They are LeViT's: other families keep what leaves the range in float32.
    """
    if precision != "fp16" or not isinstance(model.params, LevitParams):
        return []
    # Channels are an axis of their own in this dataflow, whatever the target's is.
    _, ranges = scanner.scan(model.with_plan(channels_first=True))
    applied = []
    for function in RESCALINGS:
        model, count = function(model, ranges)
        applied.append(Applied(name=function.__name__, count=count, model=model))
    return applied


def find_islands(model: Model, precision: str, scanner: Scanner) -> tuple[str, ...]:
    """Values and weights that are float32 at fp16, by name, in the order of the graph.

    Values that come within the headroom of 65504, and outputs that are all too small to have
    all their digits; weights that leave the range, or that are all too small in a layer whose
    result is not.

    Args:
        model: as it is emitted.
    """
    if precision != "fp16":
        return ()
    taps, ranges = scanner.scan(model)
    kind = PRECISIONS[precision]
    outputs = set(taps.outputs.values())
    values = []
    for name in ranges.high:
        peak = ranges.peak(name)
        if peak > LIMIT or (name in outputs and 0 < peak < kind.smallest):
            values.append(name)
    weights = []
    for name, weight in taps.weights.items():
        largest, reader = float(np.abs(weight).max(initial=0)), taps.readers[name]
        lost = 0 < largest < kind.smallest <= ranges.peak(reader) and name.endswith("weight")
        if (largest > kind.largest or lost) and reader not in values:
            weights.append(name)
    return (*values, *weights)
