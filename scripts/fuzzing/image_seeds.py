"""One small picture or more in every format that Pillow opens: written by Pillow, or by hand."""

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
    if mode == "PA":
        return image.quantize(16).convert("PA")
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
    yield "DIB", rgb, {}
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
    yield "ICO", _picture("RGBA", (48, 48)), {"sizes": [(16, 16), (32, 32)]}
    yield "ICO-bmp", _picture("RGBA", (32, 32)), {"bitmap_format": "bmp"}
    yield "ICNS", _picture("RGBA", (64, 64)), {}
    for mode in ("1", "L", "I;16", "RGB"):
        yield f"PPM-{mode}", _picture(mode), {}
    yield "PPM-float", _picture("F"), {}
    for mode in ("L", "LA", "P", "RGB", "RGBA"):
        yield f"TGA-{mode}", _picture(mode), {"compression": "tga_rle" if mode != "RGB" else None}
    for mode in ("1", "L", "P", "RGB"):
        yield f"PCX-{mode}", _picture(mode), {}
    for mode in ("L", "LA", "RGB", "RGBA"):
        yield f"DDS-{mode}", _picture(mode), {}
    for pixel_format in ("DXT1", "DXT3", "DXT5", "BC2", "BC3"):
        yield f"DDS-{pixel_format}", _picture("RGBA", (16, 16)), {"pixel_format": pixel_format}
    yield "DDS-BC5", _picture(size=(16, 16)), {"pixel_format": "BC5"}
    yield "JPEG2000", rgb, {}
    yield "JPEG2000-tiles", _picture("RGBA"), {"tile_size": (16, 16), "quality_layers": [20]}
    yield "JPEG2000-stream", _picture("L"), {"no_jp2": True, "irreversible": True}
    yield "AVIF", rgb, {"quality": 60, "speed": 10}
    yield "AVIF-alpha", _picture("RGBA"), {"speed": 10, "exif": turned}
    yield "MPO", rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}
    for mode in ("L", "RGB", "RGBA"):
        yield f"SGI-{mode}", _picture(mode), {}
    yield "SGI-16", _picture("L"), {"bpc": 2}
    yield "XBM", _picture("1"), {"hotspot": (3, 4)}
    for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "F", "I;16"):
        yield f"IM-{mode}", _picture(mode), {}
    yield "MSP", _picture("1"), {}
    yield "SPIDER", _picture("F"), {}
    yield "BLP", _picture("P"), {}
    yield "BLP-2", _picture("P"), {"blp_version": "BLP2"}
    yield "QOI", rgb, {}
    yield "QOI-alpha", _picture("RGBA"), {}
    yield "EPS", rgb, {}


def _lab() -> Image.Image:
    return Image.merge("LAB", _picture().split())


