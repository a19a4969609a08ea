"""A session that computes nothing: what the layers above it cost by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NullSession"]


class NullSession:
    """Answers every batch with the same zeros.

    Args:
        outputs: name → shape without the batch.
    """

    def __init__(self, outputs: Mapping[str, tuple[int, ...]]) -> None:
        self._outputs = dict(outputs)
        self._answers: dict[int, dict[str, NDArray[Any]]] = {}

    machine_class = ""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Zeros, as many as the batch has images; not to be written to."""
        batch = len(next(iter(feeds.values())))
        answer = self._answers.get(batch)
        if answer is None:
            answer = {n: np.zeros((batch, *s), np.float32) for n, s in self._outputs.items()}
            self._answers[batch] = answer
        return dict(answer)

    def close(self) -> None:
        """Nothing is held."""
