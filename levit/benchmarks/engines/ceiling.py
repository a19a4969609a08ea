"""What the ceilings share: one fixed matrix product, and what it must come to.

A network's engine cannot do more multiply-accumulates a second than a large, plain product in
the best of the libraries at hand does, at the same precision and number of threads. That best is
the machine's ceiling; each contender is also told as a fraction of it.

The right operand is a constant, as a layer's weights are: a library may pack it once. Integer
operands are small enough (127 · 64 · 2 < 2¹⁵) that no kernel for CPUs without VNNI saturates
between its two steps, so that every correct int8 product is the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.engines import Job, Runner
from levit.errors import BackendUnavailableError, ConfigError
from levit.relative_error import relative_error

__all__ = [
    "MACS",
    "ROWS",
    "SIDE",
    "Operands",
    "operands",
    "reference",
    "require_product",
    "verified",
]

# Of 768, 1024, 1536 and 2048, measured with all three runtimes on a Zen 5 core: from 1024 on
# nothing gains, and above it the int8 operands of ONNX Runtime leave the caches (up to 14 % less).
# One product takes 2 to 9 ms on a core. With many cores (over about 16) it is too small to be
# their ceiling.
SIDE: Final = 1024
MACS: Final = SIDE**3

# What a runner returns of its product: these rows. Converting all of it to float32 would cost a
# tenth of a product in bfloat16.
ROWS: Final = slice(None, None, SIDE // 8)

# Largest difference over the largest value: float32 sums of 1024 products, 8 significant bits,
# and integers.
_ERRORS: Final[Mapping[str, float]] = {"fp32": 5e-6, "bf16": 1e-2, "int8": 0.0}


class Operands(NamedTuple):
    """Left and right operand, (SIDE, SIDE) each."""

    left: NDArray[Any]
    right: NDArray[Any]


def operands(precision: str) -> Operands:
    """The factors, the same in every run.

    Returns:
        float32 normals (for ``bf16`` too: rounding them is the engine's); for ``int8`` a left
        of 0…127 as uint8, a right of −64…63 as int8.
    """
    rng = np.random.default_rng(0)
    if precision == "int8":
        left = rng.integers(0, 128, (SIDE, SIDE), np.uint8)
        return Operands(left, rng.integers(-64, 64, (SIDE, SIDE), np.int8))
    return Operands(
        rng.standard_normal((SIDE, SIDE), np.float32), rng.standard_normal((SIDE, SIDE), np.float32)
    )


def reference(precision: str) -> NDArray[np.float64]:
    """(8, SIDE): the rows of the product that a runner returns, in float64."""
    left, right = operands(precision)
    product: NDArray[np.float64] = left[ROWS].astype(np.float64) @ right.astype(np.float64)
    return product


def verified(run: Runner, job: Job) -> Runner:
    """The runner itself, if its product is right: a wrong one would raise everybody's ceiling.

    Raises:
        BackendUnavailableError: it is not.
    """
    expected = reference(job.precision)
    error = relative_error(run(np.empty(0)), expected)
    if not error <= _ERRORS[job.precision]:
        raise BackendUnavailableError(
            f"its product is off by {error:.1e} at {job.precision}: leave this ceiling out"
        )
    return run


def require_product(job: Job, precisions: tuple[str, ...]) -> None:
    """ConfigError if `job` is not the product, or not at one of an engine's `precisions`."""
    if job.model != "matmul":
        raise ConfigError(f"a ceiling is measured with the model 'matmul', not {job.model!r}")
    if job.precision not in precisions:
        raise ConfigError(
            f"this ceiling is not measured at {job.precision}: choose {', '.join(precisions)}"
        )
