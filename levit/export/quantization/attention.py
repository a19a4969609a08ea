"""Grids of attentions: the ranges of queries and keys by head, of values by channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from levit.export.grids import AttentionGrids, Quantization
from levit.export.quantization.observe import Observed
from levit.models.layers import DotProductAttention, layers_of
from levit.models.model import Model
from levit.models.ops import Array

__all__ = ["with_attention_grids"]

_LARGEST: Final = 127
# Beyond the extremes of the calibration. Those of one channel are seen less well than those of a
# head, and what is cut off of a value goes into the result as it is (docs/quantization.md).
_HEADROOM: Final = 1.3
_HEADROOM_OF_VALUES: Final = 1.5


def with_attention_grids(
    quantization: Quantization, model: Model, observed: Mapping[str, Observed]
) -> Quantization:
    """Put queries, keys and values on grids too, of every attention that can have them.

    Ranges are the extremes of the calibration and some more. Not of an attention in which more
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
    def peaks(part: str) -> Array:
        found = observed[f"{path}.{part}"].peaks
        assert found is not None, "parts of attentions are observed"
        return found

    def scales(reached: Array, headroom: float) -> Array:
        return quantization.scheme.scales(reached * headroom / _LARGEST)

    return AttentionGrids(
        queries=scales(peaks("q").reshape(heads, -1).max(axis=1), _HEADROOM),
        keys=scales(peaks("k").reshape(heads, -1).max(axis=1), _HEADROOM),
        values=scales(peaks("v"), _HEADROOM_OF_VALUES),
    )
