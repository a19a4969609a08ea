"""ONNX for ONNX Runtime."""

from __future__ import annotations

from levit.export.onnx.graph import emit_onnx
from levit.export.options import ExportOptions
from levit.export.precision import PRECISIONS
from levit.export.targets.target import Order, Written
from levit.models.model import Model

__all__ = ["prepare_onnx", "write_onnx"]


def prepare_onnx(model: Model, options: ExportOptions) -> Model:
    """Linears over tokens become 1×1 convolutions over the grid.

    ONNX Runtime keeps a chain of convolutions in its blocked layout and takes bias,
    activation and residual into them; the attention products read (B, H, D, N) as it comes,
    so that nothing is transposed. Measured in docs/decisions.md. At int8 they are products over
    tokens, whose integers give floats: a convolution of integers gives integers.
    """
    return model.with_plan(channels_first=options.precision != "int8")


def write_onnx(order: Order) -> Written:
    """Write ``model.onnx``."""
    proto = emit_onnx(order.model, **order.graph)
    (order.folder / "model.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    oldest = PRECISIONS[order.graph["precision"]].onnxruntime
    return Written(requirements={"backend_version": f">={oldest}"})
