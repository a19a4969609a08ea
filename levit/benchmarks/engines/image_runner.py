"""A picture's way from the bytes of a JPEG to its class, timed stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from levit.benchmarks.engines import ImageRunner, Runner

__all__ = ["image_runner"]


def image_runner(
    decode: Callable[[bytes], Any], prepare: Callable[[Any], NDArray[Any]], infer: Runner
) -> ImageRunner:
    """Three stages as one call: ``image_runner(decode, prepare, infer)(data) → (class, times)``.

    Args:
        decode: bytes of a JPEG → picture.
        prepare: picture → the network's input, a batch of one.
        infer: that batch → logits, (1, classes).
    """
    clock = time.perf_counter_ns

    def run(data: bytes) -> tuple[int, Mapping[str, int]]:
        start = clock()
        picture = decode(data)
        decoded = clock()
        batch = prepare(picture)
        resized = clock()
        top1 = int(infer(batch)[0].argmax())
        end = clock()
        stages = {"decode": decoded - start, "resize": resized - decoded, "infer": end - resized}
        return top1, stages

    return run
