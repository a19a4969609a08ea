"""What can be fuzzed, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from fuzzing.target import Target
from fuzzing.targets.artifact import ArtifactTarget
from fuzzing.targets.checkpoints import PthTarget, SafetensorsTarget
from fuzzing.targets.configs import ConfigTarget
from fuzzing.targets.image import ImageTarget
from fuzzing.targets.onnx import OnnxTarget

__all__ = ["TARGETS"]

TARGETS: Final[Mapping[str, Callable[[], Target]]] = {
    "image": ImageTarget,
    "artifact": ArtifactTarget,
    "onnx": OnnxTarget,
    "safetensors": SafetensorsTarget,
    "pth": PthTarget,
    "config": ConfigTarget,
}
