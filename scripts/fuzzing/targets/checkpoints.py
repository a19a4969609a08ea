"""Targets that read checkpoint files: ``.safetensors`` and PyTorch's ``.pth``."""

from __future__ import annotations

import argparse
import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzzing.archives import Member, damaged_zip, read_members, write_members
from fuzzing.damage import damaged
from fuzzing.json_damage import damaged_json
from fuzzing.pickle_damage import damaged_pickle
from fuzzing.target import WrongAnswerError
from levit.export.options import ExportOptions
from levit.export.sources import load_source
from levit.models.checkpoint import Checkpoint, read_checkpoint
from levit.models.registry import digits_folder

__all__ = ["PthTarget", "SafetensorsTarget"]

_DATA = Path(__file__).parents[3] / "tests" / "data"
_WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")


def _read(data: bytes, path: Path) -> Checkpoint:
    """Read a file as ``levit inspect`` does: what is in it, and which model that is."""
    path.write_bytes(data)
    checkpoint = read_checkpoint(path)
    if len(checkpoint.tensors) > 40:
        load_source(ExportOptions(checkpoint=path))
    return checkpoint


def _compare(tensors: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Bit for bit, after the prefixes of wrappers are taken off and half types are widened."""
    named = {}
    for name, value in expected.items():
        for wrapper in _WRAPPERS if name.startswith(_WRAPPERS) else ():
            name = name.removeprefix(wrapper)
        named[name] = value
    if set(named) != set(tensors):
        raise WrongAnswerError(f"names: {sorted(set(named) ^ set(tensors))[:5]}")
    for name, value in named.items():
        found = tensors[name]
        wanted = value.astype(np.float32) if value.dtype == np.float16 else value
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise WrongAnswerError(
                f"type: {name} is {found.dtype} {found.shape}, not {wanted.dtype} {wanted.shape}"
            )
        if wanted.dtype == np.bool_:  # any byte but 0 is true
            found, wanted = found.view(np.uint8) != 0, wanted.view(np.uint8) != 0
        if found.tobytes() != wanted.tobytes():
            raise WrongAnswerError(f"values: {name} differs")


class SafetensorsTarget:
    """`read_checkpoint` and the recognition behind it, against a reader of a dozen lines."""

    name = "safetensors"
    memory_bytes = 1 << 30
    seconds = 120.0

    def __init__(self) -> None:
        self._seeds: list[bytes] = []

    def prepare(self, folder: Path) -> None:
        whole = (digits_folder() / "model.safetensors").read_bytes()
        self._seeds = [_every_type(), _every_type(), whole]

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        length = int.from_bytes(data[:8], "little")
        header, body = data[8 : 8 + length], data[8 + length :]
        headers = damaged_json(header.decode()) | damaged(header)
        return st.one_of(
            damaged(data, self._seeds),
            # The numbers only.
            damaged(body).map(lambda part: data[: 8 + length] + part.ljust(len(body))[: len(body)]),
            headers.map(lambda text: struct.pack("<Q", len(text)) + text + body),
            headers.map(lambda text: data[:8] + text.ljust(length) + body),
        )

    def attempt(self, data: bytes, folder: Path) -> Any:
        return _read(data, folder / "model.safetensors")

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        _compare(answer.tensors, _parsed(data))


_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def _every_type() -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, dtype in [*_TYPES.items(), ("BF16", "<u2")]:
        piece = np.arange(6).astype(dtype).tobytes()
        offsets = [len(body), len(body) + len(piece)]
        header[name.lower()] = {"dtype": name, "shape": [2, 3], "data_offsets": offsets}
        body += piece
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text + body


def _parsed(data: bytes) -> dict[str, Any]:
    """Source: the format's description in the README of safetensors."""
    length = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        raw = data[8 + length + start : 8 + length + end]
        if entry["dtype"] == "BF16":
            array = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(raw, _TYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


class PthTarget:
    """`read_checkpoint` on zip files of ``torch.save``, against ``torch.load(weights_only=True)``.

    PyTorch refuses more than levit does, which steps over what is not weights; where PyTorch reads
    a file that levit reads, every tensor must be the same.
    """

    name = "pth"
    memory_bytes = 1 << 30
    seconds = 120.0

    def __init__(self) -> None:
        self._seeds: list[bytes] = []

    def prepare(self, folder: Path) -> None:
        import torch

        torch.set_num_threads(1)
        files = sorted((_DATA / "pth").glob("*.pth*"))
        files += sorted((_DATA / "cases").glob("*plain.pth"))
        self._seeds = [path.read_bytes() for path in files]

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        anything = damaged(data, self._seeds) | damaged_zip(data)
        try:
            pickles = _other_pickle(read_members(data))
        except zipfile.BadZipFile:  # of PyTorch before 1.6, or written without checksums
            return anything
        return anything | pickles | pickles

    def attempt(self, data: bytes, folder: Path) -> Any:
        return _read(data, folder / "checkpoint.pth")

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        import torch

        if _has_folders(data):
            return
        try:
            with torch.serialization.safe_globals([argparse.Namespace]):
                saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception:  # PyTorch raises what it likes; then there is nothing to compare with
            return
        key = answer.origin.get("key")
        tensors = saved if key is None else saved[key]
        expected = {}
        for name, value in tensors.items():
            if torch.is_tensor(value) and name != "_metadata":  # torch's own, never a weight
                plain = value.detach()
                plain = plain.float() if plain.dtype == torch.bfloat16 else plain
                expected[name] = plain.contiguous().numpy()
        _compare(answer.tensors, expected)


@st.composite
def _other_pickle(draw: Any, members: Sequence[Member]) -> bytes:
    """An archive whose ``data.pkl`` is damaged, and now and then another member too."""
    changed = [
        (name, draw(damaged_pickle(contents)) if name.endswith("data.pkl") else contents)
        for name, contents in members
    ]
    if draw(st.integers(0, 9)) == 0:
        i = draw(st.integers(0, len(changed) - 1))
        changed[i] = (changed[i][0], draw(damaged(changed[i][1])))
    return write_members(changed)


def _has_folders(data: bytes) -> bool:
    """True where a member of an archive is marked as a folder, whatever it holds.

    PyTorch 2.15 reads nothing for such a member and hands out the memory as it finds it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(info.external_attr & 0x10 for info in archive.infolist())
    except Exception:  # then PyTorch may still read it
        return False
