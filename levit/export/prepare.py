"""An export's options → everything that does not depend on the target, each made once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from levit.errors import ConfigError
from levit.export.contract import Answers, answers_of
from levit.export.fitting import Scanner
from levit.export.once import OncePerModel
from levit.export.options import ExportOptions
from levit.export.passes import Applied, passes_for, relative_difference, run_passes
from levit.export.preprocessing import choose_preprocess
from levit.export.progress import Progress, silent
from levit.export.quantization.compiler import Quantizer
from levit.export.quantization.pictures import Decoder, Pictures, read_pictures
from levit.export.scores import choose_scores
from levit.export.settings import choose_labels, choose_outputs
from levit.export.sources import Source, load_source
from levit.export.verify import Golden, golden_cases
from levit.models.model import Model
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A checkpoint that is ready to be written for any number of targets.

    Attributes:
        options: as the user gave them; those of one artifact may be narrower.
        source: the model as trained, with the inputs and outputs that are asked for.
        spec: preprocessing; None where the model takes tensors only.
        labels: class names.
        scores: activation of the logits; None where they are no output.
        assumed: choices that nothing stated, in words.
    """

    options: ExportOptions
    source: Source
    spec: PreprocessSpec | None
    labels: tuple[str, ...]
    scores: str | None
    assumed: tuple[str, ...]
    _folded: dict[int, tuple[Applied, ...]] = field(default_factory=dict, repr=False)
    _differences: OncePerModel[float] = field(default_factory=OncePerModel, repr=False)
    _answers: OncePerModel[Answers] = field(default_factory=OncePerModel, repr=False)

    @property
    def trained(self) -> Model:
        """The model as trained."""
        return self.source.model

    @cached_property
    def golden(self) -> Golden:
        """Golden cases, with the answers of the model as trained."""
        return golden_cases(self.trained, self.spec)

    @cached_property
    def scanner(self) -> Scanner:
        """Ranges of models' values, and their float32 graphs."""
        return Scanner(self.golden.inputs, self.spec)

    @cached_property
    def source_library(self) -> dict[str, Any]:
        """Comparison of the reference with the library that the checkpoint comes from.

        Raises:
            BackendUnavailableError: the library is not installed.
            VerificationError: the reference is not the source's function.
        """
        from levit.export.verify_source import compare_with_source

        return compare_with_source(self.source, self.golden)

    @cached_property
    def _decoder(self) -> Decoder | None:
        return None if self.spec is None else Decoder(self.spec)

    @cached_property
    def quantizer(self) -> Quantizer:
        """Calibrated with the pictures that the options name.

        Raises:
            CalibrationError: they cannot be used.
        """
        assert self.options.calibration is not None
        return Quantizer(self.calibration)

    @cached_property
    def calibration(self) -> Pictures:
        """Pictures to calibrate with."""
        assert self.options.calibration is not None
        return read_pictures(self.options.calibration, self.trained, self._decoder)

    @cached_property
    def judging(self) -> Pictures | None:
        """Pictures to judge by: those of ``eval``, else those of the calibration, else none."""
        if self.options.eval is not None:
            # One class for each picture says nothing about the other scores of a sigmoid.
            labels = self.labels if self.scores == "softmax" else None
            return read_pictures(self.options.eval, self.trained, self._decoder, labels)
        if self.options.calibration is None:
            return None
        origin = f"{self.calibration.origin}, with which it is calibrated"
        return replace(self.calibration, origin=origin)

    def folded(self, precision: str) -> tuple[Applied, ...]:
        """The passes that are run for a precision, of which the last has the folded model."""
        passes = passes_for(precision)
        key = len(passes)
        if key not in self._folded:
            self._folded[key] = tuple(run_passes(self.trained, passes))
        return self._folded[key]

    def difference(self, model: Model) -> float:
        """Relative difference of a folded model from the one as trained, in float64.

        Two cases say as much as all.
        """
        reference = {name: value[:2] for name, value in self.golden.outputs.items()}
        return self._differences.get(
            model,
            lambda: relative_difference("folding", reference, model, self.golden.inputs[:2]),
        )

    def answers(self, model: Model, progress: Progress = silent) -> Answers:
        """Answers of a model in float32 to the pictures to judge by."""
        pictures = self.judging
        assert pictures is not None

        def make() -> Answers:
            taps = self.scanner.taps(model)
            return answers_of(taps.forward, pictures, progress, "asking the float32 model")

        return self._answers.get(model, make)


def prepare(options: ExportOptions, *, model: Any = None, progress: Progress = silent) -> Prepared:
    """Read the checkpoint that the options name, and choose what the artifact takes and gives.

    ::

        prepared = prepare(ExportOptions(model="levit_digits"))
        artifact = write(prepared, TARGETS["onnx"], prepared.options)

    Args:
        model: a live ``torch.nn.Module`` in place of a checkpoint.
        progress: told each step.

    Raises:
        LevitError: the options name no model, or one that cannot be read.
    """
    progress("reading weights")
    source = load_source(options, model)
    spec, assumed = choose_preprocess(options, source)
    labels, unnamed = choose_labels(options, source)
    source = replace(source, model=_planned(options, source.model, spec))
    scores, unsaid = choose_scores(options, source, labels)
    return Prepared(
        options=options,
        source=source,
        spec=spec,
        labels=labels,
        scores=scores,
        assumed=(*source.assumed, *assumed, *unnamed, *unsaid),
    )


def _planned(options: ExportOptions, model: Model, spec: PreprocessSpec | None) -> Model:
    """`model` with the inputs and outputs that are asked for."""
    model = model.with_plan(outputs=choose_outputs(options, model))
    if options.input == "float32":
        return model
    if spec is None:
        raise ConfigError(
            "--input uint8 is for models of pictures, of one or three channels or of four with "
            "--image-mode RGBA; use float32"
        )
    if spec.image_mode == "I;16":
        raise ConfigError("--input uint8 is for pictures of 8 bits; use float32")
    return model.with_plan(pixels=(spec.mean, spec.std))
