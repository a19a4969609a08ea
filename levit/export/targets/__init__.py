"""What a deployed model can become. A new target is one file and one line of `TARGETS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from levit.errors import ExportError
from levit.export.onnx.onnxruntime_ops import OnnxruntimeOps
from levit.export.onnx.openvino_ops import OpenvinoOps
from levit.export.onnx.tensorrt_ops import TensorrtOps
from levit.export.targets.onnx import prepare_onnx, write_onnx
from levit.export.targets.openvino import prepare_openvino, require_openvino, write_openvino
from levit.export.targets.target import Order, Target, Written
from levit.export.targets.tensorrt import ENGINE_FILE, RTX, TENSORRT, prepare_engine

__all__ = ["TARGETS", "Order", "Target", "Written", "find_target"]

TARGETS: Final[Mapping[str, Target]] = {
    "onnx": Target(
        format="onnx",
        payload="model.onnx",
        precisions=("fp32", "fp16", "bf16", "int8"),
        distribution="onnxruntime",
        min_version="1.20",
        prepare=prepare_onnx,
        write=write_onnx,
        dialect=OnnxruntimeOps,
        grids_of_results=True,
    ),
    "openvino": Target(
        format="openvino",
        payload="model.xml",
        precisions=("fp32", "fp16", "bf16", "int8"),
        distribution="openvino",
        min_version="2025.0",
        prepare=prepare_openvino,
        write=write_openvino,
        require=require_openvino,
        dialect=OpenvinoOps,
        typed=False,
    ),
    "trt": Target(
        format="tensorrt",
        payload=ENGINE_FILE,
        precisions=("fp32", "fp16", "bf16", "int8"),
        distribution="tensorrt",
        min_version="10.12",
        prepare=prepare_engine,
        write=TENSORRT.write,
        require=TENSORRT.require,
        device="gpu",
        dialect=TensorrtOps,
        signed=True,
        beside_int8="fp16",
        unrunnable=TENSORRT.unrunnable,
    ),
    "trt-rtx": Target(
        format="tensorrt-rtx",
        payload=ENGINE_FILE,
        precisions=("fp32", "fp16", "bf16", "int8"),
        distribution="tensorrt-rtx-cu13-bindings",
        min_version="1.7",
        prepare=prepare_engine,
        write=RTX.write,
        require=RTX.require,
        device="gpu",
        dialect=TensorrtOps,
        signed=True,
        beside_int8="fp16",
        unrunnable=RTX.unrunnable,
    ),
}


def find_target(name: str, precision: str) -> Target:
    """The target called `name`, if it can be written in `precision`.

    Raises:
        ExportError: this release has no such target, or not in this precision.
        BackendUnavailableError: this machine lacks what writing it takes.
    """
    target = TARGETS.get(name)
    if target is None:
        raise ExportError(f"no target {name!r} in this release; it has: {', '.join(TARGETS)}")
    if precision not in target.precisions:
        raise ExportError(
            f"target {name!r} has no precision {precision!r} in this release; "
            f"it has: {', '.join(target.precisions)}"
        )
    target.require(precision)
    return target
