"""Check of an ONNX file before ONNX Runtime sees it: one plain graph and its weights.

ONNX lets a file name other files to take its weights from (outside of the artifact, or in it and
under no hash), loop for as long as it likes in sub-graphs, and bring functions and operators of
other vendors. levit writes none of these, so a payload that has one is not levit's. The scan
knows by number the fields that levit writes and refuses all others, so that what it does not
understand is not passed on. It reads no weights: a file of any size takes a few milliseconds.

Source: onnx/onnx.proto of ONNX 1.17, and the encoding in protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from levit.errors import CorruptArtifactError

__all__ = ["check_onnx_file", "onnx_metadata"]

# A kind of message: the fields that it may have, by number: the message that one holds, or None
# for numbers, text and raw data.
_Fields: TypeAlias = Mapping[int, "_Fields | None"]


def _plain(*numbers: int) -> dict[int, _Fields | None]:
    return dict.fromkeys(numbers)


# Not: external_data (13), data_location (14).
_TENSOR: Final[_Fields] = _plain(1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12)
# Not: sub-graphs (6, 11), sparse tensors (22, 23).
_ATTRIBUTE: Final[_Fields] = {**_plain(1, 2, 3, 4, 7, 8, 9, 13, 20), 5: _TENSOR, 10: _TENSOR}
# Not: overload (8). The operator's domain (7) must be empty.
_NODE: Final[_Fields] = {**_plain(1, 2, 3, 4, 6, 7, 9), 5: _ATTRIBUTE}
# Not: quantization_annotation (14), sparse_initializer (15).
_GRAPH: Final[_Fields] = {**_plain(2, 10, 11, 12, 13, 16), 1: _NODE, 5: _TENSOR}
# Not: training_info (20), functions (25), configuration (26).
_MODEL: Final[_Fields] = {**_plain(1, 2, 3, 4, 5, 6, 8, 14), 7: _GRAPH}

_NAMES: Final = {
    (id(_TENSOR), 13): "weights in another file",
    (id(_TENSOR), 14): "weights in another file",
    (id(_ATTRIBUTE), 6): "a sub-graph",
    (id(_ATTRIBUTE), 11): "sub-graphs",
    (id(_MODEL), 25): "functions of its own",
}
_DOMAIN: Final = 7
_METADATA: Final = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10


def check_onnx_file(path: Path, data: memoryview | None = None) -> None:
    """Refuse what `levit export` does not write.

    Args:
        path: of the file.
        data: its bytes, where they have been read already.

    Raises:
        CorruptArtifactError: it is no ONNX file, or it is more than one graph and its weights.
    """
    try:
        if path.suffix != ".onnx":  # ONNX Runtime has a format of its own under another
            raise ValueError("it is not called .onnx")
        if data is None:
            data = memoryview(path.read_bytes())
        if not data:
            raise ValueError("it is empty")
        _check(data, 0, len(data), _MODEL)
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(
            f"{path}: not an ONNX file that levit has written ({error}); export again"
        ) from error


def onnx_metadata(path: Path, data: memoryview | None = None) -> dict[str, str]:
    """Read the metadata that `levit export` has written into an ONNX file.

    Raises:
        CorruptArtifactError: it is no ONNX file that levit writes.
    """
    check_onnx_file(path, data)
    metadata = {}
    try:
        data = memoryview(path.read_bytes()) if data is None else data
        for number, at, length in _parts(data, 0, len(data)):
            if number == _METADATA:
                parts = _parts(data, at, at + length)
                fields = {n: bytes(data[a : a + size]) for n, a, size in parts}
                metadata[fields[1].decode()] = fields.get(2, b"").decode()
    except (OSError, ValueError, KeyError) as error:
        raise CorruptArtifactError(f"{path}: cannot be read ({error}); export again") from error
    return metadata


def _check(data: memoryview, start: int, end: int, fields: _Fields) -> None:
    for number, at, length in _parts(data, start, end):
        if number not in fields:
            what = _NAMES.get((id(fields), number), f"field {number} near byte {at}")
            raise ValueError(f"it has {what}")
        message = fields[number]
        if message is not None:
            _check(data, at, at + length, message)
        elif fields is _NODE and number == _DOMAIN and length:
            raise ValueError(f"it has an operator of {bytes(data[at : at + min(length, 40)])!r}")


def _parts(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, where its value begins, length of its value)."""
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            length = _varint(data, at, end)[1] - at
        elif wire == _BYTES:
            length, at = _varint(data, at, end)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"damaged near byte {at}")
        if at + length > end:
            raise ValueError(f"damaged near byte {at}")
        yield number, at, length
        at += length


def _varint(data: memoryview, start: int, end: int) -> tuple[int, int]:
    """(number, where it ends)."""
    number = 0
    for i, at in enumerate(range(start, min(end, start + _LONGEST_VARINT))):
        byte = data[at]
        number |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return number, at + 1
    raise ValueError(f"damaged near byte {start}")
