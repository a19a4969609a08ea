"""No network at all: what remains is the benchmark's own overhead."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from levit.benchmarks.engines import ImageRunner, Job, Runner
from levit.runtime.sessions.null import NullSession

__all__ = ["open_image_runner", "open_runner", "script"]

_CLASSES = 1000


def open_runner(job: Job) -> Runner:
    """A runner that returns zeros at once."""
    session = NullSession({"logits": (_CLASSES,)})

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        return session.run({"input": batch})["logits"]

    return run


def open_image_runner(job: Job) -> ImageRunner:
    """A runner that looks at no picture."""
    return lambda data: (0, {"decode": 0, "resize": 0, "infer": 0})


def script(job: Job) -> str:
    """A process that only starts and ends."""
    return "print(0)\n"
