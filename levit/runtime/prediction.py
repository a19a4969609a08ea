"""Logits → an answer with names: ranked classes, or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.errors import InputError

__all__ = ["Prediction", "require_sigmoid", "sigmoid", "softmax", "top_predictions"]


@dataclass(frozen=True)
class Prediction:
    """The answer to one image.

    ::

        answer = predictor("cat.jpg")
        answer.label, answer.score         # "tabby", 0.61
        answer.above(0.5)                  # of a multi-label model: every class that is there
        json.dumps(answer.to_dict())

    It can be hashed, compared and pickled.

    Attributes:
        top: (label, index, score) from the best class down. Where `scores` is ``none``, (label,
            index, value) of every output in its order.
        scores: the activation: ``softmax`` (probabilities of classes of which one is right),
            ``sigmoid`` (a probability for each class by itself) or ``none`` (values, such as those
            of a regression).
        rest: at ``sigmoid``, the classes below those of `top`.
    """

    top: list[tuple[str, int, float]]
    scores: str = "softmax"
    rest: list[tuple[str, int, float]] = field(default_factory=list, repr=False)

    def __hash__(self) -> int:
        # Lists have no hash of their own.
        return hash((tuple(self.top), self.scores, tuple(self.rest)))

    @property
    def label(self) -> str:
        """Name of the best class; where there are no scores, of the first output."""
        return self.top[0][0]

    @property
    def index(self) -> int:
        """Index of the best class; where there are no scores, of the first output."""
        return self.top[0][1]

    @property
    def score(self) -> float | None:
        """Probability of the best class; None where there are no scores."""
        return None if self.scores == "none" else self.top[0][2]

    @property
    def value(self) -> float | None:
        """The first output as the network gives it; None where there are scores."""
        return self.top[0][2] if self.scores == "none" else None

    def above(self, threshold: float = 0.5) -> list[tuple[str, int, float]]:
        """List every class whose score is at least `threshold`, from the best down.

        ::

            [label for label, _, _ in predictor("street.jpg").above(0.5)]    # ["bus", "person"]

        Raises:
            InputError: the scores are not those of a sigmoid, or the threshold is no probability.
        """
        require_sigmoid(self.scores)
        is_number = isinstance(threshold, (int, float, np.number))
        if not is_number or not 0 <= threshold <= 1:
            raise InputError(f"a threshold is a number from 0 to 1, not {threshold!r}")
        return [entry for entry in (*self.top, *self.rest) if entry[2] >= threshold]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary: ``scores``, and ``top`` or ``values``.

        ::

            {"scores": "softmax", "top": [{"label": "tabby", "index": 281, "score": 0.61}]}
            {"scores": "none", "values": [{"label": "age", "index": 0, "value": 37.2}]}
        """
        if self.scores == "none":
            return {"scores": "none", "values": _entries(self.top, "value")}
        return {"scores": self.scores, "top": _entries(self.top, "score")}


def require_sigmoid(scores: str | None) -> None:
    """Raise `InputError` where a threshold has no meaning."""
    if scores != "sigmoid":
        raise InputError(
            f"a threshold is for models whose classes have a sigmoid each, the scores of this one "
            f"are {scores or 'none'!r}: leave it out, or export again with --scores sigmoid"
        )


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Sigmoid of every element, in float64; finite logits of any size give no overflow."""
    small = np.exp(-np.abs(logits.astype(np.float64)))
    probabilities: NDArray[np.float64] = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return probabilities


def top_predictions(
    logits: NDArray[Any], labels: Sequence[str], top_k: int, scores: str = "softmax"
) -> list[Prediction]:
    """Rank every row of `logits`; equal scores go to the lower index, as in argmax.

    Args:
        logits: (N, classes).
        labels: a name per class. One logit may have two: of the class that a score below one half
            means, and of the one that a score above means.
        top_k: entries of ``Prediction.top``; values that are no scores are not cut.
        scores: the activation: ``softmax``, ``sigmoid`` or ``none``.

    Raises:
        InputError: it is a softmax of one logit, as older releases have exported.
    """
    if scores == "softmax" and logits.shape[-1] == 1:
        raise InputError(
            "a softmax of one logit is 1 for every picture, so that it answers nothing: export the "
            "model again, or take the logit from forward()"
        )
    if scores == "none":
        return [Prediction(_named(labels, range(len(row)), row), scores) for row in logits]
    if logits.shape[-1] == 1 and len(labels) == 2:
        # sigmoid(z) and sigmoid(-z) are the softmax of (0, z).
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
        values = softmax(logits)
    else:
        values = softmax(logits) if scores == "softmax" else sigmoid(logits)
    # Any number of classes may reach a threshold.
    count = top_k if scores == "softmax" else len(labels)
    answers = []
    for row, of_row in zip(logits, values, strict=True):
        best = _best(row, count)
        ranked = _named([labels[i] for i in best], best, of_row[best])
        answers.append(Prediction(ranked[:top_k], scores, ranked[top_k:]))
    return answers


def _named(
    labels: Sequence[str], indices: Sequence[int] | NDArray[np.intp], values: NDArray[Any]
) -> list[tuple[str, int, float]]:
    return list(zip(labels, map(int, indices), map(float, values), strict=True))


def _entries(rows: Sequence[tuple[str, int, float]], key: str) -> list[dict[str, Any]]:
    return [{"label": label, "index": index, key: value} for label, index, value in rows]


def _best(logits: NDArray[Any], top_k: int) -> NDArray[np.intp]:
    """(classes,) → the indices of the best, `top_k` or fewer."""
    classes = len(logits)
    if 4 * top_k > classes:
        return np.argsort(-logits, kind="stable")[:top_k]
    # Sorting a thousand classes takes longer than all else that is done with them.
    least = np.partition(logits, classes - top_k)[classes - top_k]
    candidates = np.flatnonzero(logits >= least)  # in order, and with those that tie
    best: NDArray[np.intp] = candidates[np.argsort(-logits[candidates], kind="stable")[:top_k]]
    return best
