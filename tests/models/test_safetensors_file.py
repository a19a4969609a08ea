"""The reader of .safetensors against the library's writer, and what no writer writes."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from checkpoint_checks import outcome, refused, same
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load, save

from levit.errors import CheckpointError
from levit.models.containers.safetensors_file import SafetensorsFile

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def read(data):
    weights = SafetensorsFile(io.BytesIO(data), "m.safetensors")
    return weights.arrays(list(weights.entries))


@given(st.dictionaries(names, st.tuples(shapes, st.sampled_from(DTYPES)), max_size=6), st.data())
def test_what_the_library_writes_is_read_as_the_library_reads_it(kinds, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    tensors = {
        name: random.integers(0, 2, shape).astype(dtype)
        for name, (shape, dtype) in kinds.items()
        if name != "__metadata__"
    }
    written = save(tensors, metadata={"format": "pt"})
    expected = {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in load(written).items()
    }
    same(read(written), expected)


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start, end, shape=None, dtype="F32"):
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


WRONG = {
    "a gap": file_of({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
    "an overlap": file_of({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "one place twice": file_of({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
    "bytes after": file_of({"a": entry(0, 8)}, bytes(12)),
    "too few bytes": file_of({"a": entry(0, 8)}, bytes(4)),
    "another size": file_of({"a": entry(0, 8, [3])}, bytes(8)),
    "a negative size": file_of({"a": entry(0, 8, [-1, -2])}, bytes(8)),
    "a negative place": file_of({"a": entry(-8, 0, [0])}, bytes(8)),
    "a reversed place": file_of({"a": entry(8, 0, [2], "F4")}, bytes(8)),
    "a fraction": file_of({"a": entry(0, 8, [2.0])}, bytes(8)),
    "true for one": file_of({"a": entry(0, 4, [True])}, bytes(4)),
    "no offsets": file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "three offsets": file_of({"a": {**entry(0, 8), "data_offsets": [0, 8, 8]}}, bytes(8)),
    "a field more": file_of({"a": {**entry(0, 8), "more": 1}}, bytes(8)),
    "no object": file_of({"a": [1]}, bytes(8)),
    "many axes": file_of({"a": entry(0, 4, [1] * 65)}, bytes(4)),
    "huge axes": file_of({"a": entry(0, 0, [0, 1 << 62, 1 << 62])}),
    "long numbers": file_of(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}"),
    "a name twice": file_of(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        bytes(1),
    ),
    "deep": file_of(b'{"a":' + b"[" * 100_000),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "not JSON": file_of(b"{'a': 1}"),
    "a short header": file_of(b'{"a": 1}', length=100),
    "a long header": file_of(b'{"__metadata__": {}' + b" " * (17 << 20) + b"}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_writer_writes_is_refused(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_bytes(WRONG[name])
    refused(path, r"cannot be read as \.safetensors \(.+\); it may be truncated: download or save")


@given(st.data())
@settings(max_examples=200)
def test_the_library_refuses_no_less(data):
    tensors = {"a": np.arange(4, dtype=np.int32), "b": np.ones((2, 1), np.uint8)}
    changed = bytearray(save(tensors))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.sampled_from(b'0123456789[]{},:"aU') | st.integers(0, 255))
    try:
        found = read(bytes(changed))
    except CheckpointError:
        return
    try:
        same(found, load(bytes(changed)))
    except SafetensorError as error:  # of metadata, which is not looked at
        pytest.fail(f"read, though the library says {error}")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F4", "C64"])
def test_an_unknown_dtype_is_named(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"a": entry(0, 8, [2], dtype)}, bytes(8)))
    refused(path, f"a is {dtype}, which is not supported; save it as float32")


LIMITED = """
import resource, sys
from pathlib import Path
from levit.errors import CheckpointError
from levit.models.checkpoint import read_checkpoint
import numpy.linalg
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    read_checkpoint(Path(sys.argv[1]))
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_gigabyte_in_little_memory_is_one_line(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    size = 1 << 30
    shape = [size // (4 if dtype == "F32" else 2)]
    head = file_of({"a": entry(0, size, shape, dtype)})
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + size)  # zeros that take no place on the disk
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-1000:]
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    assert "memory" in line


def test_more_than_the_machine_has_is_refused_before_it_is_allocated(tmp_path):
    path = tmp_path / "model.safetensors"
    size = 1 << 42
    head = file_of({"a": entry(0, size)})
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + size)
    found = outcome(path)
    assert "GB of memory" in found or "not enough memory" in found


def test_names_that_are_long_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"n" * 10_000: entry(0, 8)}, bytes(8)))
    refused(path, "is no name for a tensor|has a name of")
