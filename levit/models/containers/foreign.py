"""Names of files that are no checkpoint, told by their bytes, and what to do about each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import BinaryIO, Final

from levit.models.containers.listing import listing
from levit.plain_file import is_lfs_pointer

__all__ = ["foreign_file", "foreign_tar", "foreign_zip"]

_TRAINED: Final = "pass the PyTorch or .safetensors checkpoint that it was made from"
_PICTURE: Final = (
    "a picture, not a checkpoint: pictures go to levit predict ARTIFACT IMAGE, behind the model"
)
_UNPACK: Final = "unpack it, and pass the checkpoint in it"
_ARRAYS: Final = (
    "NumPy arrays, not a checkpoint that this release reads; load them into a model of timm or "
    "transformers, and save its state_dict()"
)
_PROGRAM: Final = (
    "a program of torch.export, which holds no plain weights; save its model's state_dict(): "
    "torch.save(torch.export.load(…).state_dict, …)"
)
_KERAS: Final = (
    "an HDF5 file of Keras or TensorFlow, which is not read; load it in transformers 4 "
    "(from_tf=True), and save_pretrained"
)

# (first bytes, at which offset, what the file is and what to do).
_MAGIC: Final[Sequence[tuple[bytes, int, str]]] = (
    (b"\x89PNG\r\n\x1a\n", 0, _PICTURE),
    (b"\xff\xd8\xff", 0, _PICTURE),
    (b"GIF8", 0, _PICTURE),
    (b"II*\x00", 0, _PICTURE),
    (b"MM\x00*", 0, _PICTURE),
    (b"WEBP", 8, _PICTURE),
    (b"\x89HDF\r\n\x1a\n", 0, _KERAS),
    (b"\x93NUMPY", 0, _ARRAYS),
    (b"GGUF", 0, f"a GGUF file, whose weights are for llama.cpp; {_TRAINED}"),
    (b"ftrt", 0, f"a TensorRT engine, which is compiled already; {_TRAINED}"),
    (b"vtrt", 0, f"a TensorRT-RTX engine, which is compiled already; {_TRAINED}"),
    (b"TFL3", 4, f"a TensorFlow Lite model; {_TRAINED}"),
    (b"\x1f\x8b", 0, f"compressed with gzip; {_UNPACK}"),
    (b"BZh", 0, f"compressed with bzip2; {_UNPACK}"),
    (b"\xfd7zXZ\x00", 0, f"compressed with xz; {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", 0, f"compressed with zstd; {_UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", 0, f"a 7z archive; {_UNPACK}"),
    (b"Rar!", 0, f"a RAR archive; {_UNPACK}"),
    (
        b"\x80",
        0,
        "a pickle, but not one of torch.save, and reading those is not safe; save the weights "
        "with torch.save or as .safetensors",
    ),
)
_LFS_POINTER: Final = (
    "not a .safetensors file but Git LFS's pointer to one; fetch the file itself: git lfs pull"
)
_HTML: Final = (
    "a web page (HTML), such as a login or error page that was saved in place of the weights; "
    "download the file itself"
)
_NOTHING_KNOWN: Final = (
    "not a .safetensors file, nor a PyTorch checkpoint; download or save it again"
)

_CHECKPOINTS: Final = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pth.tar")
# Types of what stands before the files of a tar: extended headers, long names, folders.
_NO_FILES: Final = (b"x", b"g", b"L", b"5")
# Members of the tar files of PyTorch's first versions.
_OLD_MEMBERS: Final = ("sys_info", "pickle", "storages", "tensors")

# Of ONNX's ModelProto: the number of the field that holds the graph, and of those around it.
_GRAPH: Final = 7
_MODEL_FIELDS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_MOST_FIELDS: Final = 10_000
_VARINT, _BYTES = 0, 2


def foreign_file(stream: BinaryIO, head: bytes) -> str:
    """Say what a file is that is no checkpoint, and what to do: a part of a line.

    ::

        foreign_file(stream, b"GGUF…")  # "a GGUF file, whose weights are for llama.cpp; …"

    Args:
        stream: the file, open for reading.
        head: its first bytes, 512 of them where it has as many.
    """
    if is_lfs_pointer(head):
        return _LFS_POINTER
    for magic, at, words in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return words
    if head[:2] == b"BM" and head[6:10] == bytes(4):  # BMP, with two numbers that are not used
        return _PICTURE
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return _HTML
    if start.startswith((b"<?xml", b"<net")):
        if b"<net " in start:
            return f"an OpenVINO model, which is compiled already; {_TRAINED}"
        return f"an XML file, not a checkpoint; {_TRAINED}"
    if _is_onnx(stream):
        return f"an ONNX model, whose weights are not read; {_TRAINED}"
    return _NOTHING_KNOWN


def foreign_zip(names: Sequence[str]) -> str:
    """Say what a zip archive is that torch.save has not written, by the names of its members.

    ::

        foreign_zip(["a.npy", "b.npy"])  # "an .npz of NumPy arrays, not a checkpoint …"
    """
    inner = {name.partition("/")[2] or name for name in names}
    if names and all(name.endswith(".npy") for name in names):
        return f"an .npz of {_ARRAYS}"
    # Its format of today, and of PyTorch 2.7 and before.
    is_program = "archive_format" in inner and any(name.startswith("models/") for name in inner)
    if is_program or "serialized_exported_program.json" in {*inner, *names}:
        return _PROGRAM
    if "model.weights.h5" in names:
        return f"a model of Keras, which is not read; {_TRAINED}"
    return f"a zip file, but not one of torch.save ({_contents(names)})"


def foreign_tar(head: bytes) -> str | None:
    """Say what a tar file is by its first block; None for one of PyTorch's first versions."""
    name = head[:100].rstrip(b"\0").decode("utf-8", "replace")
    if name.removeprefix("./") in _OLD_MEMBERS:
        return None
    if head[156:157] in _NO_FILES:
        return f"a tar file, but not one of PyTorch; {_UNPACK}"
    return f"a tar file, but not one of PyTorch ({_contents([name])})"


def _contents(names: Iterable[str]) -> str:
    """Describe what an archive holds, and advise."""
    files = [name for name in names if not name.endswith("/")]
    weights = [name for name in files if name.endswith(_CHECKPOINTS)]
    if weights:
        return f"it holds {listing(weights, 3)}: {_UNPACK}"
    return f"it holds {listing(files, 3) or 'nothing'}: pass a checkpoint"


def _is_onnx(stream: BinaryIO) -> bool:
    """Return True for the fields of a ModelProto, from the first to the last byte of the file.

    Only their heads are read. Source: onnx/onnx.proto, and protobuf's encoding.
    """
    size = stream.seek(0, os.SEEK_END)
    at, has_graph = 0, False
    for _ in range(_MOST_FIELDS):
        if at >= size:
            return has_graph and at == size
        stream.seek(at)
        head = stream.read(20)
        tag, used = _varint(head, 0)
        value, used = _varint(head, used)
        field, kind = tag >> 3, tag & 7
        if not used or field not in _MODEL_FIELDS or kind not in (_VARINT, _BYTES):
            return False
        has_graph = has_graph or (field == _GRAPH and kind == _BYTES)
        at += used + (value if kind == _BYTES else 0)
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number: (number, offset behind it), the offset 0 where there is none."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    return 0, 0
