"""Pictures whose resizing would take too much are refused by their header."""

import io
import struct
import zlib

import pytest
from PIL import Image

from levit.errors import ConfigError, InputError
from levit.pictures.preparation import to_tensor
from levit.pictures.preprocess import PreprocessSpec, check_resize
from levit.pictures.reading import load_image

SPEC = PreprocessSpec(image_size=(224, 224))


def png_header(width, height):
    """A PNG whose pixels are damaged: whoever decodes it says so."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"no deflate") + chunk(b"IEND", b"")


@pytest.mark.parametrize("exif", [False, True])
@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("size", [(1, 89_000_000), (89_000_000, 1)])
def test_thin_picture_is_refused_before_it_is_decoded(size, draft, exif):
    with pytest.raises(InputError, match=r"the image bytes: .*too long and thin"):
        to_tensor(png_header(*size), SPEC, "float32", exif=exif, draft=draft)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_every_format_is_refused_before_it_is_decoded(kind, monkeypatch):
    out = io.BytesIO()
    Image.new("RGB", (1, 16_000)).save(out, kind)
    spec = PreprocessSpec(image_size=(2000, 2000))
    monkeypatch.setattr("levit.pictures.reading._decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(InputError, match="too long and thin"):
        to_tensor(out.getvalue(), spec, "float32")


def test_filter_of_a_long_edge_has_a_limit():
    spec = PreprocessSpec(image_size=(224, 224), crop_mode="squash", interpolation="lanczos")
    with pytest.raises(InputError, match="too long and thin"):
        check_resize((89_000_000, 1), spec)


@pytest.mark.parametrize("size", [(65_535, 400), (400, 65_535), (9_459, 9_459)])
def test_largest_jpegs_pass(size):
    check_resize(size, SPEC)


def test_picture_that_passes_upright_is_decoded_where_it_is_turned():
    spec = PreprocessSpec(image_size=(224, 224), crop_mode="squash", crop_pct=1.0)
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (1, 500_000)).save(out, "PNG", exif=exif)
    assert to_tensor(out.getvalue(), spec, "float32", exif=True).shape == (3, 224, 224)
    with pytest.raises(InputError, match="too long and thin"):
        to_tensor(out.getvalue(), spec, "float32")


@pytest.mark.parametrize("limit", ["x", float("nan"), True])
def test_setting_of_pillows_that_is_no_number_is_named(limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ConfigError, match="MAX_IMAGE_PIXELS is to be a number or None"):
        load_image(Image.new("RGB", (8, 8)))
