"""Agreement of answers that have no first class: decisions of a sigmoid, and plain values."""

from __future__ import annotations

import numpy as np

from levit.models.ops import Array

__all__ = ["decision_agreement", "determination"]


def decision_agreement(reference: Array, found: Array) -> tuple[float, int]:
    """Compare the yes and no of multi-label answers: a score of one half or more is a yes.

    Agreement is F1, twice the common ones over the sum of both, of the yes and of the no; the
    smaller counts. A share of all decisions would say little: of eighty classes a picture shows
    three, so that a network that always says no is right in 96 % of them.

    ::

        agreement, rarer = decision_agreement(logits_fp32, logits_int8)    # 0.994, 412

    Args:
        reference, found: (N, classes) logits. One that is not finite is neither yes nor no.

    Returns:
        The agreement, from 0 to 1; and the number of the reference's yes or no, whichever is rarer.
    """
    agreements, counts = [], []
    for said, heard in (
        (reference >= 0, found >= 0),
        (reference < 0, found < 0),
    ):
        said, heard = said & np.isfinite(reference), heard & np.isfinite(found)
        total = int(said.sum() + heard.sum())
        agreements.append(2 * int((said & heard).sum()) / total if total else 1.0)
        counts.append(int(said.sum()))
    return min(agreements), min(counts)


def determination(reference: Array, found: Array) -> float:
    """Coefficient of determination (R²) of values, of the output where it is the least.

    ``1 - Σ (found - reference)² / Σ (reference - its mean)²`` over the pictures; 1 where both are
    the same. A shift that all pictures share counts: a regression's values are used as they are.

    Args:
        reference, found: (N, outputs) values.

    Returns:
        At most 1; 0 where a value is not finite, or the reference is the same for all pictures
        and the other is not.
    """
    if not (np.isfinite(reference).all() and np.isfinite(found).all()):
        return 0.0
    exact = reference.astype(np.float64)
    lost = np.square(found - exact).sum(axis=0)
    spread = np.square(exact - exact.mean(axis=0)).sum(axis=0)
    share = np.divide(lost, spread, out=np.where(lost > 0, 1.0, 0.0), where=spread > 0)
    return float(1 - share.max())
