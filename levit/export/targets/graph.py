"""Graphs, as the targets write them that are made from ONNX."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import onnx

from levit import __version__
from levit.export.metadata import metadata_of
from levit.export.onnx.graph import emit_onnx
from levit.export.onnx.ops import OnnxOps
from levit.export.precision import choose_opset
from levit.export.targets.target import Order

__all__ = ["GraphForm", "versions_of"]


@dataclass(frozen=True, kw_only=True)
class GraphForm:
    """Spelling of a target's graph.

    Attributes:
        dialect: writes each operation as the backend reads it best.
        typed: the precision of the payload is that of the graph's own types; else the graph is
            fp32.
    """

    dialect: type[OnnxOps] = OnnxOps
    typed: bool = True

    def emit(self, order: Order) -> onnx.ModelProto:
        """The graph of an ordered model, with all that it carries so that it stands by itself."""
        floats = order.floats if self.typed else "fp32"
        return emit_onnx(
            order.model,
            name=order.variant,
            batch=order.options.static_batch,
            opset=choose_opset(
                floats, order.options.opset, quantized=order.quantization is not None
            ),
            precision=floats,
            islands=order.islands,
            quantization=order.quantization,
            dialect=self.dialect,
            metadata=metadata_of(
                None if order.preprocess is None else order.preprocess.to_dict(),
                order.labels,
                order.variant,
                order.scores,
                order.options.profile,
                order.options.precision,
            ),
            producer_version=__version__,
        )


def versions_of(backend: str) -> dict[str, str]:
    """Versions of onnx and of a backend's module, for the manifest's ``toolchain``.

    Asked of the module: onnxruntime comes from packages of several names.
    """
    return {name: str(importlib.import_module(name).__version__) for name in ("onnx", backend)}
