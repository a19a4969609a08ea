"""Correctness before speed: contenders are held against a reference before they are timed.

The reference is timm's float64 evaluation of two pictures (`levit.benchmarks.peer_files`). Two
numbers decide. The **error** is the largest difference of a logit over the largest logit. It
grows with how coarse the arithmetic is, up to where a wrong network would pass too, so there is
a second one, which roundings hardly move: the **agreement** is the correlation of the logits of
each picture, and of the difference between the two pictures, with the reference's, whichever is
lowest. Another network, shuffled classes and swapped pictures have an agreement of about 0 or
below, whatever the precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.engines import Job, Runner
from levit.relative_error import relative_error

__all__ = ["REFERENCE_FILE", "TOLERANCES", "Tolerance", "agreement_of", "check", "judge"]

# File of a model: `input` (2, 3, H, W) float32 and `logits` (2, classes) float64.
REFERENCE_FILE: Final = "reference.npz"


class Tolerance(NamedTuple):
    """Bounds within which logits count as the reference's.

    Attributes:
        error: the largest allowed.
        agreement: the smallest allowed.
    """

    error: float
    agreement: float


TOLERANCES: Final[Mapping[str, Tolerance]] = {
    # Engines show 3e-7 to 2e-6 on these networks; a missing bias or norm, over 1e-2.
    "fp32": Tolerance(error=1e-4, agreement=0.9999),
    # 11 significant bits; PyTorch's autocast on a CPU shows 6e-4 to 3e-3.
    "fp16": Tolerance(error=0.02, agreement=0.999),
    # 8 significant bits; engines show 0.006 to 0.04, and an agreement over 0.9996.
    "bf16": Tolerance(error=0.1, agreement=0.99),
    # Random weights quantize badly, and the worse the less a picture is like those of the
    # calibration: 0.03 to 0.8 off (EfficientNet-B4), and an agreement over 0.93.
    "int8": Tolerance(error=1.0, agreement=0.75),
}


def agreement_of(logits: NDArray[Any], reference: NDArray[np.float64]) -> float:
    """Return the lowest correlation with the reference: of each picture, and of their difference.

    Args:
        logits, reference: (2, classes).
    """
    found = np.asarray(logits, np.float64)
    if not np.isfinite(found).all():
        return -1.0
    # Rows: each picture, and their difference. A constant row agrees with nothing.
    a, b = (np.stack([*x, x[0] - x[1]]) for x in (found, reference))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a * b).sum(axis=1)
    return float(np.divide(products, sizes, out=np.zeros(3), where=sizes > 0).min())


def judge(logits: NDArray[Any], reference: NDArray[np.float64], precision: str) -> str:
    """Return a line about logits that are out of tolerance; empty where none are."""
    if logits.shape != reference.shape:
        return f"answers {tuple(logits.shape)}, the reference {tuple(reference.shape)}"
    tolerance = TOLERANCES[precision]
    error, agreement = relative_error(logits, reference), agreement_of(logits, reference)
    if error > tolerance.error:
        return (
            f"its logits are {error:.2g} from the reference's, and at {precision} may be "
            f"{tolerance.error:g}"
        )
    if agreement < tolerance.agreement:
        return (
            f"its logits agree with the reference's to {agreement:.3f}, and at {precision} have to "
            f"reach {tolerance.agreement:g}"
        )
    return ""


def check(run: Runner, job: Job) -> tuple[float, str]:
    """Run the reference's pictures through a contender: (error, a line of `judge`).

    A batch of one sees one picture after the other; a larger one both in turns, and every row of
    it is looked at.
    """
    with np.load(job.files / REFERENCE_FILE, allow_pickle=False) as stored:
        inputs, reference = stored["input"], stored["logits"]
    rows = np.arange(max(2, job.batch)) % 2  # which picture
    found = [
        np.asarray(run(np.ascontiguousarray(inputs[rows[start : start + job.batch]])))
        for start in range(0, len(rows), job.batch)
    ]
    answers = np.concatenate(found)
    expected = reference[rows]
    if answers.shape != expected.shape:
        return float("inf"), f"answers {answers.shape}, the reference {expected.shape}"
    worst = relative_error(answers, expected)
    neighbours = [slice(first, first + 2) for first in range(len(rows) - 1)]
    said = (judge(answers[pair], expected[pair], job.precision) for pair in neighbours)
    return worst, next(filter(None, said), "")
