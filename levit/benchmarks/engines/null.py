"""No network at all, which leaves the benchmark's own overhead."""

from __future__ import annotations

import numpy as np

from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.pictures import ImageRunner, Line

__all__ = ["open_image_runner", "open_line", "open_runner", "script"]

_CLASSES = 1000


def open_runner(job: Job) -> Runner:
    """A runner that returns zeros at once."""
    return lambda batch: np.zeros((len(batch), _CLASSES), np.float32)


def open_image_runner(job: Job) -> ImageRunner:
    """A runner that looks at no picture."""
    return ImageRunner(
        whole=lambda data: 0,
        staged=lambda data: (0, {"decode": 0, "resize": 0, "network": 0}),
    )


def open_line(job: Job) -> Line:
    """A line that looks at no picture either."""
    return Line(job.batch, lambda pictures: [0] * len(pictures))


def script(job: Job) -> str:
    """A process that only starts and ends."""
    return "print(0)\n"
