"""A folded model and calibration pictures → int8, and less of it where that is too much."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from levit.errors import CalibrationError
from levit.export.grids import PixelGrid, Quantization, Scheme
from levit.export.once import OncePerModel
from levit.export.passes import Applied
from levit.export.progress import Progress, silent
from levit.export.quantization.attention import with_attention_grids
from levit.export.quantization.equalize import equalizer_of
from levit.export.quantization.observe import Observed, observe, rescaled
from levit.export.quantization.pictures import FEWEST, Pictures
from levit.export.quantization.quantize import mixed, quantize, with_result_grids
from levit.export.quantization.reference import QuantizedOps
from levit.export.quantization.sensitivity import (
    Noise,
    answer_of,
    rank_layers,
    signal_to_noise,
)
from levit.export.ranges import Taps
from levit.export.threads import in_threads
from levit.models.model import Model
from levit.models.ops import Array, NumpyOps

__all__ = ["Attempt", "Quantizer"]

# Ranges and rows of more change little, and each is a run of the network.
_PICTURES: Final = 128
# Shares of the layers that stay in floating point, the worst first, one attempt after the other.
_KEPT: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
_SCANNED: Final = 8
# Pictures that decide between channels as they are and made alike: a difference that is worth it
# shows on few.
_HEARD: Final = 12
# Gain that equalising must have: less is chance.
_WORTH_DB: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One way to quantize a model.

    Attributes:
        model: with weights on grids.
        quantization: None where all is in floating point.
        kept: layers that are in floating point though they could be int8, the worst first.
    """

    model: Model
    quantization: Quantization | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Rounded:
    """A model on grids.

    Attributes:
        results: extremes of the results of its convolutions.
        noise: of single layers, as far as it has been measured.
    """

    model: Model
    quantization: Quantization
    results: Mapping[str, tuple[float, float]]
    noise: Noise


