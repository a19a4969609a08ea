import io
import struct
import zlib

import pytest
from PIL import Image

from levit.errors import InputError
from levit.pictures.limits import tile_sizes
from levit.pictures.reading import MAX_PIXELS, load_image

# ------------------------------------------------------------------ tiles of a TIFF


def tiff(entries, data=b"", order="<", big=False):
    """A grey TIFF of 16x16 pixels with these (tag, type, count, value) beside those it needs."""
    needed = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    entries = sorted([*needed, (277, 3, 1, 1), *entries], key=lambda entry: entry[0])
    at = 16 if big else 8
    start = at + (8 if big else 2) + (20 if big else 12) * (len(entries) + 2) + (8 if big else 4)
    entries += [(324, 4, 1, start), (325, 4, 1, len(data))]
    mark = b"II" if order == "<" else b"MM"
    if big:
        head = mark + struct.pack(order + "HHHQQ", 43, 8, 0, at, len(entries))
    else:
        head = mark + struct.pack(order + "HIH", 42, at, len(entries))
    end = bytes(8 if big else 4)
    return head + b"".join(_entry(*entry, order, big) for entry in entries) + end + data


def _entry(tag, kind, count, value, order, big):
    form = {1: "B", 3: "H", 4: "I", 9: "i", 16: "Q"}[kind]
    packed = struct.pack(order + form, value).ljust(8 if big else 4, b"\0")
    return struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count) + packed


def tiles(width, height, kind=4):
    return [(322, kind, 1, width), (323, kind, 1, height)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [3, 4])
def test_tiles_are_found(order, big, kind):
    data = tiff(tiles(16, 32, kind), zlib.compress(bytes(512)), order, big)
    assert list(tile_sizes(io.BytesIO(data))) == [16, 32]
    if not (big and order == ">"):  # which Pillow does not read
        assert load_image(data).size == (16, 16)


def test_picture_without_tiles_has_none():
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "TIFF")
    assert list(tile_sizes(out)) == []


@pytest.mark.parametrize(
    "entries",
    [
        tiles(40_000, 40_000),
        tiles(16, 2**31),
        tiles(MAX_PIXELS + 1, 1),
        # libtiff takes the first of two, Pillow the last.
        [*tiles(40_000, 40_000), *tiles(16, 16)],
        [*tiles(16, 16), *tiles(40_000, 40_000)],
    ],
)
def test_small_picture_of_huge_tiles_is_refused(entries):
    with pytest.raises(
        InputError, match=r"a TIFF whose tiles are over the limit of 89\.5 megapixels"
    ):
        load_image(tiff(entries, zlib.compress(bytes(100))))


@pytest.mark.parametrize("big", [False, True])
def test_directories_that_end_early_have_no_more_tiles(big):
    data = tiff(tiles(16, 16), zlib.compress(bytes(256)), big=big)
    for end in range(len(data)):
        assert list(tile_sizes(io.BytesIO(data[:end]))) in ([], [16], [16, 16])


@pytest.mark.parametrize("name", ["JPEG", "TIFF", "PNG", "PPM"])
def test_file_that_fails_under_the_hand(name):
    """A caller's file may fail at any call."""
    out = io.BytesIO()
    Image.linear_gradient("L").save(out, name)

    class Failing(io.BytesIO):
        calls = 0
        last = 10**9

        def _count(self):
            self.calls += 1
            if self.calls > self.last:
                raise OSError("the network is gone")

        def read(self, count=-1):
            self._count()
            return super().read(count)

        def seek(self, offset, whence=0):
            self._count()
            return super().seek(offset, whence)

    whole = Failing(out.getvalue())
    load_image(whole)
    for last in range(whole.calls):
        file = Failing(out.getvalue())
        file.last = last
        with pytest.raises(InputError, match=r"the network is gone|truncated"):
            load_image(file)


def test_directory_beyond_the_file_has_no_tiles():
    for offset in (2**32 - 1, 2**31, 0):
        assert list(tile_sizes(io.BytesIO(b"II*\0" + struct.pack("<I", offset)))) == []
    big = b"II\x2b\0\x08\0\0\0" + struct.pack("<Q", 2**64 - 1)
    assert list(tile_sizes(io.BytesIO(big))) == []
