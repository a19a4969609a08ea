"""Our artifacts through `Predictor`, as an application runs them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.engines import ImageRunner, Job, Runner
from levit.errors import InputError, VerificationError
from levit.pictures.reading import load_image
from levit.runtime.predictor import Predictor

__all__ = ["example", "open_image_runner", "open_runner", "script"]

# As many as a size needs to get a network of its own.
_OPENING_CALLS: Final = 4


def open_runner(job: Job) -> Runner:
    """``Predictor.forward`` of the artifact.

    Raises:
        VerificationError: its golden cases do not come out here: it is not worth timing.
    """
    predictor = _predictor(job)
    if predictor.manifest.format == "openvino":
        # It compiles for a size that comes again and again: a part of opening, and not of what is
        # timed, however short that is.
        batch = example(job, np.random.default_rng(0))
        for _ in range(_OPENING_CALLS):
            predictor.forward(batch)
    name = "logits" if "logits" in _outputs(predictor) else _outputs(predictor)[0]

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        return predictor.forward(batch)[name]

    return run


def open_image_runner(job: Job) -> ImageRunner:
    """JPEG bytes → top-1 through the public API, stage by stage."""
    predictor = _predictor(job)
    if "logits" not in _outputs(predictor) or predictor.manifest.preprocess is None:
        raise InputError(f"{predictor.path.name} does not classify pictures")
    clock = time.perf_counter_ns

    def run(data: bytes) -> tuple[int, Mapping[str, int]]:
        start = clock()
        picture = load_image(data)
        decoded = clock()
        batch = predictor.preprocess([picture])
        resized = clock()
        top1 = int(predictor.forward(batch)["logits"].argmax())
        end = clock()
        return top1, {
            "decode": decoded - start,
            "resize": resized - decoded,
            "infer": end - resized,
        }

    return run


def script(job: Job) -> str:
    """Process start to the first answer, in an application's words."""
    return (
        "import sys\n"
        "from levit import Predictor\n"
        f"predictor = Predictor({_path(job)!r}, threads={job.threads})\n"
        "print(predictor(sys.argv[1]).index)\n"
    )


def example(job: Job, rng: np.random.Generator) -> NDArray[Any]:
    """A batch of what the artifact takes: noise, whose content does not change the work."""
    with Predictor(_path(job), threads=1, workers=0, prove=False) as predictor:
        spec = predictor.manifest.inputs[0]
    shape = (job.batch, *(int(n) for n in spec.shape[1:]))
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32)


def _path(job: Job) -> str:
    return os.path.realpath(job.files / job.artifact)


def _predictor(job: Job) -> Predictor:
    predictor = Predictor(_path(job), job.device, job.threads, workers=0, prove=False)
    report = predictor.check()
    if not report.passed:
        raise VerificationError(
            f"{predictor.path.name}: its golden cases are off by {report.max_relative_error:.1e} "
            f"here, allowed is {report.tolerance:.1e}; it is not timed"
        )
    return predictor


def _outputs(predictor: Predictor) -> list[str]:
    return [output.name for output in predictor.manifest.outputs]
