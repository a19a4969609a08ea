"""Zip archives of stored members: what zipfile writes, and what nobody should."""

import io
import random
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit.artifact import stored_zip
from levit.artifact.stored_zip import StoredZip
from levit.errors import CheckpointError
from levit.models.containers import torch_zip
from levit.models.containers.torch_zip import TorchZip, zip_errors


def opened(data):
    with zip_errors("model.pth"):
        return StoredZip(io.BytesIO(data))


def written(members, compression=zipfile.ZIP_STORED, force_zip64=False, comment=b""):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members:
            with archive.open(name, "w", force_zip64=force_zip64) as member:
                member.write(data)
        archive.comment = comment
    return stream.getvalue()


def read_all(data):
    archive = opened(data)
    with zip_errors("model.pth"):
        return {name: archive.read(name) for name in archive.names}


def refused(data, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read_all(data)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model.pth: ")
    return message


MEMBERS = [("archive/data.pkl", b"abc"), ("archive/data/0", bytes(range(256))), ("archive/e", b"")]
PLAIN = written(MEMBERS)
DIRECTORY = PLAIN.index(b"PK\x01\x02")
END = PLAIN.index(b"PK\x05\x06")


def patched(data, at, format, *values):
    changed = bytearray(data)
    struct.pack_into(format, changed, at, *values)
    return bytes(changed)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=6))
def test_what_zipfile_stores_is_read_as_zipfile_reads_it(members):
    archive = opened(written(members.items()))
    assert list(archive.names) == list(members)
    assert {name: archive.read(name).tobytes() for name in archive.names} == members


@pytest.mark.parametrize("comment", [b"", b"saved at noon", b"PK", bytes(0xFFFF)])
def test_zip64_and_comments(comment):
    archive = opened(written(MEMBERS, force_zip64=True, comment=comment))
    assert [(name, archive.read(name).tobytes()) for name in archive.names] == MEMBERS


def test_sizes_in_the_extra_field():
    # zipfile writes the real sizes into the central directory where they fit: put them aside.
    sizes = struct.pack("<HHQQ", 1, 16, 256, 256)
    entry = PLAIN.index(b"PK\x01\x02", DIRECTORY + 4)
    data = patched(PLAIN, entry + 20, "<LL", 0xFFFFFFFF, 0xFFFFFFFF)
    data = patched(data, entry + 30, "<H", len(sizes) + 4)
    at = entry + 46 + len("archive/data/0")
    data = data[:at] + struct.pack("<HH", 0x9999, 0) + sizes + data[at:]
    at = data.index(b"PK\x05\x06")
    data = patched(data, at + 12, "<L", at - DIRECTORY)
    assert opened(data).read("archive/data/0").tobytes() == bytes(range(256))
    assert zipfile.ZipFile(io.BytesIO(data)).read("archive/data/0") == bytes(range(256))


def test_a_member_beyond_four_gigabytes(tmp_path):
    # As torch.save writes large files, but with nothing between the members.
    path = tmp_path / "large.pth"
    at = (1 << 32) + 64
    name = b"archive/data/0"
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 0, 0, 0, 0, 0, 0, 3, 3, len(name), 0)
    field = struct.pack("<HHQ", 1, 8, at)
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, zlib.crc32(b"abc"), 3, 3,
        len(name), len(field), 0, 0, 0, 0, 0xFFFFFFFF,
    ) + name + field  # fmt: skip
    after = at + len(local) + len(name) + 3
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), 0xFFFFFFFF, 0)
    with path.open("wb") as stream:
        stream.seek(at)
        stream.write(local + name + b"abc" + entry)
        stream.write(zip64_end(1, len(entry), after, after + len(entry)) + end)
    with zipfile.ZipFile(path) as theirs, path.open("rb") as stream:
        assert theirs.read("archive/data/0") == b"abc"
        assert StoredZip(stream).read("archive/data/0").tobytes() == b"abc"


def test_sizes_that_the_extra_field_lacks():
    entry = PLAIN.index(b"PK\x01\x02", DIRECTORY + 4)
    refused(patched(PLAIN, entry + 20, "<LL", 0xFFFFFFFF, 0xFFFFFFFF), "overlaps another member")


@pytest.mark.parametrize("keep", [0, 1, 21, 22, 60, DIRECTORY, END, END + 10, len(PLAIN) - 1])
def test_truncated(keep):
    refused(PLAIN[:keep], "damaged or truncated .*download or save it again")


def test_bytes_after_the_end_are_nobodys():
    assert opened(PLAIN + b"after").read("archive/data.pkl").tobytes() == b"abc"


def test_bytes_before_the_start_move_everything():
    refused(b"before" + PLAIN, "not where|damaged")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_bomb_is_not_inflated(compression):
    bomb = written([("archive/data.pkl", bytes(10_000_000))], compression)
    assert len(bomb) < 20_000
    assert "'archive/data.pkl' is compressed" in refused(bomb, "which PyTorch does not do")


@pytest.mark.parametrize("flag", [0x1, 0x41, 0x2000])
def test_encrypted(flag):
    refused(patched(PLAIN, DIRECTORY + 8, "<H", flag), "compressed or encrypted")


def test_a_member_that_says_two_sizes():
    refused(patched(PLAIN, DIRECTORY + 24, "<L", 2), "compressed or encrypted")


@pytest.mark.parametrize("size", [4, 1000, 0x7FFFFFFF, 0xFFFFFFFE])
def test_a_member_that_is_said_to_be_huge(size):
    refused(patched(PLAIN, DIRECTORY + 20, "<LL", size, size), "overlaps|longer than the file")


