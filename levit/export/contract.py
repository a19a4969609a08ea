"""The accuracy contract: an artifact of low precision is written if it answers as its model does.

Pictures with labels tell how many points of top-1 are lost, pictures without labels how many first
classes are the same. Where a first class means nothing, the decisions of a multi-label model are
compared, or the values of a regression. All against the folded model in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from levit.errors import CalibrationError
from levit.export.measures import decision_agreement, determination
from levit.export.progress import Progress, silent
from levit.export.quantization.pictures import Pictures
from levit.export.quantization.sensitivity import signal_to_noise
from levit.models.ops import Array

__all__ = [
    "MIN_AGREEMENT",
    "MIN_DECISIONS",
    "MIN_UNLABELLED",
    "Answers",
    "Forward",
    "Judgement",
    "answers_of",
    "images_needed",
    "judge",
]

MIN_AGREEMENT: Final = 0.99
MIN_UNLABELLED: Final = 300
# Of the yes and of the no of a multi-label model; with fewer, one decision decides.
MIN_DECISIONS: Final = 100
# Pictures that an allowed drop is at least; with fewer, one picture decides.
_DECIDING: Final = 10
_BATCH: Final = 16

Forward = Callable[[Array], Mapping[str, Array]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """(N, classes) logits to the pictures in their order."""

    logits: Array

    @property
    def top1(self) -> Array:
        """(N,) classes; -1 where the answer is not finite, and so none."""
        finite = np.isfinite(self.logits).all(axis=-1)
        classes: Array = np.where(finite, self.logits.argmax(axis=-1), -1)
        return classes


def answers_of(
    forward: Forward,
    pictures: Pictures,
    progress: Progress = silent,
    step: str = "judging",
    to_agree_with: Answers | None = None,
) -> Answers:
    """Answers of a network to all pictures.

    Args:
        progress: told under the name of `step` how many pictures are answered.
        to_agree_with: answers that are to be kept. Pictures whose first class there is the least
            sure come first, and once too many differ, the network is not asked about the others,
            which then count as kept.

    Raises:
        CalibrationError: one is no picture, or not finite.
    """
    order = np.arange(len(pictures)) if to_agree_with is None else _least_sure(to_agree_with)
    rows: list[Array] = []
    batch: list[Array] = []
    for number, picture in enumerate(pictures.chosen(order)):
        if not np.isfinite(picture).all():
            raise CalibrationError(
                f"{pictures.origin}: input {order[number]} has values that are not finite"
            )
        batch.append(picture)
        if len(batch) == _BATCH:
            rows.append(forward(np.concatenate(batch))["logits"])
            batch = []
            progress(step, number + 1, len(pictures))
            if to_agree_with is not None:
                asked = order[: number + 1]
                if _has_failed(np.concatenate(rows), to_agree_with, asked):
                    rows.append(to_agree_with.logits[order[number + 1 :]])
                    break
    if batch:
        rows.append(forward(np.concatenate(batch))["logits"])
    logits = np.concatenate(rows).astype(np.float32)
    return Answers(logits=logits[np.argsort(order)])


def _least_sure(answers: Answers) -> Array:
    """(N,) places of the pictures, those first whose two largest logits are the nearest.

    Of these an attempt that fails gets most wrong, and is found out by the first few.
    """
    if answers.logits.shape[-1] < 2:
        return np.arange(len(answers.logits))
    second, first = np.partition(answers.logits, -2, axis=-1)[:, -2:].T
    order: Array = np.argsort(first - second, kind="stable")
    return order


def _has_failed(logits: Array, reference: Answers, asked: Array) -> bool:
    """True where no answers to the other pictures can reach the least agreement any more."""
    differ = np.sum(Answers(logits=logits).top1 != reference.top1[asked])
    return bool(differ > (1 - MIN_AGREEMENT) * len(reference.logits) + 1e-9)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Comparison of an artifact's answers with its model's.

    Attributes:
        measure: ``top1_drop``, in points of a hundred; ``top1_agreement``, a fraction;
            ``decision_agreement`` of a sigmoid, or ``r_squared`` of values (`levit.export.measures`
            defines both).
        value: the drop or the agreement that was found.
        allowed: the most drop, or the least agreement.
        images: number of pictures.
        needed: number that it takes to tell.
        top1, reference_top1: of the artifact and of the float32 model; None without labels.
        chance: top-1 that guessing reaches on so many, but for one time in a thousand; None
            without labels.
        decisions: float32's yes or no, whichever are fewer; None but at ``decision_agreement``.
        signal_to_noise_db: of the logits, each class's mean over the pictures taken off; None
            where that is no finite number.
        on: origin of the pictures.
    """

    measure: str
    value: float
    allowed: float
    images: int
    needed: int
    top1: float | None
    reference_top1: float | None
    chance: float | None
    signal_to_noise_db: float | None
    on: str
    decisions: int | None = None

    @property
    def is_guessed(self) -> bool:
        """True where float32 itself is right by chance alone, so that nothing can be lost."""
        if self.reference_top1 is None or self.chance is None:
            return False
        return self.reference_top1 <= self.chance

    @property
    def is_one_sided(self) -> bool:
        """True where float32 hardly ever says yes, or no, so that the other tells nothing."""
        return self.decisions is not None and self.decisions < MIN_DECISIONS

    @property
    def verdict(self) -> str:
        """``passed``, ``failed``, or ``cannot tell``."""
        if self.images < self.needed or self.is_guessed or self.is_one_sided:
            return "cannot tell"
        if self.measure == "top1_drop":
            within = self.value <= self.allowed + 1e-9
        else:
            within = self.value >= self.allowed - 1e-9
        return "passed" if within else "failed"

    def words(self) -> str:
        """The finding, in a part of a line."""
        if self.measure == "top1_drop":
            assert self.top1 is not None
            assert self.reference_top1 is not None
            return (
                f"top-1 is {self.top1:.2%} where float32 has {self.reference_top1:.2%}: a drop of "
                f"{self.value:.2f} points, allowed are {self.allowed:g}, on {self.images} images"
            )
        if self.measure == "decision_agreement":
            return (
                f"its decisions at a score of 0.5 agree with float32's to {self.value:.2%} on "
                f"{self.images} images, needed are {self.allowed:.0%}"
            )
        if self.measure == "r_squared":
            return (
                f"its values have an R² of {self.value:.4f} to float32's on {self.images} images, "
                f"needed is {self.allowed:g}"
            )
        return (
            f"top-1 is that of float32 for {self.value:.2%} of {self.images} images, needed are "
            f"{self.allowed:.0%}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The manifest's ``verification.accuracy``, but for the layers that were kept."""
        return {
            "verdict": self.verdict,
            self.measure: self.value,
            "allowed": self.allowed,
            "images": self.images,
            "needed_images": self.needed,
            "top1": self.top1,
            "reference_top1": self.reference_top1,
            "chance": self.chance,
            "signal_to_noise_db": self.signal_to_noise_db,
            "on": self.on,
            **({} if self.decisions is None else {"decisions": self.decisions}),
        }


def images_needed(max_drop: float | None) -> int:
    """Number of pictures that it takes to tell; `max_drop` is None where there are no labels."""
    return MIN_UNLABELLED if max_drop is None else math.ceil(100 * _DECIDING / max_drop)


def judge(
    pictures: Pictures,
    reference: Answers,
    found: Answers,
    max_drop: float,
    scores: str = "softmax",
) -> Judgement:
    """Compare an artifact's answers with those of the float32 model.

    Args:
        max_drop: points of top-1 that may be lost, where there are labels.
        scores: activation of the logits; labels count for a softmax only.
    """
    top1 = reference_top1 = chance = decisions = None
    allowed, needed = MIN_AGREEMENT, MIN_UNLABELLED
    if scores == "sigmoid":
        measure = "decision_agreement"
        value, decisions = decision_agreement(reference.logits, found.logits)
    elif scores == "none":
        measure, value = "r_squared", determination(reference.logits, found.logits)
    else:
        measure = "top1_agreement"
        value = float(np.mean((reference.top1 == found.top1) & (found.top1 >= 0)))
    if scores == "softmax" and pictures.labels is not None:
        labels = np.asarray(pictures.labels)
        top1 = float(np.mean(found.top1 == labels))
        reference_top1 = float(np.mean(reference.top1 == labels))
        measure, value, allowed = "top1_drop", 100 * (reference_top1 - top1), max_drop
        needed = images_needed(max_drop)
        guess = 1 / reference.logits.shape[-1]
        chance = guess + 3 * math.sqrt(guess * (1 - guess) / len(pictures))
    decibels = signal_to_noise(reference.logits, found.logits)
    return Judgement(
        measure=measure,
        value=value,
        allowed=allowed,
        images=len(pictures),
        needed=needed,
        top1=top1,
        reference_top1=reference_top1,
        chance=chance,
        signal_to_noise_db=decibels if math.isfinite(decibels) else None,
        on=pictures.origin,
        decisions=decisions,
    )
