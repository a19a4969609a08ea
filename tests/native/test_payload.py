"""The files, against the safetensors library both ways, and all that they must not be."""

import json
import re
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from levit.errors import ArtifactError, CorruptArtifactError
from levit.native.payload import open_payload, write_payload
from levit.native.program_file import PROGRAM, read_program, write_program

METADATA = {"program": '{"version": 1}', "levit.labels": '["鯉", "a\\nb"]'}


@pytest.fixture
def arrays(rng):
    return {
        "stem.0.weight": rng.standard_normal((4, 3, 3, 3)),
        "head.weight": rng.standard_normal((10, 64)).astype(np.float32),
        "head.bias": rng.standard_normal(10).astype(np.float32),
        "transposed": np.asfortranarray(rng.standard_normal((5, 7)).astype(np.float32)),
        "scalar": np.array(2.5),
        "none": np.zeros((0, 3)),
    }


@pytest.fixture
def path(arrays, tmp_path):
    path = tmp_path / "model.safetensors"
    write_payload(path, arrays, METADATA)
    return path


def test_the_library_reads_what_is_written(path, arrays):
    found = load_file(path)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array.astype(np.float32))
    with safe_open(path, "np") as file:
        assert file.metadata() == METADATA


def test_what_the_library_writes_is_read(arrays, tmp_path):
    path = tmp_path / "theirs.safetensors"
    theirs = {name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()}
    save_file(theirs, path, METADATA)
    with open_payload(path) as payload:
        assert payload.metadata == METADATA
        assert {n: spec.shape for n, spec in payload.specs.items()} == {
            name: array.shape for name, array in theirs.items()
        }
        for name, array in theirs.items():
            np.testing.assert_array_equal(payload.read(name), array)


def test_arrays_are_read_in_any_order_and_more_than_once(path, arrays):
    with open_payload(path) as payload:
        for name in [*reversed(arrays), *arrays]:
            found = payload.read(name)
            assert found.dtype == np.float32
            assert found.flags.c_contiguous
            assert found.flags.writeable
            np.testing.assert_array_equal(found, arrays[name].astype(np.float32))


def test_the_same_bytes_for_the_same_contents(path, arrays, tmp_path):
    other = tmp_path / "other"
    write_payload(other, dict(reversed(arrays.items())), dict(reversed(METADATA.items())))
    assert other.read_bytes() == path.read_bytes()
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert (8 + length) % 64 == 0


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def of_header(header, body=8, length=None):
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(words) if length is None else length) + words + bytes(body)


WRONG = {
    "empty": (b"", "it is too short"),
    "short": (b"\0" * 7, "it is too short"),
    "header too long": (of_header({}, length=2**63), "a header of 9223372036854775808 bytes"),
    "header cut": (of_header({"a": entry()}, 0, length=500), "states a header of 500 bytes"),
    "header of a giant": (of_header(b"{" + b" " * 2**24 + b"}"), "is beyond any program's"),
    "no JSON": (of_header(b"{"), "not a .safetensors file"),
    "no UTF-8": (of_header(b'{"\xff": 1}'), "not a .safetensors file"),
    "list": (of_header([]), "header: expected an object"),
    "deep": (of_header(b"[" * 100_000), "not a .safetensors file"),
    "name twice": (of_header(b'{"a": 1, "a": 2}'), "stands twice in one object"),
    "metadata": (of_header({"__metadata__": {"a": 1}}, 0), "a: expected a string"),
    "no metadata": (of_header({"__metadata__": "x"}, 0), "expected an object"),
    "text": (of_header({"a": "F32"}), "a: expected an object"),
    "no offsets": (of_header({"a": {"dtype": "F32", "shape": [2]}}), "unknown fields"),
    "another field": (of_header({"a": entry() | {"code": 1}}), "unknown fields"),
    "float16": (
        of_header({"a": entry(end=4, dtype="F16")}, 4),
        "is of type 'F16', none of F32",
    ),
    "dtype": (of_header({"a": entry(dtype=[])}), "a: expected a string"),
    "negative": (of_header({"a": entry(shape=(-2,))}), "a: expected a whole number"),
    "large": (of_header({"a": entry(shape=(2**40,))}), "a: expected a whole number"),
    "fraction": (of_header({"a": entry(shape=(2.0,))}), "a: expected a whole number"),
    "many axes": (of_header({"a": entry(shape=(2,) + (1,) * 8)}), "'a' has 8 bytes for"),
    "three offsets": (of_header({"a": entry() | {"data_offsets": [0, 4, 8]}}), "two offsets"),
    "bytes": (of_header({"a": entry(shape=(3,))}), "'a' has 8 bytes for (3,)"),
    "reversed": (of_header({"a": entry(8, 0)}), "'a' has -8 bytes"),
    "overlap": (of_header({"a": entry(), "b": entry(4, 12)}, 12), "'b' begins at byte 4, not at 8"),
    "hole": (of_header({"a": entry(), "b": entry(12, 20)}, 20), "'b' begins at byte 12, not at 8"),
    "late": (of_header({"a": entry(8, 16)}, 16), "'a' begins at byte 8, not at 0"),
    "truncated": (of_header({"a": entry()}, 7), "its arrays end at byte"),
    "more": (of_header({"a": entry()}, 9), "its arrays end at byte"),
}


@pytest.mark.parametrize("name", WRONG)
def test_file_that_levit_has_not_written(tmp_path, name):
    data, message = WRONG[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=re.escape(message)) as caught:
        open_payload(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_no_file(tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        open_payload(tmp_path / "model.safetensors")


def test_file_that_becomes_shorter(tmp_path):
    path = tmp_path / "model.safetensors"
    write_payload(path, {"a": np.ones(100_000)}, {})
    with open_payload(path) as payload:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)
        with pytest.raises(CorruptArtifactError, match="'a' is cut short"):
            payload.read("a")


def test_a_program_in_which_a_name_stands_twice(tmp_path, lowered):
    path = tmp_path / "model.safetensors"
    made = lowered()
    write_program(path, made.program, made.arrays, {})
    with open_payload(path) as payload:
        assert read_program(payload) == made.program
        words, arrays = payload.metadata[PROGRAM], {n: payload.read(n) for n in payload.specs}
    write_payload(path, arrays, {PROGRAM: words.replace('"version":1', '"version":1,"version":1')})
    with (
        open_payload(path) as payload,
        pytest.raises(CorruptArtifactError, match=r"is no JSON \(.* stands twice in one object"),
    ):
        read_program(payload)
