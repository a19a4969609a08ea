"""Check of an ONNX file before ONNX Runtime sees it: a graph that levit has written.

A file of 700 bytes can end the process that loads it, or fill its memory, by operators that are
all standard: an integer division, a GatherND of odd attributes, an Expand. Weights can lie in
other files, outside of the artifact, or under no hash; sub-graphs can loop for as long as they
like. So the scan knows what `levit export` writes (fields, operators, types, attributes and their
values), computes the shape of every value before a backend does, and refuses all else by name.
It reads no weights: a file of any size takes a few milliseconds.

Source: onnx/onnx.proto of ONNX 1.17.
"""

from __future__ import annotations

from pathlib import Path

from levit.errors import CorruptArtifactError
from levit.runtime.graphs.onnx_graph import check_graph, metadata_of
from levit.runtime.graphs.wire import Buffer, mapped

__all__ = ["check_onnx_file", "onnx_metadata"]


def check_onnx_file(path: Path, data: Buffer | None = None) -> None:
    """Refuse what `levit export` does not write.

    Args:
        path: of the file.
        data: its contents, where they have been read.

    Raises:
        CorruptArtifactError: it is no ONNX file, or has anything that levit does not write.
    """
    try:
        if path.suffix != ".onnx":  # ONNX Runtime has a format of its own under another
            raise ValueError("it is not called .onnx")
        contents = mapped(path) if data is None else data
        if not contents:
            raise ValueError("it is empty")
        check_graph(contents)
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(
            f"{path}: not an ONNX file that levit has written ({error}); export again"
        ) from error


def onnx_metadata(path: Path, data: Buffer | None = None) -> dict[str, str]:
    """Read the metadata that `levit export` has written into an ONNX file.

    Raises:
        CorruptArtifactError: it is no ONNX file that levit writes.
    """
    check_onnx_file(path, data)
    try:
        return metadata_of(mapped(path) if data is None else data)
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(f"{path}: cannot be read ({error}); export again") from error
