import io
import struct
import zlib

import pytest
from PIL import Image

from levit.errors import InputError
from levit.pictures.limits import MAX_SCANS, count_scans, tile_sizes
from levit.pictures.reading import MAX_PIXELS, load_image

# ------------------------------------------------------------------ scans of a JPEG


def jpeg(size=(64, 48), mode="RGB", **options):
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def segments(data):
    """(marker, bytes) of every part of a JPEG after its first two bytes; scans with their data."""
    parts, at = [], 2
    while at < len(data):
        marker, end = data[at + 1], at + 2
        if marker != 0xD9:
            end += struct.unpack_from(">H", data, end)[0]
        if marker == 0xDA:
            while data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8)):
                end += 1
        parts.append((marker, data[at:end]))
        at = end
    return parts


def repeat_last_scan(data, times):
    parts = [part for _, part in segments(data)]
    return b"".join([data[:2], *parts[:-1], *parts[-2:-1] * times, parts[-1]])


def one_component_at_a_time(data, times):
    """A baseline JPEG of which each component has scans of its own, empty but for their heads."""
    parts = segments(data)
    heads = [part for marker, part in parts if marker not in (0xDA, 0xD9)]
    scans = [struct.pack(">2sHBBBBBB", b"\xff\xda", 8, 1, i, 0, 0, 63, 0) for i in (1, 2, 3)]
    return b"".join([data[:2], *heads, *scans * times, b"\xff\xd9"])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"exif": b"Exif\0\0" + bytes(60_000)}, {"optimize": True}])
def test_a_photo_has_one_scan(mode, options):
    assert count_scans(io.BytesIO(jpeg(mode=mode, **options))) == 1


def test_scans_of_a_progressive_picture_are_counted():
    data = jpeg(progressive=True)
    wanted = sum(marker == 0xDA for marker, _ in segments(data))
    assert wanted == 10
    assert count_scans(io.BytesIO(data)) == wanted
    assert count_scans(io.BytesIO(repeat_last_scan(data, 20))) == wanted + 20


def test_a_scan_across_two_readings_is_counted(monkeypatch):
    data = jpeg(progressive=True)
    whole = count_scans(io.BytesIO(data))
    for size in (1, 2, 3, 100):
        monkeypatch.setattr("levit.pictures.limits._CHUNK", size)
        assert count_scans(io.BytesIO(data)) == whole


def test_counting_stops_where_there_are_enough():
    data = repeat_last_scan(jpeg(progressive=True), 10**6)
    assert MAX_SCANS < count_scans(io.BytesIO(data)) < 10**6


@pytest.mark.parametrize("way", ["bytes", "file", "path"])
def test_picture_of_endless_scans_is_refused(tmp_path, way):
    data = repeat_last_scan(jpeg(progressive=True), MAX_SCANS)
    (tmp_path / "picture.jpg").write_bytes(data)
    ways = {"bytes": data, "file": io.BytesIO(data), "path": tmp_path / "picture.jpg"}
    with pytest.raises(InputError, match="a JPEG of more than 100 scans"):
        load_image(ways[way])


def test_baseline_picture_of_endless_scans_is_refused():
    assert load_image(one_component_at_a_time(jpeg(), 10)).size == (64, 48)
    with pytest.raises(InputError, match="a JPEG of more than 100 scans"):
        load_image(one_component_at_a_time(jpeg(), 40))


def test_progressive_picture_is_what_pillow_makes_of_it():
    data = repeat_last_scan(jpeg(progressive=True), 5)
    assert load_image(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8" + bytes(50)])
def test_counting_in_what_is_no_jpeg(data):
    assert count_scans(io.BytesIO(data)) == 0


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


@pytest.mark.parametrize("failing", ["tell", "read"])
def test_file_that_fails_under_the_hand(failing):
    class Failing(io.BytesIO):
        opened = False

        def tell(self):
            self.opened = True
            if failing == "tell":
                raise ZeroDivisionError("tell")
            return super().tell()

        def read(self, count=-1):
            if self.opened and failing == "read":
                raise ZeroDivisionError("read")
            return super().read(count)

    with pytest.raises(InputError, match=rf"\({failing}\)"):
        load_image(Failing(jpeg(progressive=True)))


def test_directory_beyond_the_file_has_no_tiles():
    for offset in (2**32 - 1, 2**31, 0):
        assert list(tile_sizes(io.BytesIO(b"II*\0" + struct.pack("<I", offset)))) == []
    big = b"II\x2b\0\x08\0\0\0" + struct.pack("<Q", 2**64 - 1)
    assert list(tile_sizes(io.BytesIO(big))) == []
