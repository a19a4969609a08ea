"""Check of an OpenVINO IR before OpenVINO sees it: a graph that levit has written.

As for ONNX files (`onnx_file`): the scan knows the text, operations, attributes and types that
`levit export` writes, computes the shape of every value, and refuses all else by name. Weights
come from the file beside it, which a hash covers, and from inside of that.

Source: docs.openvino.ai, "OpenVINO IR format", version 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from levit.artifact import OPENVINO_WEIGHTS_FILE, Artifact
from levit.errors import CorruptArtifactError
from levit.runtime.graphs.ir_graph import check_ir
from levit.runtime.graphs.wire import Buffer, mapped

__all__ = ["METADATA", "check_openvino_file"]


# Where the IR keeps what an ONNX file keeps in its metadata.
METADATA: Final[Mapping[str, list[str]]] = {
    "levit.variant": ["levit", "variant"],
    "levit.preprocess": ["levit", "preprocess"],
    "levit.labels": ["levit", "labels"],
    "levit.scores": ["levit", "scores"],
    "levit.batch": ["levit", "batch"],
    "levit.precision": ["levit", "precision"],
}

# The largest networks of `levit list` take 1.5 MB, at int8; 100,000 labels, with their copy, 8.
_LONGEST_BYTES: Final = 2**25


def check_openvino_file(
    artifact: Artifact, text: Buffer | None = None, weights: Buffer | None = None
) -> None:
    """Refuse what `levit export` does not write.

    Args:
        artifact: with ``model.xml`` and ``model.bin``.
        text, weights: contents of the two, where they have been read.

    Raises:
        CorruptArtifactError: it is no IR, or has anything that levit does not write.
    """
    path = artifact.payload
    try:
        if path.suffix != ".xml":
            raise ValueError("it is not called .xml")
        if OPENVINO_WEIGHTS_FILE not in artifact.manifest.files:
            raise ValueError(f"the manifest lists no {OPENVINO_WEIGHTS_FILE}")
        size = path.stat().st_size if text is None else len(text)
        if size > _LONGEST_BYTES:
            raise ValueError(f"it has over {_LONGEST_BYTES // 2**20} MiB")
        contents = path.read_bytes() if text is None else bytes(text)
        check_ir(
            contents, mapped(artifact.path / OPENVINO_WEIGHTS_FILE) if weights is None else weights
        )
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(
            f"{path}: not an IR that levit has written ({error}); export again"
        ) from error
