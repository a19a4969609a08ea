"""A peer: another way to run one of timm's networks, and to prepare its pictures."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.pictures import ImageRunner, Line, image_runner

__all__ = ["Peer", "data_config"]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The functions of an engine, of which a peer only says how it loads and prepares.

    Attributes:
        open_runner: load the network of a job.
        open_transform: the function that turns a decoded picture into (1, 3, H, W) float32.
        script: source of a process that prints the top-1 class of the JPEG in ``sys.argv[1]``.
    """

    open_runner: Callable[[Job], Runner]
    open_transform: Callable[[Job], Callable[[Image.Image], NDArray[Any]]]
    script: Callable[[Job], str]

    def open_image_runner(self, job: Job) -> ImageRunner:
        """JPEG bytes → top-1, one picture at a time."""
        job = replace(job, batch=1)
        return image_runner(_decode, self.open_transform(job), self.open_runner(job))

    def open_line(self, job: Job) -> Line:
        """Many JPEGs → their top-1: a thread for each CPU prepares while batches run.

        On one thread pictures are prepared between the batches.
        """
        transform, network = self.open_transform(job), self.open_runner(job)
        pool = ThreadPoolExecutor(job.threads) if job.threads > 1 else None

        def prepare(data: bytes) -> NDArray[Any]:
            return transform(_decode(data))

        def run(pictures: Sequence[bytes]) -> list[int]:
            rows = iter((map if pool is None else pool.map)(prepare, pictures))
            classes: list[int] = []
            while batch := list(itertools.islice(rows, job.batch)):
                classes += network(np.concatenate(batch)).argmax(axis=1).tolist()
            return classes

        return Line(job.batch, run)


def data_config(job: Job) -> dict[str, Any]:
    """The preprocessing of a job's model, as timm describes it."""
    text = (job.files / "preprocess.json").read_text(encoding="utf-8")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}


def _decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")
