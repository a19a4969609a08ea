"""The operations in the form that OpenVINO's reader leaves as it is."""

from __future__ import annotations

from levit.export.onnx_ops import OnnxOps, Value
from levit.export.quantization.grid import LayerGrids
from levit.models.ops import Array

__all__ = ["OpenvinoOps"]


class OpenvinoOps(OnnxOps):
    """As `OnnxOps`, but for the weights of integer layers."""

    def _kernel(
        self, weight: Array, grids: LayerGrids | None, *, transposed: bool = False
    ) -> Value:
        """In floating point, on their grid: they become integers once the graph has been read.

        OpenVINO reads a DequantizeLinear of weights as a tree of shape arithmetic, and what folds
        that folds the weights too.
        """
        return super()._kernel(weight, None, transposed=transposed)
