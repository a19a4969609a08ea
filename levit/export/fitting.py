"""fp16's range: values and weights that leave it are kept in float32."""

from __future__ import annotations

from typing import Final

import numpy as np

from levit.export.once import OncePerModel
from levit.export.onnx.ops import weight_name
from levit.export.precision import PRECISIONS
from levit.export.ranges import Ranges, Taps, sample_inputs, scan_ranges
from levit.models.model import Model
from levit.models.ops import Array
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["HEADROOM", "LIMIT", "Scanner", "find_islands"]

# The ranges are those of a few pictures: what another one does may be this much more.
HEADROOM: Final = 16.0
LIMIT: Final = PRECISIONS["fp16"].largest / HEADROOM


class Scanner:
    """Ranges of models' values over sample pictures, and the graphs that they are read from.

    Args:
        golden: inputs of the model; more pictures are drawn beside them.
        spec: how they are normalised; None where the model takes tensors only.
    """

    def __init__(self, golden: Array, spec: PreprocessSpec | None) -> None:
        self._golden = golden
        self._spec = spec
        self._scans: OncePerModel[tuple[Taps, Ranges]] = OncePerModel(most=1)
        self._taps: OncePerModel[Taps] = OncePerModel()

    def scan(self, model: Model) -> tuple[Taps, Ranges]:
        """(the graph with its weights, the ranges of its values)."""

        def make() -> tuple[Taps, Ranges]:
            taps = Taps(model)
            return taps, scan_ranges(taps, sample_inputs(model, self._golden, self._spec))

        return self._scans.get(model, make)

    def taps(self, model: Model) -> Taps:
        """The graph alone, which computes the outputs in float32."""
        scanned = self._scans.find(model)
        if scanned is not None:
            return scanned[0]
        return self._taps.get(model, lambda: Taps(model, names=()))


def find_islands(model: Model, precision: str, scanner: Scanner) -> tuple[str, ...]:
    """Values and weights that are float32 at fp16, by name, in the order of the graph.

    Values that come within the headroom of 65504, or are all too small to have all their digits,
    save for terms of far larger sums; weights that leave the range, or are all too small in a layer
    whose result is not.

    Args:
        model: as it is emitted.
    """
    if precision != "fp16":
        return ()
    taps, ranges = scanner.scan(model)
    kind = PRECISIONS[precision]
    peaks = {name: ranges.peak(name) for name in ranges.high}
    readers = {name: node.output[0] for node in taps.nodes for name in node.input}
    terms = {
        name
        for node in taps.nodes
        if node.op_type == "Add" and peaks[node.output[0]] >= HEADROOM * kind.smallest
        for name in node.input
    }
    values = [
        name
        for name, peak in peaks.items()
        if peak > LIMIT or (0 < peak < kind.smallest and name not in terms)
    ]
    kernels = {weight_name(path) for path in taps.layers}
    weights = []
    for name, weight in taps.weights.items():
        largest, reader = float(np.abs(weight).max(initial=0)), readers[name]
        lost = 0 < largest < kind.smallest <= peaks[reader] and name in kernels
        if (largest > kind.largest or lost) and reader not in values:
            weights.append(name)
    return (*values, *weights)