class Quantizer:
    """Calibrates and quantizes models.

    All targets that multiply the same integers share observations and rounded weights: each is
    made once for a model and a scheme.

    Args:
        pictures: to calibrate with.

    Raises:
        CalibrationError: the pictures are too few or all the same.
    """

    def __init__(self, pictures: Pictures) -> None:
        if len(pictures) < FEWEST:
            raise CalibrationError(
                f"{pictures.origin}: {len(pictures)} pictures to calibrate with, needed are "
                f"{FEWEST} at the least, and some hundred to be good"
            )
        self._all = pictures
        self._pictures = pictures.sample(_PICTURES)
        # Of the last model alone: those of a large one take a gigabyte.
        self._observed: OncePerModel[Mapping[str, Observed]] = OncePerModel(most=1)
        self._equalized: OncePerModel[Applied] = OncePerModel()
        self._rounded: OncePerModel[_Rounded] = OncePerModel()

    def equalize(self, model: Model, scheme: Scheme, progress: Progress = silent) -> Applied:
        """The exact pass that calibration drives, where it helps; its model is to be quantized.

        Its effect on each layer's products says little of the answers. So both models are
        quantized in the quick way, from every other picture, and compared on the rest.
        """
        return self._equalized.get(model, lambda: self._equalize(model, scheme, progress), scheme)

    def _equalize(self, model: Model, scheme: Scheme, progress: Progress) -> Applied:
        function = equalizer_of(model)
        observed = self._observe(model, progress)
        equalized = function(model, observed, scheme)
        if equalized.count:
            progress("comparing channels made alike with channels as they are")
            seen = rescaled(observed, equalized.inputs, equalized.results)
            before, after = self._signals_to_noise(
                scheme, (model, observed), (equalized.model, seen)
            )
            if after < before + _WORTH_DB:
                return Applied(name=function.__name__, count=0, model=model)
            # They are the same values but for the factors, and need no other run.
            self._observed.get(equalized.model, lambda: seen)
        return Applied(name=function.__name__, count=equalized.count, model=equalized.model)

    def _signals_to_noise(
        self, scheme: Scheme, *candidates: tuple[Model, Mapping[str, Observed]]
    ) -> list[float]:
        """Measure in dB each one quantized from a half of the pictures, on some of the other half.

        Args:
            candidates: models of one function, and what is observed of them.
        """
        _, heard = self._pictures.halves()
        inputs = np.concatenate(list(heard.sample(_HEARD)))
        model, _ = candidates[0]
        output = answer_of(model)
        forwards: list[tuple[Model, NumpyOps]] = [(model, NumpyOps(np.float32))]
        for one, observed in candidates:
            halves = {name: seen.half for name, seen in observed.items() if seen.half is not None}
            keep = _ends(halves)
            quantized, grids = quantize(one, halves, scheme, keep=keep, compensate=False)
            forwards.append((quantized, QuantizedOps(grids, np.float32)))
        exact, *found = in_threads(lambda one: one[0].forward(one[1], inputs)[output], forwards)
        return [signal_to_noise(exact, answers) for answers in found]

    def attempts(
        self,
        model: Model,
        scheme: Scheme,
        islands: Collection[str] = (),
        *,
        integer_results: bool = False,
        integer_attention: bool = False,
        keep_first: bool = True,
        progress: Progress = silent,
    ) -> Iterator[Attempt]:
        """All layers that should be int8, then ever fewer, without those that hurt most.

        Args:
            model: in the form in which it is emitted.
            islands: values and weights that are float32 among float16, which no grid can hold.
            integer_results: whether results of convolutions are quantized too.
            integer_attention: whether the products of attentions are, each as one layer more.
            keep_first: whether the first convolution stays in floating point also where it reads
                pixels, which are integers already; of floats its products are always.
        """
        # Where nothing reads pixels as they are, all targets share what is rounded.
        keep_first = keep_first or not _reads_pixels(model)
        rounded = self._rounded.get(
            model,
            lambda: self._round(model, scheme, islands, progress, keep_first=keep_first),
            scheme,
            frozenset(islands),
            keep_first,
        )
        quantized, quantization = rounded.model, rounded.quantization
        if integer_attention:
            observed = self._observe(model, progress)
            quantization = with_attention_grids(quantization, model, observed)
        if integer_results:
            quantization = with_result_grids(quantization, rounded.results)
        yield Attempt(model=quantized, quantization=quantization)
        progress("looking for the layers that hurt most")
        inputs = np.concatenate(list(self._pictures.sample(_SCANNED)))
        ranked = rank_layers(model, quantized, quantization, inputs, rounded.noise, progress)
        for share in _KEPT:
            names = tuple(name for name, _ in ranked[: max(1, round(share * len(ranked)))])
            yield Attempt(
                model=mixed(model, quantized, names),
                quantization=quantization.without(names),
                kept=names,
            )

    def _round(
        self,
        model: Model,
        scheme: Scheme,
        islands: Collection[str],
        progress: Progress,
        *,
        keep_first: bool,
    ) -> _Rounded:
        observed = self._observe(model, progress)
        progress("rounding weights")
        inputs = {} if keep_first else _without_range(model, observed)
        keep = [name for name in _ends(observed) if name not in inputs]
        keep += _touching(observed, islands)
        quantized, quantization = quantize(
            model, observed, scheme, keep=keep, inputs=inputs, progress=progress
        )
        results = {name: one.output for name, one in observed.items() if one.output is not None}
        return _Rounded(model=quantized, quantization=quantization, results=results, noise={})

    def to_dict(self) -> dict[str, Any]:
        """The manifest's ``calibration``."""
        return {
            "on": self._all.origin,
            "images": len(self._pictures),
            "of": len(self._all),
            "ranges": "per tensor: min-max and 15 % more; a percentile or the range of least error "
            "where that quarters the error",
            "weights": "error-minimising scales, GPTQ rounding, bias correction",
        }

    def _observe(self, model: Model, progress: Progress) -> Mapping[str, Observed]:
        def make() -> Mapping[str, Observed]:
            progress("calibrating", 0, len(self._pictures))
            pictures = self._distinct(progress)
            return observe(Taps(model, of_layers=True), pictures, len(self._pictures))

        return self._observed.get(model, make)

    def _distinct(self, progress: Progress) -> Iterator[Array]:
        """The pictures, which must not be all the same."""
        first, differ = None, False
        for number, picture in enumerate(self._pictures):
            first = picture if first is None else first
            differ = differ or not np.array_equal(first, picture)
            yield picture
            progress("calibrating", number + 1, len(self._pictures))
        if not differ:
            raise CalibrationError(
                f"{self._all.origin}: its pictures are all the same to the network: calibrate with "
                f"such as it will see"
            )


def _ends(observed: Mapping[str, Observed]) -> list[str]:
    """The first convolution and the heads: few products, next to the pictures and the answers."""
    return [next(iter(observed)), *_heads(observed)]


def _heads(observed: Mapping[str, Observed]) -> list[str]:
    """The heads, which read a row or two of a picture: what is cut off there, answers lack."""
    return [name for name in observed if name.split(".")[0] in ("head", "head_dist")]


def _reads_pixels(model: Model) -> bool:
    """Tell whether the first layer reads pixels, whose normalisation is in its weights."""
    return model.plan.pixels is not None and model.plan.pixels_folded


def _without_range(model: Model, observed: Mapping[str, Observed]) -> dict[str, PixelGrid]:
    """The grid of the first layer's input, where that is pixels as they are."""
    if model.plan.pixels is None or not _reads_pixels(model):
        return {}
    offset = tuple(255 * mean for mean in model.plan.pixels[0])
    return {next(iter(observed)): PixelGrid(offset=offset)}


def _touching(observed: Mapping[str, Observed], islands: Collection[str]) -> list[str]:
    """Layers that read or make an island, or whose weights are one."""
    return [
        name
        for name, one in observed.items()
        if one.source[0] in islands or not one.made.isdisjoint(islands)
    ]
