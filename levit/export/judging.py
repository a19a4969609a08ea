"""An artifact before the accuracy contract: the pictures, both answers to them, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levit.artifact import Manifest
from levit.errors import CalibrationError, ConfigError, VerificationError
from levit.export.contract import (
    MIN_DECISIONS,
    Answers,
    Forward,
    Judgement,
    answers_of,
    images_needed,
    judge,
)
from levit.export.options import DEFAULT_MAX_DROP, ExportOptions
from levit.export.prepare import Prepared
from levit.export.progress import Progress
from levit.export.quantization.pictures import Pictures
from levit.export.targets import Target
from levit.export.verify_artifact import forward_of
from levit.runtime.predictor import Predictor

__all__ = ["Judge", "accuracy_entry", "choose_judge", "refusal"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Compares an artifact's answers with those of the float32 model.

    Attributes:
        pictures: to judge by.
        max_drop: points of top-1 that may be lost, where the pictures have labels.
        scores: activation of the logits.
    """

    pictures: Pictures
    max_drop: float
    scores: str = "softmax"

    @property
    def assumed(self) -> tuple[str, ...]:
        """Choices about the pictures' labels, in words."""
        return tuple(f"labels of {self.pictures.origin}: {text}" for text in self.pictures.assumed)

    def require_enough(self, precision: str) -> None:
        """Raise `VerificationError` where there are too few to tell anything."""
        needed = images_needed(None if self.pictures.labels is None else self.max_drop)
        if len(self.pictures) < needed:
            raise VerificationError(
                f"{len(self.pictures)} images cannot tell whether {precision} keeps the accuracy, "
                f"it takes {needed}; it is not written (give more with --eval, or add --force)"
            )

    def of_folder(
        self,
        folder: Path,
        target: Target,
        reference: Answers,
        progress: Progress,
        *,
        only_verdict: bool,
    ) -> Judgement:
        """Judge an artifact that this host can run; its manifest is in its folder.

        Args:
            only_verdict: stop at the picture by which it has failed.
        """
        with Predictor(
            folder, target.device, prove=False, allow_host_code=True
        ) as predictor:  # built a moment ago, by this process
            return self._judge(predictor.forward, reference, progress, only_verdict)

    def of_graph(
        self,
        graph: bytes,
        manifest: Manifest,
        reference: Answers,
        progress: Progress,
        *,
        only_verdict: bool,
    ) -> Judgement:
        """Judge the graph that an engine was built from, by ONNX Runtime on the CPU."""
        return self._judge(forward_of(graph, manifest), reference, progress, only_verdict)

    def _judge(
        self, forward: Forward, reference: Answers, progress: Progress, only_verdict: bool
    ) -> Judgement:
        # A drop of top-1 may be made good by the last picture.
        agree = only_verdict and self.pictures.labels is None and self.scores == "softmax"
        answers = answers_of(
            forward, self.pictures, progress, to_agree_with=reference if agree else None
        )
        return judge(self.pictures, reference, answers, self.max_drop, self.scores)


def choose_judge(prepared: Prepared, options: ExportOptions) -> Judge | None:
    """The judge of one artifact, or None where nobody needs to judge it.

    Args:
        options: of the artifact.

    Raises:
        CalibrationError: the pictures cannot be used.
        ConfigError: there are no logits to judge by.
    """
    if options.precision == "fp32" or options.verify == "none":
        return None
    if prepared.options.eval is None and prepared.options.calibration is None:
        return None
    if "logits" not in prepared.trained.plan.outputs:
        if options.force:
            return None
        raise ConfigError(
            f"{options.precision} is judged by its logits, which are no output here: add logits "
            f"to --outputs, or --force to have it unjudged"
        )
    scores = prepared.scores or "softmax"
    if options.max_drop is not None and scores != "softmax":
        raise ConfigError(
            f"max_drop is in points of top-1, which scores {scores!r} have none of: leave out "
            f"--max-drop"
        )
    pictures = prepared.judging
    assert pictures is not None
    if options.max_drop is not None and pictures.labels is None:
        raise CalibrationError(
            f"{pictures.origin}: has no labels, which max_drop needs: put its pictures into "
            f"folders by class, or leave out --max-drop to compare first classes with float32"
        )
    max_drop = DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop
    return Judge(pictures=pictures, max_drop=max_drop, scores=scores)


def refusal(judgement: Judgement, precision: str, worst: Sequence[str]) -> VerificationError:
    """The reason why an artifact is not written, by enough pictures (`Judge.require_enough`)."""
    if judgement.is_guessed:
        what = (
            f"float32 itself has {judgement.reference_top1:.2%} of the labels of {judgement.on} "
            f"right, which is chance, so that nothing tells what {precision} loses"
        )
        advice = "are they this model's labels, and is this its preprocessing? or add --force"
    elif judgement.is_one_sided:
        what = (
            f"float32 itself says yes, or no, {judgement.decisions} times to the images of "
            f"{judgement.on}, where {MIN_DECISIONS} of each are needed to tell what {precision} "
            f"loses"
        )
        advice = "judge it on images with --eval that show more of the classes, or add --force"
    else:
        what = f"{precision} does not keep the accuracy: {judgement.words()}"
        advice = "calibrate with more like pictures, use a higher precision, or add --force"
        if worst:
            what += f"; what hurts most: {', '.join(worst)}"
    return VerificationError(f"{what}; it is not written ({advice})")


def accuracy_entry(
    judgement: Judgement, kept: Sequence[str], first: Judgement | None
) -> Mapping[str, Any]:
    """The manifest's ``verification.accuracy``.

    Args:
        kept: layers in floating point because they hurt.
        first: the judgement without them, where there are such.
    """
    return {
        **judgement.to_dict(),
        "kept_in_floating_point": list(kept),
        "without_them": None if first is None else first.to_dict(),
    }
