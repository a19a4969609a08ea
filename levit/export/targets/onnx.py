"""ONNX for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from levit.export.onnx_graph import emit_onnx
from levit.models.model import Model

__all__ = ["prepare_onnx", "write_onnx"]


def prepare_onnx(model: Model) -> Model:
    """Linears over tokens become 1×1 convolutions over the grid.

    ONNX Runtime keeps a chain of convolutions in its blocked layout and takes bias,
    activation and residual into them; the attention products read (B, H, D, N) as it comes,
    so that nothing is transposed. Measured in docs/decisions.md.
    """
    return model.with_plan(channels_first=True)


def write_onnx(model: Model, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write ``model.onnx``; `settings` are those of `emit_onnx`."""
    proto = emit_onnx(model, **settings)
    (folder / "model.onnx").write_bytes(proto.SerializeToString(deterministic=True))
