import io
import os
import re
import resource
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from test_preprocess import MODES, encoded, picture

import levit.pictures.reading
from levit.errors import InputError
from levit.pictures.decoders import FORMATS, image_endings
from levit.pictures.reading import MAX_PIXELS, file_contents, load_image

# ------------------------------------------------------------------ what names an image


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture("RGB", (40, 30))))
    return path


@pytest.mark.parametrize(
    "name", ["path", "str", "bytes", "bytearray", "memoryview", "file", "BytesIO", "PIL", "array"]
)
def test_every_way_to_name_an_image_gives_the_same_pixels(png, name):
    expected = np.asarray(picture("RGB", (40, 30)))
    data = png.read_bytes()
    with png.open("rb") as file, Image.open(png) as opened:
        named = {
            "path": png,
            "str": str(png),
            "bytes": data,
            "bytearray": bytearray(data),
            "memoryview": memoryview(data),
            "file": file,
            "BytesIO": io.BytesIO(data),
            "PIL": opened,
            "array": expected,
        }[name]
        image = load_image(named)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), expected)


def test_path_like_objects_name_files(png):
    class Somewhere(os.PathLike):
        def __fspath__(self):
            return str(png)

    assert load_image(Somewhere()).size == (40, 30)


@pytest.mark.parametrize("order", ["fortran", "reversed", "strided", "read-only"])
def test_arrays_of_any_memory_order_are_read_right(order):
    array = np.random.default_rng(1).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    given_array = {
        "fortran": np.asfortranarray(array),
        "reversed": array[::-1, ::-1],
        "strided": array[::2, ::3],
        "read-only": array.copy(),
    }[order]
    given_array.flags.writeable = order != "read-only"
    assert np.array_equal(np.asarray(load_image(given_array)), given_array)


def test_callers_array_is_copied():
    array = np.zeros((8, 8, 3), np.uint8)
    image = load_image(array)
    array[:] = 255
    assert np.asarray(image).max() == 0


def test_callers_image_stays_as_it_was():
    image = picture("RGB", (30, 20))
    before = image.tobytes()
    loaded = load_image(image)
    assert loaded is not image
    loaded.paste((0, 0, 0), (0, 0, 30, 20))
    assert (image.mode, image.size, image.tobytes()) == ("RGB", (30, 20), before)


def test_callers_lazy_image_stays_open(png):
    with Image.open(png) as image:
        load_image(image)
        assert image.getpixel((0, 0)) == picture("RGB", (40, 30)).getpixel((0, 0))


def test_callers_file_stays_open_and_can_be_read_again(png):
    with png.open("rb") as file:
        load_image(file)
        assert not file.closed
        assert np.array_equal(np.asarray(load_image(file)), np.asarray(load_image(png)))


def test_our_own_file_is_closed(png):
    load_image(png)
    held = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert png not in held


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_only_when_asked(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture("RGB", (40, 24)), "JPEG", exif=exif, quality=95)
    with Image.open(io.BytesIO(data)) as stored:
        as_stored = np.asarray(stored.convert("RGB"))
        turned = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert np.array_equal(np.asarray(load_image(data)), as_stored)
    assert np.array_equal(np.asarray(load_image(data, exif=True)), turned)
    assert (as_stored.shape == turned.shape) == (orientation < 5)
    assert np.array_equal(as_stored, turned) == (orientation == 1)


def test_exif_on_a_callers_image_leaves_it_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture("RGB", (40, 24)), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        assert load_image(image, exif=True).size == (24, 40)
        assert image.size == (40, 24)
        assert image.getexif()[0x0112] == 6


# ------------------------------------------------------------------ what Pillow knows and how


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_what_pillow_converts_it_to(mode):
    image = picture(mode, (30, 20))
    found = load_image(image, grey16="clip")
    assert np.array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name, tmp_path):
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {name}")
    data = encoded(picture("RGB", (40, 30)), name)
    (tmp_path / "picture").write_bytes(data)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(np.asarray(load_image(data)), expected)
    assert np.array_equal(np.asarray(load_image(tmp_path / "picture")), expected)


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_it_is_the_first_frame(name):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name == "WEBP" else {}
    data = encoded(frames[0], name, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames == 3
    assert load_image(data).getpixel((5, 5)) == (255, 0, 0)


def test_of_a_stereo_picture_it_is_the_first():
    left, right = (Image.new("RGB", (24, 16), colour) for colour in ("red", "blue"))
    data = encoded(left, "MPO", save_all=True, append_images=[right])
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "MPO"
        assert np.array_equal(np.asarray(load_image(data)), np.asarray(opened.convert("RGB")))


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def raw_png(width, height, depth, colour, pixels, *chunks):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *chunks,
            chunk(b"IDAT", zlib.compress(pixels)),
            chunk(b"IEND", b""),
        )
    )


