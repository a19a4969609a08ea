"""Logits → a ranked, named answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Prediction", "softmax", "top_predictions"]


@dataclass(frozen=True)
class Prediction:
    """The best classes of one image.

    Attributes:
        top: (label, index, score) from the best down; a score is the softmax probability.
    """

    top: list[tuple[str, int, float]]

    @property
    def label(self) -> str:
        """Name of the best class."""
        return self.top[0][0]

    @property
    def index(self) -> int:
        """Index of the best class."""
        return self.top[0][1]

    @property
    def score(self) -> float:
        """Softmax probability of the best class."""
        return self.top[0][2]


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def top_predictions(logits: NDArray[Any], labels: Sequence[str], top_k: int) -> list[Prediction]:
    """Rank every row of `logits`; equal scores go to the lower index, as in argmax.

    Args:
        logits: (N, classes).
        labels: a name per class.
    """
    order = _best(logits, top_k)
    scores = np.take_along_axis(softmax(logits), order, axis=-1)
    return [
        Prediction([(labels[i], int(i), float(s)) for i, s in zip(indices, values, strict=True)])
        for indices, values in zip(order, scores, strict=True)
    ]


def _best(logits: NDArray[Any], top_k: int) -> NDArray[np.intp]:
    """(N, classes) → the indices of the best of every row, (N, top_k or fewer)."""
    classes = logits.shape[-1]
    if len(logits) == 0 or 4 * top_k > classes:
        return np.argsort(-logits, axis=-1, kind="stable")[:, :top_k]
    # Sorting a thousand classes takes longer than all else that is done with them.
    least = np.partition(logits, classes - top_k, axis=-1)[:, classes - top_k]
    rows = []
    for row, limit in zip(logits, least, strict=True):
        candidates = np.flatnonzero(row >= limit)  # in order, and with those that tie
        rows.append(candidates[np.argsort(-row[candidates], kind="stable")[:top_k]])
    return np.stack(rows)