@pytest.mark.parametrize("header", [1, 10, 0x7FFFFFFF, 0xFFFFFFFE])
def test_a_member_that_is_elsewhere(header):
    refused(patched(PLAIN, DIRECTORY + 42, "<L", header), "damaged or truncated")


def test_members_that_overlap():
    # The second claims to begin where the first does: the quine bombs are made of this.
    second = PLAIN.index(b"PK\x01\x02", DIRECTORY + 4)
    refused(patched(PLAIN, second + 42, "<L", 0), "overlaps another member")


def test_one_name_twice():
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = written([("a/data.pkl", b"1"), ("a/data.pkl", b"2")])
    refused(data, "'a/data.pkl' is in it twice")


def test_a_wrong_checksum():
    changed = bytearray(PLAIN)
    changed[PLAIN.index(b"abc")] ^= 1
    refused(bytes(changed), "the checksum of 'archive/data.pkl' is wrong")


def test_no_checksum():
    changed = bytearray(patched(PLAIN, DIRECTORY + 16, "<L", 0))
    changed[PLAIN.index(b"abc")] = ord("x")
    assert opened(bytes(changed)).read("archive/data.pkl").tobytes() == b"xbc"


@pytest.mark.parametrize("count", [4, 1000, 0xFFFE])
def test_more_members_than_there_are(count):
    refused(patched(PLAIN, END + 8, "<HH", count, count), "list of members")


@pytest.mark.parametrize(("at", "value"), [(12, 0xFFFFFFFE), (16, 0xFFFFFFFE), (16, 1 << 31)])
def test_a_directory_that_is_not_there(at, value):
    refused(patched(PLAIN, END + at, "<L", value), "list of members|parts")


def test_too_many_members(monkeypatch):
    monkeypatch.setattr(torch_zip, "_MOST_MEMBERS", 2)
    with pytest.raises(CheckpointError, match="a zip file of 3 members is no checkpoint"):
        TorchZip(io.BytesIO(PLAIN), "model.pth")


def test_a_list_of_members_that_is_too_long(monkeypatch):
    monkeypatch.setattr(stored_zip, "_LONGEST_LIST_BYTES", END - DIRECTORY - 1)
    refused(PLAIN, "its list of members is longer than")


def zip64_end(count, size, offset, at):
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    return record + locator


@pytest.mark.parametrize(
    "values",
    [
        (2**63, 46 * 3, DIRECTORY, END),
        (3, 2**63, DIRECTORY, END),
        (3, 46 * 3, 2**64 - 1, END),
        (3, END - DIRECTORY, DIRECTORY, 2**64 - 1),
        (3, END - DIRECTORY, DIRECTORY, 0),
    ],
)
def test_zip64_sizes_beyond_the_file(values):
    refused(PLAIN[:END] + zip64_end(*values) + PLAIN[END:], "damaged or truncated")


def test_zip64_sizes_as_they_are():
    data = PLAIN[:END] + zip64_end(3, END - DIRECTORY, DIRECTORY, END) + PLAIN[END:]
    assert opened(data).read("archive/data.pkl").tobytes() == b"abc"


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "C:\\x", "a\nb", "\x1b[31m", "x" * 60_000]
)
def test_names_are_only_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    archive = opened(written([(name, b"data")]))
    assert archive.read(name).tobytes() == b"data"
    with pytest.raises(CheckpointError) as caught, zip_errors("model.pth"):
        archive.read(name + "/other")
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_utf_8():
    data = PLAIN.replace(b"archive/e", b"archive/\xff")
    assert opened(data).names[2] == "archive/\\xff"


@given(st.data())
def test_any_change_is_read_or_refused(data):
    base = data.draw(st.sampled_from([PLAIN, written(MEMBERS, force_zip64=True, comment=b"x")]))
    changed = bytearray(base)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(DIRECTORY, len(changed) - 8) | st.integers(0, len(changed) - 8))
        values = data.draw(st.sampled_from([b"\xff", b"\xff" * 4, b"\xff" * 8, b"\0" * 4, b"\1"]))
        changed[at : at + len(values)] = values
    try:
        sizes = [content.nbytes for content in read_all(bytes(changed)).values()]
    except CheckpointError as error:
        message, sizes = str(error), []
    else:
        message = ""
    assert message.isprintable()
    assert sum(sizes) <= len(changed)


def test_a_large_member_arrives_whole(tmp_path, seed):
    content = random.Random(seed).randbytes(5_000_000)
    path = tmp_path / "large.zip"
    path.write_bytes(written([("a/0", content), ("a/1", b"next")]))
    for buffering in (0, -1):
        with path.open("rb", buffering) as stream:
            assert zlib.crc32(StoredZip(stream).read("a/0")) == zlib.crc32(content)


@pytest.mark.parametrize("name", ["a\0b", "é\0", "\0"])
def test_names_are_whole_where_they_hold_a_zero(name):
    # zipfile cuts them there, so that two members could share what is left.
    stand_in = "x" * len(name.encode())
    data = written([(stand_in, b"1"), ("2", b"2")]).replace(stand_in.encode(), name.encode())
    assert opened(data).names == (name, "2")


def test_zip64_end_that_is_elsewhere():
    # The locator names a true record, and zipfile reads a lying one right before the locator.
    honest, locator = (
        zip64_end(3, END - DIRECTORY, DIRECTORY, END)[:56],
        zip64_end(0, 0, 0, END)[56:],
    )
    lying = zip64_end(1, END, 0, END)[:56]
    refused(PLAIN[:END] + honest + lying + locator + PLAIN[END:], "damaged or truncated")
