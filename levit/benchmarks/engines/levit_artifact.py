"""Our artifacts through `Predictor`, as an application runs them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.artifact import open_artifact
from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.pictures import ImageRunner, Line
from levit.errors import InputError, VerificationError
from levit.runtime.predictor import Predictor
from levit.runtime.stages import timed_stages

__all__ = ["example", "open_image_runner", "open_line", "open_runner", "script"]

# A size that comes so often gets a network of its own.
_OPENING_CALLS: Final = 4


def open_runner(job: Job) -> Runner:
    """``Predictor.forward`` of the artifact.

    Raises:
        VerificationError: its golden cases do not come out here: it is not worth timing.
    """
    predictor = _predictor(job)
    if predictor.manifest.format == "openvino":
        # Compiling for a size belongs to opening, not to the timed calls.
        batch = example(job, np.random.default_rng(0))
        for _ in range(_OPENING_CALLS):
            predictor.forward(batch)
    names = [output.name for output in predictor.manifest.outputs]
    name = "logits" if "logits" in names else names[0]

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        return predictor.forward(batch)[name]

    return run


def open_image_runner(job: Job) -> ImageRunner:
    """``predictor(data)``: JPEG bytes → top-1."""
    predictor = _classifier(job)

    def staged(data: bytes) -> tuple[int, Mapping[str, int]]:
        prediction, stages = timed_stages(predictor, data)
        return prediction.index, stages

    return ImageRunner(whole=lambda data: predictor(data).index, staged=staged)


def open_line(job: Job) -> Line:
    """``predictor.predict(pictures)``, in batches of the predictor's choice."""
    predictor = _classifier(job)
    return Line(
        predictor._images().unit,
        lambda pictures: [answer.index for answer in predictor.predict(pictures)],
    )


def script(job: Job) -> str:
    """Process start to the first answer, in an application's words."""
    return (
        "import sys\n"
        "from levit import Predictor\n"
        f"predictor = Predictor({_path(job)!r}, threads={job.threads})\n"
        "print(predictor(sys.argv[1]).index)\n"
    )


def example(job: Job, rng: np.random.Generator) -> NDArray[Any]:
    """A batch for the artifact's input: noise, whose content does not change the work."""
    spec = open_artifact(_path(job), verify_hashes=False).manifest.inputs[0]
    shape = (job.batch, *(int(n) for n in spec.shape[1:]))
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32)


def _path(job: Job) -> str:
    return os.path.realpath(job.files / job.artifact)


def _classifier(job: Job) -> Predictor:
    predictor = _predictor(job)
    manifest = predictor.manifest
    if "logits" not in {output.name for output in manifest.outputs} or manifest.preprocess is None:
        raise InputError(f"{predictor.path.name} does not classify pictures")
    return predictor


def _predictor(job: Job) -> Predictor:
    predictor = Predictor(_path(job), job.device, job.threads, prove=False)
    report = predictor.check()
    if not report.passed:
        raise VerificationError(
            f"{predictor.path.name}: its golden cases are off by {report.max_relative_error:.1e} "
            f"here, allowed is {report.tolerance:.1e}; it is not timed"
        )
    return predictor
