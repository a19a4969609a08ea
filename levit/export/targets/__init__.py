"""Targets of the compiler. A new one is one file and one line of `TARGETS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from levit.errors import ExportError
from levit.export.targets.native import NATIVE
from levit.export.targets.onnx import ONNX
from levit.export.targets.openvino import OPENVINO
from levit.export.targets.target import Order, Target, Way, Written
from levit.export.targets.tensorrt import TRT, TRT_RTX

__all__ = ["TARGETS", "Order", "Target", "Way", "Written", "find_target"]

TARGETS: Final[Mapping[str, Target]] = {
    "onnx": ONNX,
    "openvino": OPENVINO,
    "native": NATIVE,
    "trt": TRT,
    "trt-rtx": TRT_RTX,
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
