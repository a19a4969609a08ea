"""Check of an OpenVINO IR before OpenVINO sees it: one plain graph and its weights.

As for ONNX files (`onnx_file`): the scan knows the elements and operations that levit writes and
refuses all others (loops, sub-graphs, operations of extensions), so that what it does not
understand is not passed on. Weights come from the file beside it, which a hash covers, and from
inside of that.

Source: docs.openvino.ai, "OpenVINO IR format", version 11.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Final
from xml.parsers import expat

from levit.artifact import OPENVINO_WEIGHTS_FILE, Artifact
from levit.errors import CorruptArtifactError

__all__ = ["METADATA", "check_openvino_file"]


# Where the IR keeps what an ONNX file keeps in its metadata.
METADATA: Final[Mapping[str, list[str]]] = {
    "levit.variant": ["levit", "variant"],
    "levit.preprocess": ["levit", "preprocess"],
    "levit.labels": ["levit", "labels"],
    "levit.scores": ["levit", "scores"],
    "levit.batch": ["levit", "batch"],
}

_ELEMENTS: Final = {
    *("net", "layers", "layer", "data", "input", "output", "port", "dim", "edges", "edge"),
    *("rt_info", "attribute"),
}
_OPERATIONS: Final = {
    *("Parameter", "Result", "Const", "Convert", "Convolution", "MatMul", "Add", "Multiply"),
    *("SoftMax", "HSwish", "HardSigmoid", "Sigmoid", "Reshape", "Transpose", "Slice"),
    *("ReduceMean", "Gather", "BatchNormInference", "MVN", "Erf", "Tanh", "Pad", "Divide"),
    *("FakeQuantize", "Subtract"),  # of integers
}
# Files of ours have a depth of 6; each element is judged by all that it lies in.
_DEEPEST: Final = 16


def check_openvino_file(artifact: Artifact, data: bytes | None = None) -> None:
    """Refuse what `levit export` does not write.

    Args:
        artifact: whose IR it is.
        data: its bytes, where they have been read already.

    Raises:
        CorruptArtifactError: it is no IR, or it is more than one graph and its weights.
    """
    path = artifact.payload
    try:
        if path.suffix != ".xml":
            raise ValueError("it is not called .xml")
        entry = artifact.manifest.files.get(OPENVINO_WEIGHTS_FILE)
        if entry is None:
            raise ValueError(f"the manifest lists no {OPENVINO_WEIGHTS_FILE}")
        _Scan(int(entry["size_bytes"])).run(path.read_bytes() if data is None else data)
    except (OSError, ValueError, expat.ExpatError) as error:
        raise CorruptArtifactError(
            f"{path}: not an IR that levit has written ({error}); export again"
        ) from error


class _Scan:
    """Check every element, in one pass."""

    def __init__(self, weights_bytes: int) -> None:
        self._weights_bytes = weights_bytes
        self._open: list[str] = []

    def run(self, data: bytes) -> None:
        """Raise ValueError or ExpatError at the first thing that does not belong."""
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = lambda name: self._open.pop()
        parser.Parse(data, True)

    def _doctype(self, *declaration: object) -> None:
        raise ValueError("it declares entities")

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        inside = self._open
        inside.append(name)
        if len(inside) > _DEEPEST:
            raise ValueError(f"its elements are more than {_DEEPEST} deep")
        # Below the network's own rt_info are texts only.
        if inside[:2] == ["net", "rt_info"]:
            return
        if name not in _ELEMENTS or inside[0] != "net":
            raise ValueError(f"it has an element {name!r}")
        if name == "layer":
            kind, version = attributes.get("type"), attributes.get("version", "")
            if kind not in _OPERATIONS or not version.startswith("opset"):
                raise ValueError(f"it has an operation {kind!r} of {version!r}")
        if name == "data" and "offset" in attributes:
            end = sum(int(attributes.get(part, "")) for part in ("offset", "size"))
            if not 0 <= int(attributes["offset"]) <= end <= self._weights_bytes:
                raise ValueError("its weights lie outside of their file")
        if any(a == b == "rt_info" for a, b in itertools.pairwise(inside)):
            raise ValueError("it has an rt_info within another")
