"""An artifact before the accuracy contract: which pictures, whose answers, what is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from levit.artifact import Manifest
from levit.errors import CalibrationError, ConfigError, VerificationError
from levit.export.contract import Answers, Judgement, answers_of, images_needed, judge
from levit.export.onnx.ops import OnnxOps
from levit.export.options import DEFAULT_MAX_DROP, ExportOptions
from levit.export.quantization.pictures import Pictures, read_pictures
from levit.export.ranges import Taps
from levit.export.targets import Target
from levit.export.verify_artifact import forward_of
from levit.models.model import Model
from levit.pictures.preprocess import PreprocessSpec
from levit.runtime.predictor import Predictor

__all__ = ["Judge", "choose_judge", "note_judgement", "refusal"]


class Judge:
    """Holds the pictures, and what the float32 model says to them.

    Args:
        pictures: to judge by.
        max_drop: points of top-1, where they have labels.
    """

    def __init__(self, pictures: Pictures, max_drop: float) -> None:
        self.pictures = pictures
        self._max_drop = max_drop
        self._reference: Answers | None = None

    @property
    def assumed(self) -> tuple[str, ...]:
        """Of the pictures' labels, in words."""
        return tuple(f"labels of {self.pictures.origin}: {text}" for text in self.pictures.assumed)

    def require_enough(self, precision: str) -> None:
        """Raise `VerificationError` where there are too few to tell anything."""
        needed = images_needed(None if self.pictures.labels is None else self._max_drop)
        if len(self.pictures) < needed:
            raise VerificationError(
                f"{len(self.pictures)} images cannot tell whether {precision} keeps the accuracy, "
                f"it takes {needed}; it is not written (give more with --eval, or add --force)"
            )

    def hear(self, model: Model, dialect: type[OnnxOps]) -> None:
        """Note what the model says in float32, which answers are compared with."""
        self._reference = answers_of(Taps(model, names=(), dialect=dialect).forward, self.pictures)

    def of_folder(self, folder: Path, target: Target) -> Judgement:
        """An artifact that this host can run; its manifest is in its folder."""
        with Predictor(
            folder, target.device, prove=False, allow_host_code=True
        ) as predictor:  # built a moment ago, by this process
            return self._judge(answers_of(predictor.forward, self.pictures))

    def of_graph(self, graph: bytes, manifest: Manifest) -> Judgement:
        """What an engine was built from, by ONNX Runtime on the CPU."""
        return self._judge(answers_of(forward_of(graph, manifest), self.pictures))

    def _judge(self, answers: Answers) -> Judgement:
        assert self._reference is not None, "it has not heard the model"
        return judge(self.pictures, self._reference, answers, self._max_drop)


def choose_judge(
    options: ExportOptions, model: Model, spec: PreprocessSpec | None, labels: Sequence[str]
) -> Judge | None:
    """Who judges this export, or None where nobody needs to.

    Raises:
        CalibrationError: the pictures cannot be used.
        ConfigError: there are no logits to judge by.
    """
    place = options.eval if options.eval is not None else options.calibration
    if place is None or options.verify == "none":
        return None
    if "logits" not in model.plan.outputs:
        if options.force:
            return None
        raise ConfigError(
            f"{options.precision} is judged by its logits, which are no output here: add logits "
            f"to --outputs, or --force to have it unjudged"
        )
    pictures = read_pictures(place, model, spec, labels if options.eval is not None else None)
    if options.eval is None:
        pictures = replace(pictures, origin=f"{pictures.origin}, with which it is calibrated")
    max_drop = DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop
    if options.max_drop is not None and pictures.labels is None:
        raise CalibrationError(
            f"{pictures.origin}: has no labels, which max_drop needs: put its pictures into "
            f"folders by class, or leave out --max-drop to compare first classes with float32"
        )
    return Judge(pictures, max_drop)


def refusal(judgement: Judgement, precision: str, worst: Sequence[str]) -> VerificationError:
    """Why an artifact is not written, of enough pictures (`Judge.require_enough`)."""
    if judgement.is_guessed:
        what = (
            f"float32 itself has {judgement.reference_top1:.2%} of the labels of {judgement.on} "
            f"right, which is chance, so that nothing tells what {precision} loses"
        )
        advice = "are they this model's labels, and is this its preprocessing? or add --force"
    else:
        what = f"{precision} does not keep the accuracy: {judgement.words()}"
        advice = "calibrate with more like pictures, use a higher precision, or add --force"
        if worst:
            what += f"; what hurts most: {', '.join(worst)}"
    return VerificationError(f"{what}; it is not written ({advice})")


def note_judgement(
    verification: dict[str, Any],
    judgement: Judgement,
    kept: Sequence[str],
    first: Judgement | None,
) -> None:
    """Note in the manifest's `verification` what came out.

    Args:
        kept: layers in floating point because they hurt.
        first: the judgement without them, where there are such.
    """
    verification["accuracy"] = {
        **judgement.to_dict(),
        "kept_in_floating_point": list(kept),
        "without_them": None if first is None else first.to_dict(),
    }
    if judgement.verdict != "passed":
        verification["status"] = "forced"
