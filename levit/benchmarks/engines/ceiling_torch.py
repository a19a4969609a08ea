"""The matrix product in PyTorch: `mm` in float32 and bfloat16, `_int_mm` in int8."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.ceiling import ROWS, SIDE, operands, require_product, verified

__all__ = ["open_runner"]

PRECISIONS: Final = ("fp32", "bf16", "int8")


def open_runner(job: Job) -> Runner:
    """A runner that ignores its argument and returns `ROWS` of the product as float32.

    It sets the threads of the whole process.
    """
    import torch

    require_product(job, PRECISIONS)
    torch.set_num_threads(job.threads)
    # The left operand's 0…127 fit int8, which is what _int_mm takes.
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[job.precision]
    left, right = (torch.from_numpy(factor).to(kind) for factor in operands(job.precision))
    multiply = torch._int_mm if job.precision == "int8" else torch.mm
    product = torch.empty(
        SIDE, SIDE, dtype=torch.int32 if job.precision == "int8" else kind, device="cpu"
    )

    def run(_: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            multiply(left, right, out=product)
            rows: NDArray[np.float32] = product[ROWS].to(torch.float32).numpy()
        return rows

    return verified(run, job)