def _by_hand() -> Iterator[tuple[str, bytes]]:
    """What Pillow reads and does not write."""
    width, height = 16, 8
    rgb = _picture(size=(width, height))
    grey, pixels = rgb.convert("L").tobytes(), rgb.tobytes()
    area = width * height

    out = io.BytesIO()
    rgb.save(out, "DIB")
    dib = out.getvalue()
    cursor = dib[:8] + struct.pack("<i", 2 * height) + dib[12:] + bytes(area // 8 * 2)
    entry = struct.pack("<BBBBHHII", width, height, 0, 0, 3, 4, len(cursor), 22)
    yield "CUR", struct.pack("<HHH", 0, 2, 1) + entry + cursor

    out = io.BytesIO()
    rgb.save(out, "PCX")
    yield "DCX", struct.pack("<III", 987654321, 12, 0) + out.getvalue()

    cards = {"SIMPLE": "T", "BITPIX": "8", "NAXIS": "2", "NAXIS1": width, "NAXIS2": height}
    text = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in cards.items())
    yield "FITS", (text + "END".ljust(80)).ljust(2880).encode() + grey.ljust(2880, b"\0")

    # One chunk of a palette, one frame without compression, and one of BRUN.
    colours = struct.pack("<HBB", 1, 0, 0) + bytes(range(256)) * 3
    chunks = [(4, colours), (16, grey)]
    runs = b"".join(
        b"\1" + struct.pack("B", 256 - width) + grey[i : i + width] for i in range(0, area, width)
    )
    for name, last in (("FLI", (16, grey)), ("FLI-brun", (15, runs))):
        chunks[1] = last
        body = b"".join(struct.pack("<IH", 6 + len(d), kind) + d for kind, d in chunks)
        frame = struct.pack("<IHH8x", 16 + len(body), 0xF1FA, len(chunks)) + body
        head = struct.pack("<IHHHHHHI", 128 + len(frame), 0xAF11, 1, width, height, 8, 3, 70)
        yield name, head.ljust(128, b"\0") + frame

    for name, form, data in (("FTEX", 1, pixels), ("FTEX-dxt", 0, bytes(range(area // 2)))):
        head = struct.pack("<4sIIIIII", b"FTEX", 0x100, width, height, 1, 1, form)
        yield name, head + struct.pack("<I", 32) + struct.pack("<I", len(data)) + data

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

    yield "GBR", struct.pack(">IIIII4sI", 29, 2, width, height, 1, b"GIMP", 10) + b"\0" + grey

    yield "IMT", f"* text\nwidth {width}\nheight {height}\npixel n8\n".encode() + b"\x0c" + grey

    record = b"".join(
        struct.pack(">BBBH", 0x1C, *place, len(value)) + value
        for place, value in (
            ((3, 60), b"\1\0"),
            ((3, 65), b"\1"),
            ((3, 20), struct.pack(">H", width)),
            ((3, 30), struct.pack(">H", height)),
            ((3, 120), b"\1"),
            ((8, 10), grey),
        )
    )
    yield "IPTC", record

    words = [0] * 64  # numbered from 1 in the format's description, as Pillow does
    for number, value in {2: 4, 9: height, 10: width, 11: 1, 14: 1, 34: 256}.items():
        words[number - 1] = value
    yield "MCIDAS", struct.pack(">64i", *words) + grey

    yield "MPEG", bytes.fromhex("000001b3") + struct.pack(">I", width << 20 | height << 8 | 0x13)

    raster = bytearray(bytes.fromhex("80e80000").ljust(1024, b"\0"))
    struct.pack_into("<HH", raster, 416, height, width)
    struct.pack_into("<HH", raster, 424, 14, 2)
    yield "PIXAR", bytes(raster) + pixels

    plain = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, height, width, 8, 3) + bytes(12)
    planes = b"".join(plane.tobytes() for plane in rgb.split())
    yield "PSD", plain + b"\0\0" + planes
    packed = b"".join(
        struct.pack("b", width - 1) + planes[i : i + width] for i in range(0, 3 * area, width)
    )
    yield "PSD-rle", plain + b"\0\1" + struct.pack(">H", width + 1) * (3 * height) + packed

    sun = struct.pack(">IIIIIIII", 0x59A66A95, width, height, 24, len(pixels), 1, 0, 0)
    yield "SUN", sun + pixels
    runs = b"".join(b"\x80\x03" + pixels[i : i + 1] for i in range(0, len(pixels), 4))
    yield (
        "SUN-rle",
        struct.pack(">IIIIIIII", 0x59A66A95, width, height, 24, len(runs), 2, 0, 0) + runs,
    )

    rows = ",\n".join('"' + "ab" * (width // 2) + '"' for _ in range(height))
    head = f'"{width} {height} 2 1",\n"a c #ff0000",\n"b c None"'
    text = f"/* XPM */\nstatic char *x[] = {{\n{head},\n{rows}\n}};\n"
    yield "XPM", text.encode()

    yield "XVThumb", f"P7 332\n#END_OF_COMMENTS\n{width} {height} 255\n".encode() + grey

    yield "PPM-plain", f"P3\n# text\n{width} {height}\n255\n{' '.join(map(str, pixels))}\n".encode()
    yield "PPM-bitmap-plain", f"P1\n{width} {height}\n{'1 0 ' * (area // 2)}\n".encode()

    placeable = struct.pack("<IHhhhhHIH", 0x9AC6CDD7, 0, 0, 0, 160, 80, 96, 0, 0)
    yield "WMF", placeable + struct.pack("<HHHIHIH", 1, 9, 0x300, 9, 0, 0, 0)
    # The stubs: Pillow knows these by name, and needs a handler to open them.
    yield "BUFR", b"BUFR" + bytes(40)
    yield "GRIB", b"GRIB" + bytes(3) + b"\1" + bytes(40)
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(40)

    # Base picture of 768x512 at sector 96, in planes of YCC: the larger part of a megabyte.
    photo = bytearray(96 * 2048 + 768 * 512 * 3 // 2)
    photo[2048:2052] = b"PCD_"
    photo[96 * 2048 :] = bytes(range(256)) * (768 * 512 * 3 // 512)
    yield "PCD", bytes(photo)
