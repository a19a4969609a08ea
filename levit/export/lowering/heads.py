"""Heads of a network, as the layers that a program has for its logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from levit.models.layers import Linear
from levit.models.ops import Array

__all__ = ["heads_of", "mean_bias"]


def heads_of(
    head: Linear | None, dist: Linear | None, both: Callable[[Linear, Linear], Linear]
) -> dict[str, tuple[str, Linear]]:
    """(path, layer) of each output of logits; the mean of two heads is a head of its own.

    Args:
        head, dist: as in the tree; None where there is none.
        both: makes that mean from two folded heads.
    """
    if head is None:
        return {}
    head = head.fold()
    if dist is None:
        return {"logits": ("head", head), "logits_head": ("head", head)}
    dist = dist.fold()
    return {
        "logits_head": ("head", head),
        "logits_dist": ("head_dist", dist),
        "logits": ("heads", both(head, dist)),
    }


def mean_bias(head: Linear, dist: Linear) -> Array:
    """The bias (K,) of the mean of two heads, in float64."""
    biases = [0 if layer.bias is None else layer.bias for layer in (head, dist)]
    result: Array = (np.zeros(len(head.weight)) + biases[0] + biases[1]) / 2
    return result