def test_colours_of_16_bits_keep_their_upper_eight():
    values = np.random.default_rng(0).integers(0, 65536, (4, 6, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    image = load_image(raw_png(6, 4, 16, 2, rows))
    assert np.array_equal(np.asarray(image), values >> 8)


def test_grey_of_16_bits_is_clipped_as_everywhere_where_one_asks_for_it():
    # Not what one would wish for, but what timm and the others answer for.
    values = np.array([[0, 100, 255, 256, 30000, 65535]], np.uint16)
    image = load_image(encoded(Image.fromarray(values)), grey16="clip")
    assert np.asarray(image)[0, :, 0].tolist() == [0, 100, 255, 255, 255, 255]


def test_transparency_is_dropped_without_a_warning():
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0]))
    data = raw_png(2, 1, 8, 3, b"\0\0\1", palette, chunk(b"tRNS", b"\x10\x80"))
    expected = [[[255, 0, 0], [0, 255, 0]]]
    assert np.asarray(load_image(data)).tolist() == expected
    with Image.open(io.BytesIO(data)) as opened:
        assert np.asarray(load_image(opened)).tolist() == expected
        assert opened.info["transparency"] == b"\x10\x80"
    rgba = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    assert np.asarray(load_image(encoded(rgba))).tolist() == [[[10, 20, 30]] * 2]


def test_damaged_exif_of_a_jpeg_is_not_looked_at():
    # A camera's: EXIF and no JFIF header, so that Pillow looks for a resolution there.
    plain = encoded(picture("RGB", (40, 24)), "JPEG")
    start = plain.index(b"\xff\xdb")
    block = b"Exif\0\0II*\0\x08\0\0\0\x40\0" + b"\x1a\x01\x05\0\x01\0\0\0\xff\xff\0\0"
    marker = b"\xff\xe1" + struct.pack(">H", len(block) + 2)
    data = b"\xff\xd8" + marker + block + plain[start:]
    with pytest.raises((UserWarning, OSError), match=r"Truncated|larger|EXIF"):
        Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(load_image(data)), np.asarray(load_image(plain)))


@pytest.mark.parametrize("junk", [b"not TIFF at all", b"II*\0", b"junk"])
def test_damaged_exif_is_no_damage_of_the_picture(junk):
    data = encoded(picture("RGB", (40, 24)), "JPEG", exif=b"Exif\0\0" + junk)
    assert load_image(data).size == (40, 24)
    with pytest.raises(InputError, match=r"its EXIF data is damaged.*pass exif=False"):
        load_image(data, exif=True)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (20_000, 1), (1, 20_000)])
@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_thin_pictures_are_pictures(size, name):
    assert load_image(encoded(Image.new("RGB", size, "teal"), name)).size == size


# ------------------------------------------------------------------ drafts


def asked(width, height):
    """What a preparation asks for, whatever the picture."""
    return lambda size: (width, height)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((1, 1), (50, 38)),
        ((50, 37), (50, 38)),
        ((51, 37), (100, 75)),
        ((50, 38), (100, 75)),
        ((100, 75), (100, 75)),
        ((101, 10), (200, 150)),
        ((200, 150), (200, 150)),
        ((201, 1), (400, 300)),
        ((9999, 9999), (400, 300)),
    ],
)
def test_a_draft_is_the_smallest_scale_that_is_large_enough(wanted, expected):
    data = encoded(picture("RGB", (400, 300)), "JPEG")
    assert load_image(data, draft=asked(*wanted)).size == expected


