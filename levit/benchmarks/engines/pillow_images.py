"""Pictures for engines without PyTorch: timm's preprocessing in a few lines of Pillow and NumPy.

This is what a user of ONNX Runtime or OpenVINO writes. The scripts of the fresh-process
protocols hold the text of `preprocessed` itself.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from levit.benchmarks.engines import ImageRunner, Job, Runner
from levit.errors import ConfigError

__all__ = ["image_runner", "preprocessed", "script"]


def preprocessed(
    image: Any, size: int, crop_pct: float, mean: Sequence[float], std: Sequence[float]
) -> Any:
    """A picture as timm's eval transform makes it: (1, 3, size, size) float32."""
    short = math.floor(size / crop_pct)
    width, height = image.size
    if width <= height:
        resized = (short, int(short * height / width))
    else:
        resized = (int(short * width / height), short)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    image = image.resize(resized, Image.Resampling.BICUBIC)
    image = image.crop((left, top, left + size, top + size))
    x: Any = np.asarray(image, np.float32) / np.float32(255)
    x = (x - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def image_runner(run: Runner, job: Job) -> ImageRunner:
    """JPEGs through `preprocessed` and a runner of one image."""
    arguments = _arguments(job)

    def run_image(data: bytes) -> tuple[int, Mapping[str, int]]:
        started = time.perf_counter_ns()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        decoded = time.perf_counter_ns()
        x = preprocessed(image, *arguments)
        resized = time.perf_counter_ns()
        index = int(np.argmax(run(x)[0]))
        ended = time.perf_counter_ns()
        stages = {"decode": decoded - started, "resize": resized - decoded}
        return index, stages | {"infer": ended - resized}

    return run_image


def script(job: Job, load: str, call: str) -> str:
    """The source of a process that prints the top-1 class of the JPEG in ``sys.argv[1]``.

    Args:
        load: lines that make the network ready.
        call: expression that turns ``x`` into logits, (1, classes).
    """
    # Without the types, which a script would have to import.
    body = inspect.getsource(preprocessed).partition(") -> Any:\n")[2].replace("x: Any", "x")
    size, crop_pct, mean, std = _arguments(job)
    return f"""\
import math
import sys

import numpy as np
from PIL import Image


def preprocessed(image, size, crop_pct, mean, std):
{body}

{load}
image = Image.open(sys.argv[1]).convert("RGB")
x = preprocessed(image, {size}, {crop_pct!r}, {mean!r}, {std!r})
print({call}[0].argmax())
"""


def _arguments(job: Job) -> tuple[int, float, tuple[float, ...], tuple[float, ...]]:
    """Of `preprocessed`: (size, crop_pct, mean, std)."""
    config: dict[str, Any] = json.loads((job.files / "preprocess.json").read_text("utf-8"))
    square = job.image_size[0] == job.image_size[1]
    if not (square and config["interpolation"] == "bicubic" and config["crop_mode"] == "center"):
        raise ConfigError(f"{job.model}: this engine prepares square bicubic centre crops only")
    return job.image_size[0], config["crop_pct"], tuple(config["mean"]), tuple(config["std"])
