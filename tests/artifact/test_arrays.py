import io
import zipfile

import numpy as np
import pytest

from levit.artifact.arrays import read_arrays as read_stream


def read_arrays(path):
    with path.open("rb") as stream:
        return read_stream(stream)


@pytest.fixture
def archive(tmp_path):
    """({member: contents}, method) → the path of an archive of them."""

    def make(members, method=zipfile.ZIP_STORED):
        path = tmp_path / "arrays.npz"
        with zipfile.ZipFile(path, "w", method) as file:
            for name, contents in members.items():
                file.writestr(name, contents)
        return path

    return make


def npy(array, **settings):
    out = io.BytesIO()
    np.save(out, array, **settings)
    return out.getvalue()


def with_header(text, data=b""):
    """A .npy of version 1.0 with any header."""
    header = text.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def claiming(descr, shape, data=b""):
    return with_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", data)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "u1", "i8", ">i2", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_savez_writes_is_read(tmp_path, rng, dtype, order):
    arrays = {
        "input": np.asarray(rng.integers(0, 2, (2, 3, 4)), dtype, order=order),
        "output/logits": np.zeros((0, 5), dtype),
        "number": np.asarray(1, dtype),
    }
    path = tmp_path / "arrays.npz"
    np.savez(path, **arrays)
    found = read_arrays(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].flags.writeable
        assert found[name].flags.aligned


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (claiming("'<f4'", "(10**12,)"), "malformed"),
        (claiming("'<f4'", "(1000000000000,)"), "another length"),
        (claiming("'|S99999999'", "(3,)", b"abc"), "S99999999"),
        (claiming("'<f4'", "(2,)", bytes(12)), "another length"),
        (claiming("'<f4'", "(-1,)", b""), "shape"),
        (claiming("'<f4'", "(" + "1, " * 40 + ")", bytes(4)), "shape"),
        (claiming("'|O'", "(1,)", b"\x80\x04N."), "object"),
        (claiming("[('a', '<f4')]", "(1,)", bytes(4)), "an array of"),
        (claiming("'<c8'", "(1,)", bytes(8)), "complex64"),
        (with_header("{'descr': __import__('os').system('false')}"), "malformed"),
        (npy(np.zeros(3))[:-1], "another length"),
        (b"\x93NUMPY\x03\x00" + bytes(100), "newer format"),
        (b"\x80\x04N.", "EOF"),
        (b"", "EOF"),
    ],
)
def test_member_that_is_no_plain_array_is_refused(archive, contents, message):
    with pytest.raises(ValueError, match=message):
        read_arrays(archive({"input.npy": contents}))


def test_pickles_are_not_read(archive):
    class Marked:
        def __reduce__(self):
            return exec, ("raise SystemExit",)

    path = archive({"input.npy": npy(np.array([Marked()], object), allow_pickle=True)})
    with pytest.raises(ValueError, match="object"):
        read_arrays(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(archive, method):
    with pytest.raises(ValueError, match="compressed"):
        read_arrays(archive({"input.npy": npy(np.zeros(10**6))}, method))


def test_member_that_is_no_array_by_its_name(archive):
    with pytest.raises(ValueError, match=r"'notes\.txt' is not an array"):
        read_arrays(archive({"notes.txt": b"x"}))


def test_name_that_stands_twice(tmp_path):
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", npy(np.zeros(1)))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a.npy", npy(np.ones(1)))
    with pytest.raises(ValueError, match="one name"):
        read_arrays(path)


def test_member_that_claims_to_be_longer_than_the_file(archive):
    path = archive({"a.npy": npy(np.zeros(3))})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2")
    for at in (20, 24):  # compressed and full size, in the central directory
        data[entry + at : entry + at + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="longer than the file"):
        read_arrays(path)


def test_absent_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "absent.npz")
