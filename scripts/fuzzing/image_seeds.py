"""Small pictures in every format that levit reads, of every kind, and in some that it refuses."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["giant_seeds", "image_seeds"]

_WIDTH, _HEIGHT = 37, 29


def image_seeds() -> dict[str, bytes]:
    """Encoded pictures by name, the name beginning with Pillow's name of the format."""
    Image.init()
    seeds = {}
    for name, image, options in _written():
        form = name.partition("-")[0]
        out = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of formats that Pillow is about to give up
                image.save(out, form, **options)
        except (KeyError, OSError, ValueError):
            continue  # this Pillow is built without that codec; a test counts what remains
        seeds[name] = out.getvalue()
    return seeds | dict(_by_hand())


def giant_seeds() -> dict[str, bytes]:
    """Little data that says much: pictures of one colour, just under levit's limit of pixels."""
    seeds = {}
    for name, mode, options in (
        ("PNG-1", "1", {}),
        ("PNG-RGBA", "RGBA", {"compress_level": 1}),
        ("GIF", "P", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG-progressive", "RGB", {"progressive": True}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
        ("TIFF-deflate", "RGBA", {"compression": "tiff_adobe_deflate"}),
        ("TIFF-float", "F", {"compression": "tiff_adobe_deflate"}),
        ("TIFF-group4", "1", {"compression": "group4"}),
        ("BMP", "1", {}),
        ("JPEG2000", "RGB", {}),
        ("AVIF", "RGB", {"speed": 10}),
    ):
        out = io.BytesIO()
        with contextlib.suppress(KeyError, OSError, ValueError):
            Image.new(mode, (9400, 9400)).save(out, name.partition("-")[0], **options)
            seeds[name] = out.getvalue()
    return seeds


def _picture(mode: str = "RGB", size: tuple[int, int] = (_WIDTH, _HEIGHT)) -> Image.Image:
    """Slopes and an edge: every decoder has something to decode."""
    y, x = np.mgrid[: size[1], : size[0]]
    red = 255 * x / size[0]
    green = 255 * y / size[1]
    blue = np.where((x // 5 + y // 7) % 2, 220, 30)
    image = Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((red * 257).astype(np.uint16))
    if mode == "P":
        return image.quantize(16)
    return image.convert(mode)


def _written() -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    rgb, large = _picture(), _picture(size=(331, 247))
    frames = [_picture("P").rotate(90 * k, expand=True).resize((_WIDTH, _HEIGHT)) for k in range(3)]
    turned = Image.Exif()
    turned[0x0112] = 6
    turned[0x010E] = "a picture"
    turned.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"

    yield "JPEG", rgb, {}
    yield "JPEG-large", large, {"quality": 85}
    yield "JPEG-progressive", large, {"progressive": True, "quality": 80}
    yield "JPEG-444", rgb, {"subsampling": 0, "quality": 100, "optimize": True}
    yield "JPEG-cmyk", _picture("CMYK"), {}
    yield "JPEG-grey", _picture("L"), {}
    yield "JPEG-exif", rgb, {"exif": turned, "comment": b"hello", "dpi": (72, 72)}
    yield "JPEG-icc", rgb, {"icc_profile": bytes(range(256)) * 300}
    yield "JPEG-restart", large, {"restart_marker_blocks": 4}
    for mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"):
        yield f"PNG-{mode}", _picture(mode), {}
    yield "PNG-transparent", _picture("P"), {"transparency": b"\0\x80\xff"}
    yield "PNG-exif", rgb, {"exif": turned, "icc_profile": b"profile" * 40}
    yield "PNG-animated", rgb, {"save_all": True, "append_images": [rgb.rotate(180)] * 2}
    yield "GIF", _picture("P"), {}
    yield "GIF-interlaced", _picture("L"), {"interlace": 1}
    options = {"save_all": True, "append_images": frames[1:], "duration": 40, "loop": 0}
    yield "GIF-animated", frames[0], {**options, "disposal": 2, "transparency": 3}
    yield "WEBP", rgb, {"quality": 70}
    yield "WEBP-lossless", _picture("RGBA"), {"lossless": True, "exif": turned}
    yield "WEBP-animated", rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}
    yield "BMP", rgb, {}
    for mode in ("1", "L", "P", "RGBA"):
        yield f"BMP-{mode}", _picture(mode), {}
    for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_deflate"):
        yield f"TIFF-{name}", rgb, {"compression": None if name == "raw" else name}
    for name in ("group3", "group4", "tiff_ccitt"):
        yield f"TIFF-{name}", _picture("1"), {"compression": name}
    for name in ("lzma", "zstd"):
        yield f"TIFF-{name}", rgb, {"compression": name}
    for mode in ("L", "P", "I;16", "F", "CMYK", "LAB", "YCbCr", "RGBA", "I"):
        yield f"TIFF-{mode}", _lab() if mode == "LAB" else _picture(mode), {}
    yield "TIFF-exif", rgb, {"exif": turned, "dpi": (300, 300)}
    yield "TIFF-pages", rgb, {"save_all": True, "append_images": [_picture("L")]}
    yield "TIFF-big", rgb, {"big_tiff": True}
    for mode in ("1", "L", "I;16", "RGB"):
        yield f"PPM-{mode}", _picture(mode), {}
    yield "PPM-float", _picture("F"), {}
    yield "JPEG2000", rgb, {}
    yield "JPEG2000-tiles", _picture("RGBA"), {"tile_size": (16, 16), "quality_layers": [20]}
    yield "JPEG2000-stream", _picture("L"), {"no_jp2": True, "irreversible": True}
    yield "AVIF", rgb, {"quality": 60, "speed": 10}
    yield "AVIF-alpha", _picture("RGBA"), {"speed": 10, "exif": turned}
    yield "MPO", rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}
    for name in ("DIB", "ICO", "ICNS", "TGA", "PCX", "DDS", "SGI", "QOI", "EPS"):  # not read
        yield name, rgb, {}


def _lab() -> Image.Image:
    return Image.merge("LAB", _picture().split())


def _by_hand() -> Iterator[tuple[str, bytes]]:
    """Pictures that Pillow reads and does not write."""
    entries = {256: 40, 257: 24, 258: 8, 259: 1, 262: 1, 277: 1, 322: 32, 323: 16, 324: 0, 325: 512}
    at = 10 + 12 * len(entries)
    tiles = struct.pack("<8I", *range(at + 36, at + 36 + 4 * 512, 512), *[512] * 4)
    entries |= {324: at + 4, 325: at + 20}
    directory = b"".join(
        struct.pack("<HHII", tag, 4, 4 if tag in (324, 325) else 1, value)
        for tag, value in entries.items()
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + tiles
    yield "TIFF-tiled", head + bytes(range(256)) * 8

    pixels = " ".join(map(str, _picture(size=(16, 8)).tobytes()))
    yield "PPM-plain", f"P3\n# text\n16 8\n255\n{pixels}\n".encode()
    yield "PPM-bitmap-plain", f"P1\n16 8\n{'1 0 ' * 64}\n".encode()