def test_a_draft_is_told_the_size_of_the_picture():
    seen = []
    load_image(
        encoded(picture("RGB", (400, 300)), "JPEG"), draft=lambda size: seen.append(size) or size
    )
    assert seen == [(400, 300)]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_draft_looks_like_the_picture(mode, progressive):
    data = encoded(picture(mode, (400, 300)), "JPEG", quality=95, progressive=progressive)
    draft = load_image(data, draft=asked(90, 70))
    assert draft.size == (100, 75)
    whole = load_image(data).resize((100, 75), Image.Resampling.BOX)
    assert np.abs(np.asarray(draft).astype(int) - np.asarray(whole)).mean() < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_draft_is_turned_as_the_picture_is(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture("RGB", (400, 240)), "JPEG", exif=exif, quality=95)
    whole = load_image(data, exif=True)
    wanted = (45, 45)
    draft = load_image(data, exif=True, draft=asked(*wanted))
    assert draft.size == (whole.width // 4, whole.height // 4)
    reduced = whole.resize(draft.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(draft).astype(int) - np.asarray(reduced)).mean() < 1.5


def test_a_draft_that_may_be_turned_is_large_enough_both_ways():
    data = encoded(picture("RGB", (400, 400)), "JPEG")
    assert load_image(data, draft=asked(10, 90)).size == (100, 100)
    upright = lambda size: (10, 90)  # noqa: E731
    assert load_image(data, exif=True, draft=upright).size == (100, 100)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_other_formats_have_no_drafts(name):
    data = encoded(picture("RGB", (80, 60)), name)
    found = load_image(data, draft=asked(1, 1))
    assert np.array_equal(np.asarray(found), np.asarray(load_image(data)))


def test_a_callers_jpeg_is_never_drafted():
    with Image.open(io.BytesIO(encoded(picture("RGB", (80, 60)), "JPEG"))) as image:
        assert load_image(image, draft=asked(1, 1)).size == (80, 60)
        assert image.size == (80, 60)


def test_the_limit_of_a_draft_is_that_of_the_picture():
    with pytest.raises(InputError, match="65500x65500 pixels are over the limit"):
        load_image(LIARS["JPEG"], draft=asked(1, 1))


# ------------------------------------------------------------------ what is no image


def bomb(width, height):
    """A PNG whose header promises what its data does not hold."""
    return raw_png(width, height, 8, 2, b"")


def claiming(name, width, height, **options):
    """A small picture's file whose header claims another size."""
    data = bytearray(encoded(picture("RGB", (64, 48)), name, **options))
    if name == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif name == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif name == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif name == "PPM":
        return bytes(data).replace(b"64 48", f"{width} {height}".encode())
    elif name == "TIFF":
        for tag, value in ((256, width), (257, height)):
            at = _entry(data, tag)
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    elif name == "WEBP":
        # An extended header with a canvas, before the picture's own chunks.
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas
        body = b"WEBP" + extended + bytes(data[12:])
        return b"RIFF" + struct.pack("<I", len(body)) + body
    elif name == "JPEG2000":
        for start in (bytes(data).index(b"ihdr") + 4, bytes(data).index(b"\xff\x51") + 6):
            order = (height, width) if data[start - 4 : start] == b"ihdr" else (width, height)
            data[start : start + 8] = struct.pack(">II", *order)
    return bytes(data)


def _entry(data, tag):
    """Where a tag stands in the first directory of a little-endian TIFF."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, at) == (tag,):
            return at
    raise LookupError(tag)


LIARS = {
    "PNG": bomb(65_500, 65_500),
    "JPEG": claiming("JPEG", 65_500, 65_500),
    "GIF": claiming("GIF", 65_500, 65_500),
    "BMP": claiming("BMP", 65_500, 65_500),
    "PPM": claiming("PPM", 65_500, 65_500),
    "TIFF": claiming("TIFF", 65_500, 65_500),
    "WEBP": claiming("WEBP", 16_383, 16_383),
    "JPEG2000": claiming("JPEG2000", 65_500, 65_500),
}

BAD_FILES = {
    "empty.png": b"",
    "one-byte.png": b"P",
    "text.png": b"not an image at all\n",
    "page.html": b"<!DOCTYPE html><html><body>404</body></html>",
    "zeros.jpg": bytes(500),
    "cut.jpg": encoded(picture("RGB", (60, 60)), "JPEG")[:700],
    "cut.png": encoded(picture("RGB", (60, 60)), "PNG")[:4000],
    "header-only.png": encoded(picture("RGB", (60, 60)), "PNG")[:33],
    "cut.gif": encoded(picture("RGB", (60, 60)), "GIF")[:900],
    "cut.tiff": encoded(picture("RGB", (60, 60)), "TIFF")[:900],
    "cut.webp": encoded(picture("RGB", (60, 60)), "WEBP")[:300],
    "cut.bmp": encoded(picture("RGB", (60, 60)), "BMP")[:900],
    "cut.ppm": encoded(picture("RGB", (60, 60)), "PPM")[:900],
    "cut.jp2": encoded(picture("RGB", (60, 60)), "JPEG2000")[:200],
    **{f"liar.{name.lower()}": data for name, data in LIARS.items()},
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("way", ["path", "bytes", "file"])
def test_bad_files_are_input_errors_of_one_line(tmp_path, name, way):
    path = tmp_path / name
    path.write_bytes(BAD_FILES[name])
    with path.open("rb") as file:
        source = {"path": path, "bytes": BAD_FILES[name], "file": file}[way]
        with pytest.raises(InputError) as caught:
            load_image(source)
    assert "\n" not in str(caught.value)
    assert (str(path) in str(caught.value)) == (way != "bytes")
    assert ("empty" in str(caught.value)) == (name == "empty.png")


@pytest.mark.parametrize("name", LIARS)
def test_sizes_are_judged_from_the_header(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = r"pixels are over the limit of 89\.5 megapixels"
    if name == "WEBP":  # older libwebp finds the lie
        words += "|could not create decoder"
    with pytest.raises(InputError, match=words):
        load_image(LIARS[name])
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 2**17


def test_the_limit_itself_is_within_it():
    assert MAX_PIXELS % 5 == 0
    with pytest.raises(InputError, match="damaged or truncated"):
        load_image(bomb(MAX_PIXELS // 5, 5))
    with pytest.raises(InputError, match="over the limit"):
        load_image(bomb(MAX_PIXELS // 5 + 1, 5))


@pytest.mark.parametrize("edge", [9460, 10_000, 13_000, 20_000, 60_000])
def test_decompression_bombs_are_refused_without_a_warning(edge):
    assert edge * edge > MAX_PIXELS
    with pytest.raises(InputError, match=f"{edge}x{edge} pixels are over the limit of 89.5 mega"):
        load_image(bomb(edge, edge))


@pytest.mark.parametrize("setting", [None, 10, MAX_PIXELS, 10**9])
def test_pillows_own_limit_is_not_ours_but_a_lower_one_holds(monkeypatch, setting):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", setting)
    small = encoded(picture("RGB", (40, 30)))
    with pytest.raises(InputError, match="over the limit"):
        load_image(bomb(10_000, 10_000))
    if setting == 10:
        with pytest.raises(InputError, match="40x30 pixels are over the limit of 2e-05 megapixels"):
            load_image(small)
    else:
        assert load_image(small).size == (40, 30)
    assert setting == Image.MAX_IMAGE_PIXELS


FOREIGN = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    "ICO": encoded(picture("RGBA", (32, 32)), "ICO"),
    "PCX": encoded(picture("RGB", (32, 32)), "PCX"),
    "PSD": b"8BPS" + bytes(40),
    "QOI": b"qoif" + bytes(20),
    "SGI": encoded(picture("RGB", (32, 32)), "SGI"),
    "ICNS": encoded(picture("RGBA", (32, 32)), "ICNS"),
    "DDS": encoded(picture("RGB", (32, 32)), "DDS"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_formats_that_are_not_read_are_named(name):
    with pytest.raises(
        InputError, match=rf"not an image .* \(it looks like {name}\); read are JPEG"
    ):
        load_image(FOREIGN[name])


def test_tga_could_be_anything_and_is_not_read():
    with pytest.raises(InputError, match=r"not an image .* \(it looks like TGA\)"):
        load_image(encoded(picture("RGB", (32, 32)), "TGA"))


@pytest.mark.parametrize("rolled", [False, True])
def test_an_upload_without_a_name_is_called_a_file(rolled):
    with tempfile.SpooledTemporaryFile() as file:
        file.write(b"no picture")
        if rolled:
            file.rollover()
        with pytest.raises(InputError, match=r"^the image file: not an image"):
            load_image(file)


@pytest.mark.parametrize("name", ["picture.eps", "picture.jpg"])
def test_no_program_is_ever_started(tmp_path, monkeypatch, name):
    trap = tmp_path / "gs"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / name).write_bytes(FOREIGN["EPS"])
    with pytest.raises(InputError, match="looks like EPS"):
        load_image(tmp_path / name)
    assert not (tmp_path / "started").exists()


class _Dots(ImageFile.ImageFile):
    """A format of the application's own, as pillow-heif registers one."""

    format = "DOTS"

    def _open(self):
        self.fp.read(4)
        self._size, self._mode = (3, 2), "RGB"
        self.tile = [("raw", (0, 0, 3, 2), 4, ("RGB", 0, 1))]


def test_formats_that_the_application_registers_are_read(monkeypatch):
    data = b"DOTS" + bytes(range(18))
    with pytest.raises(InputError, match="not an image"):
        load_image(data)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    Image.register_open("DOTS", _Dots, lambda prefix: prefix[:4] == b"DOTS")
    Image.register_extension("DOTS", ".dots")
    assert np.asarray(load_image(data)).tobytes() == bytes(range(18))
    assert ".dots" in image_endings()


def test_endings_are_those_of_what_is_read():
    endings = image_endings()
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".ppm", ".jp2"} <= endings
    assert endings.isdisjoint({".eps", ".pdf", ".mpg", ".tga", ".ico", ".wmf", ".h5"})


