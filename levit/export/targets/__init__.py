"""What a deployed model can become. A new target is one file and one line of `TARGETS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from levit.errors import ExportError
from levit.export.targets.onnx import prepare_onnx, write_onnx
from levit.models.model import Model

__all__ = ["TARGETS", "Target", "find_target"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of artifact.

    Attributes:
        format: which backend runs it (a key of the runtime's ``BACKENDS``).
        payload: the file that the backend loads.
        precisions: what it can be written in.
        distribution: the package that runs it, for the manifest.
        min_version: of that package, the oldest that it was tried with.
        prepare: chooses the dataflow that the backend runs best.
        write: (model, folder, settings) writes the payload.
    """

    format: str
    payload: str
    precisions: tuple[str, ...]
    distribution: str
    min_version: str
    prepare: Callable[[Model], Model]
    write: Callable[[Model, Path, Mapping[str, Any]], None]


TARGETS: Final[Mapping[str, Target]] = {
    "onnx": Target(
        format="onnx",
        payload="model.onnx",
        precisions=("fp32",),
        distribution="onnxruntime",
        min_version="1.20",
        prepare=prepare_onnx,
        write=write_onnx,
    ),
}


def find_target(name: str, precision: str) -> Target:
    """The target called `name`, if it can be written in `precision`.

    Raises:
        ExportError: this release has no such target, or not in this precision.
    """
    target = TARGETS.get(name)
    if target is None:
        raise ExportError(f"no target {name!r} in this release; it has: {', '.join(TARGETS)}")
    if precision not in target.precisions:
        raise ExportError(
            f"target {name!r} has no precision {precision!r} in this release; "
            f"it has: {', '.join(target.precisions)}"
        )
    return target
