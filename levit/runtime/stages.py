"""Stages of one answer: what ``predictor(image)`` does, with a clock between its parts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from levit.pictures.reading import image_name
from levit.runtime.prediction import Prediction, top_predictions

if TYPE_CHECKING:
    from levit.pictures.reading import ImageLike
    from levit.runtime.predictor import Predictor

__all__ = ["timed_stages"]


def timed_stages(
    predictor: Predictor, image: ImageLike, top_k: int = 5
) -> tuple[Prediction, dict[str, int]]:
    """Answer as ``predictor(image)`` does, and time its stages in nanoseconds.

    ::

        answer, stages = timed_stages(predictor, jpeg)
        stages["decode"], stages["resize"], stages["network"]

    The rest of a call is what these three leave of ``predictor(image)``, which has no clocks in it.

    Args:
        image: a path, encoded bytes or an array.

    Returns:
        The answer, and the times of *decode* (bytes to pixels), *resize* (resizing, cropping and
        normalising into the network's input) and *network*.
    """
    clock = time.perf_counter_ns
    preparation = predictor._images().preparation
    start = clock()
    picture = preparation.load(image)
    decoded = clock()
    batch = preparation.allocate(1)
    preparation.fill(picture, image_name(image), batch[0])
    resized = clock()
    logits = predictor._output("logits", batch)
    answered = clock()
    scores = predictor.manifest.scores or "softmax"
    prediction = top_predictions(logits, predictor.labels, top_k, scores)[0]
    return prediction, {
        "decode": decoded - start,
        "resize": resized - decoded,
        "network": answered - resized,
    }
