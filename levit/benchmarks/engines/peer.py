"""A peer: another way to run one of timm's networks, and to prepare its pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from levit.benchmarks.engines import ImageRunner, Job, Runner, image_runner

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


def data_config(job: Job) -> dict[str, Any]:
    """The preprocessing of a job's model, as timm describes it."""
    text = (job.files / "preprocess.json").read_text(encoding="utf-8")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}


def _decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")
