"""From the bytes of a JPEG to a class: one picture at a time, and many."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

__all__ = ["ImageRunner", "Line", "image_runner"]


@dataclass(frozen=True, kw_only=True)
class ImageRunner:
    """One picture at a time.

    Attributes:
        whole: bytes → top-1 class, as a user of the engine calls it, without clocks.
        staged: the same with clocks between its stages: bytes → (top-1 class, nanoseconds of
            ``decode``, ``resize`` and ``network``).
    """

    whole: Callable[[bytes], int]
    staged: Callable[[bytes], tuple[int, Mapping[str, int]]]


class Line(NamedTuple):
    """Many pictures, with all threads.

    Attributes:
        batch: images that the network takes at a time.
        run: bytes of pictures → their top-1 classes.
    """

    batch: int
    run: Callable[[Sequence[bytes]], Sequence[int]]


def image_runner(
    decode: Callable[[bytes], Any],
    prepare: Callable[[Any], NDArray[Any]],
    network: Callable[[NDArray[Any]], NDArray[Any]],
) -> ImageRunner:
    """Three stages and an argmax: ``image_runner(decode, prepare, network).whole(data)``.

    Args:
        decode: bytes of a JPEG → picture.
        prepare: picture → the network's input, a batch of one.
        network: that batch → logits, (1, classes).
    """
    clock = time.perf_counter_ns

    def whole(data: bytes) -> int:
        return int(network(prepare(decode(data)))[0].argmax())

    def staged(data: bytes) -> tuple[int, Mapping[str, int]]:
        start = clock()
        picture = decode(data)
        decoded = clock()
        batch = prepare(picture)
        resized = clock()
        logits = network(batch)
        answered = clock()
        stages = {
            "decode": decoded - start,
            "resize": resized - decoded,
            "network": answered - resized,
        }
        return int(logits[0].argmax()), stages

    return ImageRunner(whole=whole, staged=staged)
