"""fp16's range: what leaves it is rescaled where that is exact, and else kept in float32."""

from __future__ import annotations

import numpy as np

from levit.export.passes import Applied
from levit.export.precision import PRECISIONS
from levit.export.ranges import Ranges, Taps, sample_inputs, scan_ranges
from levit.export.rescale import LIMIT, RESCALINGS
from levit.models.model import Model
from levit.models.ops import Array

__all__ = ["Scanner", "find_islands", "fit_range"]


class Scanner:
    """Ranges of a model's values over sample pictures; those of the last model are kept.

    Args:
        golden: inputs of the model; more pictures are drawn beside them.
    """

    def __init__(self, golden: Array) -> None:
        self._golden = golden
        self._last: tuple[Model, Taps, Ranges] | None = None

    def scan(self, model: Model) -> tuple[Taps, Ranges]:
        """(the graph with its weights, the ranges of its values)."""
        last = self._last
        if last is not None and last[0].params is model.params and last[0].plan == model.plan:
            return last[1:]
        taps = Taps(model)
        ranges = scan_ranges(taps, sample_inputs(model, self._golden))
        self._last = (model, taps, ranges)
        return taps, ranges


def fit_range(model: Model, precision: str, scanner: Scanner) -> list[Applied]:
    """Run the rescaling passes, at fp16; bfloat16 has the range of float32."""
    if precision != "fp16":
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

    Values that come within the headroom of 65504; weights that leave the range, or that are all
    too small to have all their digits, in a layer whose result is not.

    Args:
        model: as it is emitted.
    """
    if precision != "fp16":
        return ()
    taps, ranges = scanner.scan(model)
    kind = PRECISIONS[precision]
    values = [name for name in ranges.high if ranges.peak(name) > LIMIT]
    weights = []
    for name, weight in taps.weights.items():
        largest, reader = float(np.abs(weight).max(initial=0)), taps.readers[name]
        lost = 0 < largest < kind.smallest <= ranges.peak(reader) and name.endswith("weight")
        if (largest > kind.largest or lost) and reader not in values:
            weights.append(name)
    return (*values, *weights)
