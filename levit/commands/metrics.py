"""Measures of scores against labels, for models whose classes are right each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["average_precision", "best_threshold"]


def average_precision(truth: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under precision over recall, as steps: ``Σ (R_n - R_{n-1}) P_n``.

    Thresholds are the distinct scores from the highest down; so is scikit-learn's
    ``average_precision_score``.

    ::

        average_precision(np.array([1, 0, 1]), np.array([0.9, 0.8, 0.1]))    # 5/6

    Args:
        truth: (N,) 1 where a picture has the label, else 0; not all 0.
        scores: (N,).
    """
    _, chosen, right = _curve(truth, scores)
    recall = right / right[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * right / chosen))


def best_threshold(truth: NDArray[Any], scores: NDArray[Any]) -> tuple[float, float]:
    """Find the score from which on a class is best said to be there, and the F1 that it gives.

    The F1 is ``2 TP / (2 TP + FP + FN)``; of thresholds that give the same, the highest is taken.

    Args:
        truth: (N,) 1 where a picture has the label, else 0; not all 0.
        scores: (N,).

    Returns:
        (threshold, F1): the threshold is one of the scores.
    """
    thresholds, chosen, right = _curve(truth, scores)
    f1 = 2 * right / (chosen + right[-1])
    best = int(np.argmax(f1))
    return float(thresholds[best]), float(f1[best])


def _curve(
    truth: NDArray[Any], scores: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.float64]]:
    """(thresholds from the highest down, pictures at or above each, those that have the label)."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # of pictures that tie, the last
    return ranked[ends], ends + 1, np.cumsum(truth[order], dtype=np.float64)[ends]
