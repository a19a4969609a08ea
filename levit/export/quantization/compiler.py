"""From a folded model and calibration pictures to int8, and to less where that is too much."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from levit.errors import CalibrationError
from levit.export.contract import signal_to_noise
from levit.export.onnx.ops import OnnxOps
from levit.export.passes import Applied
from levit.export.quantization.equalize import equalize_norms, equalize_stream
from levit.export.quantization.grid import Quantization, Scheme
from levit.export.quantization.observe import Observed, observe
from levit.export.quantization.pictures import FEWEST, Pictures
from levit.export.quantization.quantize import mixed, quantize
from levit.export.quantization.reference import QuantizedOps
from levit.export.quantization.sensitivity import answer_of, rank_layers
from levit.export.ranges import Taps
from levit.models.levit.layers import LevitParams
from levit.models.model import Model
from levit.models.ops import Array, NumpyOps

__all__ = ["Attempt", "Quantizer"]

# Ranges and rows of more change little, and each is a run of the network.
_PICTURES: Final = 128
# Of the layers, ever more that stay in floating point, the worst first.
_KEPT: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
_SCANNED: Final = 8
# Of channels as they are and made alike: a difference that is worth it shows on few.
_COMPARED: Final = 64
_HEARD: Final = 12
# What equalising has to gain: less is chance.
_WORTH_DB: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What may be written.

    Attributes:
        model: with weights on grids.
        quantization: None where all is in floating point.
        kept: layers that are in floating point though they could be int8, the worst first.
    """

    model: Model
    quantization: Quantization | None = None
    kept: tuple[str, ...] = ()


class Quantizer:
    """Calibrates a model once, and quantizes it as often as it takes.

    Args:
        pictures: to calibrate with.
        scheme: the integers that the target wants.
        dialect: in which the target's graph is emitted.
        grids_of_results: whether results of convolutions are quantized too.
        progress: called with a word for each step as it begins.

    Raises:
        CalibrationError: the pictures are too few or all the same.
    """

    def __init__(
        self,
        pictures: Pictures,
        scheme: Scheme,
        dialect: type[OnnxOps],
        *,
        grids_of_results: bool,
        progress: Callable[[str], None] = lambda step: None,
    ) -> None:
        if len(pictures) < FEWEST:
            raise CalibrationError(
                f"{pictures.origin}: {len(pictures)} pictures to calibrate with, needed are "
                f"{FEWEST} at the least, and some hundred to be good"
            )
        self._all = pictures
        self._pictures = pictures.sample(_PICTURES)
        self._scheme = scheme
        self._dialect = dialect
        self._grids_of_results = grids_of_results
        self._progress = progress
        self._last: tuple[Any, Mapping[str, Observed]] | None = None

    def equalize(self, model: Model) -> list[Applied]:
        """The exact pass that calibration drives, where it helps; its model is to be quantized.

        What it does to each layer's products by itself says little of what comes out at the end:
        so both are quantized in the quick way, from every other picture, and heard on the rest.
        """
        of_levit = isinstance(model.params, LevitParams)
        function = equalize_stream if of_levit else equalize_norms
        observed = self._observe(model)
        equalized, count = function(model, observed, self._scheme)
        if count:
            self._progress("comparing channels made alike with channels as they are")
            before, after = self._signals_to_noise(model, equalized)
            if after < before + _WORTH_DB:
                equalized, count = model, 0
        return [Applied(name=function.__name__, count=count, model=equalized)]

    def _signals_to_noise(self, model: Model, *others: Model) -> list[float]:
        """In dB, of each quantized from a half of the pictures, on some of the other half."""
        fitted, heard = self._pictures.sample(_COMPARED).halves()
        inputs = np.concatenate(list(heard.sample(_HEARD)))
        output = answer_of(model)
        exact = model.forward(NumpyOps(np.float32), inputs)[output]
        found = []
        for one in (model, *others):
            observed = self._observe(one, fitted)
            keep = _kept_by_default(observed)
            quantized, grids = quantize(one, observed, self._scheme, keep=keep, compensate=False)
            answers = quantized.forward(QuantizedOps(grids, np.float32), inputs)[output]
            found.append(signal_to_noise(exact, answers))
        return found

    def attempts(self, model: Model, islands: Collection[str] = ()) -> Iterator[Attempt]:
        """All layers that should be int8, then ever fewer, without those that hurt most.

        Args:
            model: in the form in which it is emitted.
            islands: values and weights that are float32 among float16, which no grid can hold.
        """
        observed = self._observe(model)
        self._progress("rounding weights")
        keep = [*_kept_by_default(observed), *_touching(observed, islands)]
        convolutions = [name for name, one in observed.items() if one.output is not None]
        quantized, quantization = quantize(
            model,
            observed,
            self._scheme,
            keep=keep,
            outputs_of=convolutions if self._grids_of_results else (),
        )
        yield Attempt(model=quantized, quantization=quantization)
        self._progress("looking for the layers that hurt most")
        inputs = np.concatenate(list(self._pictures.sample(_SCANNED)))
        ranked = rank_layers(model, quantized, quantization, inputs)
        for share in _KEPT:
            names = tuple(name for name, _ in ranked[: max(1, round(share * len(ranked)))])
            yield Attempt(
                model=mixed(model, quantized, names),
                quantization=quantization.without(names),
                kept=names,
            )

    def to_dict(self) -> dict[str, Any]:
        """What the manifest says of the calibration."""
        return {
            "on": self._all.origin,
            "images": len(self._pictures),
            "of": len(self._all),
            "ranges": "per tensor: min-max and 15 % more; a percentile or the range of least error "
            "where that quarters the error",
            "weights": "error-minimising scales, GPTQ rounding, bias correction",
        }

    def _observe(self, model: Model, pictures: Pictures | None = None) -> Mapping[str, Observed]:
        taps = Taps(model, dialect=self._dialect, of_layers=True)
        if pictures is not None:
            return observe(taps, pictures, len(pictures))
        # What did not help has left the model as it was.
        if self._last is None or self._last[0] is not model.params:
            self._progress(f"calibrating with {len(self._pictures)} pictures")
            found = observe(taps, self._distinct(), len(self._pictures))
            self._last = (model.params, found)
        return self._last[1]

    def _distinct(self) -> Iterator[Array]:
        """The pictures, which must not be all the same."""
        first, differ = None, False
        for picture in self._pictures:
            first = picture if first is None else first
            differ = differ or not np.array_equal(first, picture)
            yield picture
        if not differ:
            raise CalibrationError(
                f"{self._all.origin}: its pictures are all the same to the network: calibrate with "
                f"such as it will see"
            )


def _kept_by_default(observed: Mapping[str, Observed]) -> list[str]:
    """The first convolution and the heads: few products, next to the pictures and the answers."""
    first = next(iter(observed))
    return [first, *(name for name in observed if name.split(".")[0] in ("head", "head_dist"))]


def _touching(observed: Mapping[str, Observed], islands: Collection[str]) -> list[str]:
    """Layers that read or make an island, or whose weights are one."""
    return [
        name
        for name, one in observed.items()
        if one.source[0] in islands or any(i.startswith((f"{name}.", f"{name}/")) for i in islands)
    ]