def test_an_image_from_a_pipe_is_read():
    data = encoded(picture("RGB", (40, 30)))
    reader, writer = os.pipe()
    with open(writer, "wb") as end:
        end.write(data)
    with open(reader, "rb") as file:
        assert np.array_equal(np.asarray(load_image(file)), np.asarray(picture("RGB", (40, 30))))


def test_pipes_and_files_kept_in_memory_have_a_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(levit.pictures.reading, "MAX_BYTES", 1000)
    (tmp_path / "large.png").write_bytes(encoded(picture("RGB", (40, 30))))
    with (
        (tmp_path / "large.png").open("rb") as file,
        pytest.raises(InputError, match=r"large\.png: has more than 0 MiB"),
    ):
        file_contents(file)


def test_contents_of_a_file_outlive_it(png):
    with png.open("rb") as file:
        file.read(10)
        contents = file_contents(file)
    assert np.array_equal(np.asarray(load_image(contents)), np.asarray(load_image(png)))
    contents.seek(0)
    contents.truncate(100)
    with pytest.raises(InputError, match=re.escape(str(png))):
        load_image(contents)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "absent.png", "no such file"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: "", "folder|no such file"),
        (lambda folder: "a\0b.png", "cannot be opened"),
        (lambda folder: "x" * 5000, "cannot be opened"),
        (lambda folder: None, "not NoneType"),
        (lambda folder: 3, "not int"),
        (lambda folder: [1, 2], "not list"),
    ],
)
def test_names_that_are_no_file_are_input_errors(tmp_path, make, words):
    with pytest.raises(InputError, match=words):
        load_image(make(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_an_input_error(png):
    png.chmod(0)
    with pytest.raises(InputError, match="cannot be opened"):
        load_image(png)


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((8, 8, 3), "float32", "scale it to 0..255"),
        ((8, 8, 3), "int64", "scale it to 0..255"),
        ((8, 8, 3), "bool", "uint8"),
        ((3, 8, 8), "uint8", r"channels-first.*transpose\(1, 2, 0\)"),
        ((8, 8), "uint8", r"\(H, W, 3\)"),
        ((8, 8, 1), "uint8", r"\(H, W, 3\)"),
        ((8, 8, 4), "uint8", r"\(H, W, 3\)"),
        ((2, 8, 8, 3), "uint8", "list of images"),
        ((0, 8, 3), "uint8", "empty"),
        ((8, 0, 3), "uint8", "empty"),
        ((), "uint8", r"\(H, W, 3\)"),
    ],
)
def test_bad_arrays_are_input_errors_with_a_hint(shape, dtype, words):
    with pytest.raises(InputError, match=words):
        load_image(np.zeros(shape, dtype))


