"""Targets by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fuzzing.target import Target

__all__ = ["SHARES", "TARGETS", "prepared"]

# Imported when they are used: atheris must be there before what it watches.
TARGETS: Final[Mapping[str, str]] = {
    "image": "fuzzing.targets.image:ImageTarget",
    "giant": "fuzzing.targets.image:GiantTarget",
    "jpeg": "fuzzing.targets.jpeg:JpegTarget",
    "artifact": "fuzzing.targets.artifact:ArtifactTarget",
    "onnx": "fuzzing.targets.onnx:OnnxTarget",
    "graph": "fuzzing.targets.graph:GraphTarget",
    "ir": "fuzzing.targets.ir:IrTarget",
    "program": "fuzzing.targets.program:ProgramTarget",
    "safetensors": "fuzzing.targets.checkpoints:SafetensorsTarget",
    "pth": "fuzzing.targets.checkpoints:PthTarget",
    "config": "fuzzing.targets.configs:ConfigTarget",
    "record": "fuzzing.targets.records:RecordTarget",
}

# Share of a run's inputs that slow targets get.
SHARES: Final[Mapping[str, float]] = {"giant": 0.02}


def prepared(name: str, folder: Path) -> Target:
    """A target that has what it needs, in a folder of its own below `folder`."""
    module, _, attribute = TARGETS[name].partition(":")
    target: Target = getattr(importlib.import_module(module), attribute)()
    own = folder / name
    own.mkdir()
    target.prepare(own)
    return target
