# SPDX-License-Identifier: Apache-2.0
"""Compare decoders of JPEGs with Pillow: pixels, damaged files, time.

::

    pip install simplejpeg opencv-python-headless imagecodecs 'pyvips[binary]' kornia-rs
    pip install ajpegli skia-python av PyTurboJPEG torchvision
    taskset -c 1 python scripts/compare_decoders.py 2>/dev/null  # decoders write warnings there

Every decoder is optional but Pillow; those that are missing are named. Each gets the same bytes in
memory and gives RGB of 8 bits. PyTurboJPEG needs a libturbojpeg of the system, or the one that
``TURBOJPEG_LIB`` names. All run in one process and take turns, ratios are taken inside rounds, and
`taskset` keeps threads of theirs from counting as speed.

The first table has, for every kind of file, ``=`` where the outcome is Pillow's (equal pixels, or
an error too), the largest difference of a value, another shape, or that a decoder ``refuses`` or
``accepts`` a file which Pillow does not; the second counts those outcomes over damaged files. The
others have the median and the least time, and the median of Pillow's time over it.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import io
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image, _imaging, features
from PIL.JpegImagePlugin import JpegImageFile
from time_pictures import LARGE, SMALL, photos, turns

from levit.benchmarks.intervals import ratio_interval
from levit.pictures.reading import load_image
from levit.runtime.cpus import cpu_model

Decode = Callable[[bytes], Any]
ADOBE = b"Adobe\0\x64"
ORIENTATION = 0x0112

# Where a decoder of this Pillow, on 64 bits, has the address of the line that it decodes into.
KNOWN_PILLOW, LINE_AT = "13.0.0", 96

# ---------------------------------------------------------------------------- files


def encoded(image: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", **{"quality": 90, **options})
    return data.getvalue()


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    noise = np.random.default_rng(1).normal(0, deviation, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).round().astype(np.uint8))


def timed_files() -> dict[str, bytes]:
    """JPEGs whose decoding is timed: of 500×375, and of 12 megapixels."""
    small, large = (Image.open(io.BytesIO(photos(None, 1, n, 98)[0])) for n in (SMALL, LARGE))
    return {
        "500×375": encoded(small),
        "500×375 noisy": encoded(noisy(small, 12)),
        "500×375 4:4:4": encoded(small, subsampling=0),
        "500×375 progressive": encoded(small, progressive=True),
        "500×375 grey": encoded(small.convert("L")),
        "12 MP": encoded(noisy(large, 5)),
        "12 MP progressive": encoded(noisy(large, 5), progressive=True),
    }


def other_files() -> dict[str, bytes]:
    """JPEGs that are unusual, or whose end is."""
    small = Image.open(io.BytesIO(photos(None, 1, SMALL, 98)[0]))
    plain, cmyk = encoded(small), encoded(small.convert("CMYK"))
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    transform = cmyk.index(ADOBE) + len(ADOBE) + 4
    noise = np.random.default_rng(0).bytes(64)
    return {
        "4:2:2": encoded(small, subsampling=1),
        "RGB": encoded(small, keep_rgb=True),
        "CMYK": cmyk,
        "YCCK": cmyk[:transform] + b"\2" + cmyk[transform + 1 :],
        "EXIF turn": encoded(small, exif=turned),
        "restarts": encoded(small, restart_marker_rows=1),
        "odd sizes": encoded(small.resize((333, 251))),
        "17×1": encoded(small.resize((17, 1))),
        "half": plain[: len(plain) // 2],
        "no end": plain[:-2],
        "a tail": plain + noise,
        "no image": plain[:300],
    }


def damaged_files(count: int) -> Iterable[bytes]:
    """Small JPEGs of three kinds, in each of which up to 16 bytes anywhere are others."""
    rng = np.random.default_rng(0)
    image = Image.open(io.BytesIO(photos(None, 1, (120, 90), 98)[0]))
    kinds = encoded(image), encoded(image, progressive=True), encoded(image.convert("L"))
    for number in range(count):
        data = np.frombuffer(kinds[number % len(kinds)], np.uint8).copy()
        places = rng.integers(2, len(data), rng.integers(1, 17))
        data[places] = rng.integers(0, 256, len(places))
        yield data.tobytes()


# ---------------------------------------------------------------------------- Pillow


class InOneBlock(JpegImageFile):
    """Decodes into one block of memory; Pillow takes 16 MiB at a time."""

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = _imaging.new_block(self.mode, self.size)
        super().load_prepare()


def pillow(data: bytes, *, kind: type[JpegImageFile] = JpegImageFile, read: int = 0) -> Image.Image:
    image = kind(io.BytesIO(data), "")
    image.decodermaxblock = read or image.decodermaxblock
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def pillow_draft(data: bytes, scale: int) -> Image.Image:
    return load_image(data, draft=lambda size: (size[0] // scale, size[1] // scale))


def pillow_at(data: bytes, remainder: int) -> Any:
    """Decode through a line whose address modulo 32 is `remainder`.

    libjpeg-turbo writes each line of colours there, past the cache if the address is a multiple of
    32, and Pillow copies it from there. In ordinary use the heap decides.
    """
    image = JpegImageFile(io.BytesIO(data), "")
    pixels = _imaging.new(image.mode, image.size)
    held: list[Any] = []
    while True:
        decoder = _imaging.jpeg_decoder(image.mode, image.mode, "")
        decoder.setimage(pixels, (0, 0, *image.size))
        if ctypes.c_size_t.from_address(id(decoder) + LINE_AT).value % 32 == remainder:
            break
        held += [decoder, bytes(600 + 16 * len(held))]  # so that the next lies elsewhere
    decoder.decode(data)
    return pixels


def ways_of_pillow() -> dict[str, Decode]:
    at: dict[str, Decode] = {
        f"Pillow, a line at {n} mod 32": partial(pillow_at, remainder=n) for n in (0, 16)
    }
    return {
        **(at if version("pillow") == KNOWN_PILLOW else {}),
        "Pillow": pillow,
        "Pillow, all bytes at once": partial(pillow, read=2**30),
        "Pillow, one block": partial(pillow, kind=InOneBlock),
        "Pillow, an array of it": lambda data: np.asarray(pillow(data)),
        "levit": load_image,
        **{f"levit, draft of 1/{n}": partial(pillow_draft, scale=n) for n in (2, 4, 8)},
    }


# ---------------------------------------------------------------------------- other decoders


def simplejpeg(module: Any) -> Iterable[tuple[str, Decode]]:
    yield "simplejpeg", module.decode_jpeg
    yield "simplejpeg, not strict", partial(module.decode_jpeg, strict=False)
    yield "simplejpeg, fast", partial(module.decode_jpeg, fastdct=True, fastupsample=True)
    yield "simplejpeg, an image of it", lambda data: Image.fromarray(module.decode_jpeg(data))


def turbojpeg(module: Any) -> Iterable[tuple[str, Decode]]:
    library = module.TurboJPEG(os.environ.get("TURBOJPEG_LIB"))
    yield "PyTurboJPEG", partial(library.decode, pixel_format=module.TJPF_RGB)


def cv2(module: Any) -> Iterable[tuple[str, Decode]]:
    flags = module.IMREAD_COLOR_RGB | module.IMREAD_IGNORE_ORIENTATION
    yield "OpenCV", lambda data: module.imdecode(np.frombuffer(data, np.uint8), flags)


def imagecodecs(module: Any) -> Iterable[tuple[str, Decode]]:
    yield "imagecodecs", partial(module.jpeg8_decode, outcolorspace="RGB")


def pyvips(module: Any) -> Iterable[tuple[str, Decode]]:
    module.cache_set_max(0)  # which would answer from memory
    load = partial(module.Image.jpegload_buffer, access="sequential")
    yield "pyvips", lambda data: load(data).numpy()


def torchvision(module: Any) -> Iterable[tuple[str, Decode]]:
    torch = importlib.import_module("torch")
    decode = partial(module.io.decode_jpeg, mode=module.io.ImageReadMode.RGB)

    def call(data: bytes) -> Any:
        tensor = torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))
        return decode(tensor).permute(1, 2, 0).numpy()

    yield "torchvision", call


def kornia_rs(module: Any) -> Iterable[tuple[str, Decode]]:
    yield "kornia-rs (turbo)", lambda data: module.io.decode_image_jpegturbo(data, "rgb")
    yield "kornia-rs (zune)", module.io.decode_image_jpeg


def ajpegli(module: Any) -> Iterable[tuple[str, Decode]]:
    yield "ajpegli", module.imdecode


def skia(module: Any) -> Iterable[tuple[str, Decode]]:
    def call(data: bytes) -> Any:
        image = module.Image.MakeFromEncoded(module.Data.MakeWithoutCopy(data))
        return image.toarray(colorType=module.kRGB_888x_ColorType)[..., :3]

    yield "skia-python", call


def av(module: Any) -> Iterable[tuple[str, Decode]]:
    def call(data: bytes) -> Any:
        codec = module.CodecContext.create("mjpeg", "r")
        codec.thread_count = 1
        return codec.decode(module.Packet(data))[0].to_ndarray(format="rgb24")

    yield "PyAV", call


OTHERS: dict[Callable[[Any], Iterable[tuple[str, Decode]]], str] = {
    simplejpeg: "simplejpeg",
    turbojpeg: "PyTurboJPEG",
    cv2: "opencv-python-headless",
    imagecodecs: "imagecodecs",
    pyvips: "pyvips",
    torchvision: "torchvision",
    kornia_rs: "kornia-rs",
    ajpegli: "ajpegli",
    skia: "skia-python",
    av: "av",
}


def other_decoders() -> dict[str, Decode]:
    """Find the decoders that are installed, by name; print releases, and what is missing."""
    found: dict[str, Decode] = {}
    print(f"Pillow {version('pillow')}, libjpeg-turbo {features.version('libjpeg_turbo')}")
    for decoders, package in OTHERS.items():
        try:
            release = version(package)
            found.update(decoders(importlib.import_module(decoders.__name__)))
            print(f"{package} {release}")
        except (ImportError, OSError, RuntimeError) as error:
            print(f"{package} is missing: {error}")
    return found


# ---------------------------------------------------------------------------- tables


def outcome(decode: Decode, data: bytes) -> Any:
    """The pixels, or the error: every library has types of its own."""
    try:
        pixels = decode(data)
        return np.asarray(pixels, np.uint8).reshape(*np.shape(pixels)[:2], -1)
    except Exception as error:
        return error


def verdict(found: Any, pillows: Any) -> str:
    if isinstance(pillows, Exception):
        return "=" if isinstance(found, Exception) else "accepts"
    if isinstance(found, Exception):
        return "refuses"
    if found.shape != pillows.shape:
        return "×".join(map(str, found.shape))
    largest = int(np.abs(found.astype(int) - pillows).max())
    return f"±{largest}" if largest else "="


def print_table(rows: Iterable[Iterable[str]]) -> None:
    for number, row in enumerate(rows):
        cells = list(row)
        print("| " + " | ".join(cells) + " |")
        if not number:
            print("|---" * len(cells) + "|")


def pixel_rows(decoders: dict[str, Decode], files: dict[str, bytes]) -> Iterable[Iterable[str]]:
    yield "file", *decoders
    for kind, data in files.items():
        pillows = outcome(pillow, data)
        yield kind, *(verdict(outcome(decode, data), pillows) for decode in decoders.values())


def damage_rows(decoders: dict[str, Decode], files: list[bytes]) -> Iterable[Iterable[str]]:
    yield "decoder", "as Pillow", "other pixels", "accepts", "refuses"
    pillows = [outcome(pillow, data) for data in files]
    for title, decode in decoders.items():
        pairs = zip(files, pillows, strict=True)
        counts = Counter(verdict(outcome(decode, data), expected) for data, expected in pairs)
        known = [counts.pop(kind, 0) for kind in ("=", "accepts", "refuses")]
        known.insert(1, counts.total())
        yield title, *map(str, known)


def time_rows(decoders: dict[str, Decode], data: bytes, rounds: int) -> Iterable[Iterable[str]]:
    yield "decoder", "median, ms", "least, ms", "times as fast as Pillow"
    working = {
        title: partial(decode, data)
        for title, decode in decoders.items()
        if title.startswith("Pillow") or not isinstance(outcome(decode, data), Exception)
    }
    rates = turns(working, rounds, 1)
    for title, values in rates.items():
        ratio, low, high = ratio_interval(values, rates["Pillow"])
        median, least = 1e3 / statistics.median(values), 1e3 / max(values)
        yield title, f"{median:.2f}", f"{least:.2f}", f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--damaged", type=int, default=600, help="damaged files")
    parser.add_argument(
        "--files", nargs="+", help="no more than the time of these kinds of the first table"
    )
    parser.add_argument("--decoders", nargs="+", default=[""], help="beginnings of their names")
    arguments = parser.parse_args()

    print(cpu_model())
    others = other_decoders()
    timed = timed_files()
    if not arguments.files:
        print_table(pixel_rows(others, {**timed, **other_files()}))
        print()
        print_table(damage_rows(others, list(damaged_files(arguments.damaged))))
    wanted = ("Pillow", *arguments.decoders)
    contenders = {**ways_of_pillow(), **others}
    contenders = {title: way for title, way in contenders.items() if title.startswith(wanted)}
    for kind in arguments.files or timed:
        print(f"\n{kind}, {len(timed[kind]):,} bytes")
        print_table(time_rows(contenders, timed[kind], arguments.rounds))


if __name__ == "__main__":
    main()