def test_a_file_object_that_fails_is_an_input_error():
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise OSError("the network is gone")

    with pytest.raises(InputError, match="the network is gone"):
        load_image(Broken())


def test_a_text_file_object_is_an_input_error(tmp_path):
    path = tmp_path / "picture.txt"
    path.write_text("hello")
    with path.open() as file, pytest.raises(InputError):
        load_image(file)


def test_empty_pil_image_is_an_input_error():
    with pytest.raises(InputError, match="empty"):
        load_image(Image.new("RGB", (0, 5)))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files_give_an_image_or_an_input_error(data):
    whole = data.draw(st.sampled_from(ENCODED))
    position = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(max_size=6))
    kind = data.draw(st.sampled_from(["cut", "overwrite", "insert", "delete"]))
    damaged = {
        "cut": whole[:position],
        "overwrite": whole[:position] + damage + whole[position + len(damage) :],
        "insert": whole[:position] + damage + whole[position:],
        "delete": whole[:position] + whole[position + len(damage) :],
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata before it fails
        try:
            image = load_image(damaged, exif=data.draw(st.booleans()))
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert image.mode == "RGB"


def _with_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "somebody"
    return encoded(picture("RGB", (24, 20)), "JPEG", exif=exif)


ENCODED = [
    _with_exif(),
    *(
        encoded(picture("RGB", (24, 20)), name)
        for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO")
    ),
    encoded(picture("P", (24, 20)), "PNG"),
    encoded(picture("I;16", (24, 20)), "PNG"),
]
