"""Lowering: a folded model → a program of the CPU engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from levit.errors import ExportError
from levit.export.lowering.builder import Lowered
from levit.export.lowering.levit import lower_levit
from levit.export.lowering.transformer import lower_transformer
from levit.models.levit.layers import LevitParams
from levit.models.model import Model
from levit.models.transformer.layers import TransformerParams

__all__ = ["Lowered", "can_lower", "lower", "require_lowering"]

# By the root of a model's tree of layers.
_LOWERINGS: Final[Mapping[type, Callable[[Model], Lowered]]] = {
    LevitParams: lower_levit,
    TransformerParams: lower_transformer,
}


def can_lower(model: Model) -> bool:
    """Tell whether there are kernels for such a network."""
    return type(model.params) in _LOWERINGS


def require_lowering(model: Model) -> None:
    """Raise `ExportError` where there are no kernels for such a network."""
    if not can_lower(model):
        raise ExportError(
            f"target 'native' has no kernels for {model.family.title} in this release: "
            f"use --target onnx or openvino"
        )


def lower(model: Model) -> Lowered:
    """A model over tokens, under any plan but ``channels_first`` → its program and arrays.

    Raises:
        ExportError: there are no kernels for such a network, or its sizes are none of theirs.
    """
    require_lowering(model)
    return _LOWERINGS[type(model.params)](model)
