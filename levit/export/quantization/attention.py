"""Grids of attentions: the ranges of queries and keys by head, of values by channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from levit.export.grids import AttentionGrids, Quantization
from levit.export.quantization.observe import Observed
from levit.models.layers import DotProductAttention, layers_of
from levit.models.model import Model
from levit.models.ops import Array

__all__ = ["with_attention_grids"]

_LARGEST: Final = 127
# Of the ranges of the calibration, measured in docs/quantization.md. Those of keys and values are
# about the middle of each channel, and those of one channel are seen less well than a head's.
_HEADROOM: Final = 1.3
_HEADROOM_OF_KEYS: Final = 1.5
_HEADROOM_OF_VALUES: Final = 1.75


def with_attention_grids(
    quantization: Quantization, model: Model, observed: Mapping[str, Observed]
) -> Quantization:
    """Put queries, keys and values on grids too, of every attention that can have them.

    Ranges are those of the calibration and some more. Not of an attention in which more
    than a softmax makes the weights of the values.
    """
    grids = {
        path: _grids_of(path, attention.heads, quantization, observed)
        for path, attention in layers_of(model.params, DotProductAttention).items()
        if not attention.mixes_weights
    }
    return replace(quantization, attentions=grids)


def _grids_of(
    path: str, heads: int, quantization: Quantization, observed: Mapping[str, Observed]
) -> AttentionGrids:
    def ends(part: str) -> tuple[Array, Array]:
        found = observed[f"{path}.{part}"].channels
        assert found is not None, "parts of attentions are observed"
        return found

    def scales(reached: Array, headroom: float) -> Array:
        return quantization.scheme.scales(reached * headroom / _LARGEST)

    low, high = ends("q")
    keys, key_offset = _about_the_middle(*ends("k"))
    values, value_offset = _about_the_middle(*ends("v"))
    return AttentionGrids(
        queries=scales(np.maximum(-low, high).reshape(heads, -1).max(axis=1), _HEADROOM),
        keys=scales(keys.reshape(heads, -1).max(axis=1), _HEADROOM_OF_KEYS),
        values=scales(values, _HEADROOM_OF_VALUES),
        key_offset=key_offset,
        value_offset=value_offset,
    )


def _about_the_middle(low: Array, high: Array) -> tuple[Array, Array]:
    """Half of the distance between the ends, and what is halfway, as float32."""
    middle = ((low + high) / 2).astype(np.float32)
    return np.maximum(high - middle, middle - low), middle
