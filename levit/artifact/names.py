"""Names of an artifact's files."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ENGINE_FILE",
    "GIT_FILE",
    "GOLDEN_FILE",
    "GRAPH_FILE",
    "LABELS_FILE",
    "MANIFEST_FILE",
    "NATIVE_FILE",
    "OPENVINO_FILE",
    "OPENVINO_WEIGHTS_FILE",
]

GIT_FILE: Final = ".gitattributes"
MANIFEST_FILE: Final = "manifest.json"
LABELS_FILE: Final = "labels.txt"
GOLDEN_FILE: Final = "golden.npz"

# Payloads. An engine has the graph that it was built from beside it.
GRAPH_FILE: Final = "model.onnx"
OPENVINO_FILE: Final = "model.xml"
OPENVINO_WEIGHTS_FILE: Final = "model.bin"
ENGINE_FILE: Final = "model.engine"
NATIVE_FILE: Final = "model.safetensors"
