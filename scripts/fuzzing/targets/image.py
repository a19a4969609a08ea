"""Targets that read encoded pictures."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from fuzzing.damage import damaged
from fuzzing.image_seeds import giant_seeds, image_seeds
from fuzzing.png_damage import damaged_png
from fuzzing.target import WrongAnswerError
from levit.errors import InputError
from levit.pictures.decoders import FORMATS
from levit.pictures.preprocess import PreprocessSpec, normalize, to_pixels
from levit.pictures.reading import MAX_PIXELS, load_image

__all__ = ["GiantTarget", "ImageTarget"]

_SPECS = (
    PreprocessSpec(image_size=(64, 64)),
    PreprocessSpec(image_size=(48, 80), crop_pct=0.875, interpolation="bilinear"),
    PreprocessSpec(image_size=(32, 32), crop_pct=1.0, crop_mode="squash"),
    PreprocessSpec(flavour="transformers", image_size=(96, 96), crop_pct=0.875),
    PreprocessSpec(flavour="mmpretrain", image_size=(40, 40), crop_pct=None),
    PreprocessSpec(image_size=(64, 64), image_mode="L", mean=(0.5,), std=(0.5,)),
    PreprocessSpec(image_size=(64, 64), image_mode="I;16", mean=(0.5,), std=(0.5,)),
    PreprocessSpec(image_size=(64, 64), image_mode="RGBA", mean=(0.5,) * 4, std=(0.5,) * 4),
)


class ImageTarget:
    """`load_image` and the preprocessing behind it.

    What is answered must be what Pillow alone makes of the same bytes, pixel for pixel, and must
    come out of the preprocessing as finite numbers of the right shape.
    """

    name = "image"
    # A picture of 89 megapixels takes up to 1.7 GB: four bytes a pixel before and after it is made
    # RGB, and what the decoder keeps beside them, most of all that of JPEG 2000.
    memory_bytes = 2 << 30
    seconds = 120.0

    def __init__(self) -> None:
        self._seeds: list[bytes] = []

    def prepare(self, folder: Path) -> None:
        self._seeds = list(image_seeds().values())

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        # Mostly behind the signature: without it no decoder gets to see the rest.
        behind = st.sampled_from((0, 4, 8, 12)).flatmap(
            lambda kept: damaged(data[kept:], self._seeds).map(lambda rest: data[:kept] + rest)
        )
        return damaged_png(data) | behind if data.startswith(b"\x89PNG") else behind

    def attempt(self, data: bytes, folder: Path) -> Any:
        source: Any = data
        way, exif, draft, spec, grey16, background = _choices(data)
        if way == "path":
            source = folder / "picture"
            source.write_bytes(data)
        elif way == "file":
            source = io.BytesIO(data)
        mode = spec.image_mode
        image = load_image(
            source,
            mode=mode,
            grey16=grey16,
            background=background,
            exif=exif,
            draft=_small if draft else None,
        )
        try:
            pixels = to_pixels(image, spec)
        except InputError:  # too long and thin: said, not answered
            pixels = None
        return image, pixels

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        image, pixels = answer
        _, exif, draft, spec, grey16, background = _choices(data)
        form = "F" if spec.image_mode == "I;16" else spec.image_mode
        if image.mode != form or min(image.size) < 1 or image.width * image.height > MAX_PIXELS:
            raise WrongAnswerError(f"form: {image.mode} {image.size}")
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as opened:
            if draft and isinstance(opened, JpegImageFile):
                opened.draft(None, _small(opened.size))
            plain = ImageOps.exif_transpose(opened) if exif else opened
            if grey16 == "scale" and plain.mode.startswith("I"):
                plain = Image.fromarray((np.asarray(plain) >> 8).astype(np.uint8))
            if background is not None and plain.has_transparency_data:
                behind = Image.new("RGBA", plain.size, background)
                plain = Image.alpha_composite(behind, plain.convert("RGBA"))
            expected = _in_mode(plain, spec.image_mode)
        found = np.asarray(image)
        if found.shape != expected.shape:
            raise WrongAnswerError(f"size: {found.shape}, Pillow gives {expected.shape}")
        if not np.array_equal(found, expected):
            raise WrongAnswerError(f"pixels: not those of Pillow ({opened.format} {opened.mode})")
        if pixels is None:
            return
        if pixels.shape != (*spec.image_size, spec.channels) or pixels.dtype != expected.dtype:
            raise WrongAnswerError(f"preprocessing: {pixels.shape} {pixels.dtype}")
        if not np.isfinite(normalize(pixels, spec)).all():
            raise WrongAnswerError("preprocessing: not finite")


def _in_mode(image: Image.Image, mode: str) -> np.ndarray[Any, Any]:
    """Convert by Pillow; for ``I;16`` to float32, of 8 bits times 257."""
    if mode != "I;16":
        return np.asarray(image.convert(mode))
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.float32)
    return np.asarray(image.convert("L")).astype(np.float32) * np.float32(257)


class GiantTarget(ImageTarget):
    """Target of pictures just under the limit of pixels, a second or two each."""

    name = "giant"
    seconds = 300.0

    def prepare(self, folder: Path) -> None:
        self._seeds = list(giant_seeds().values())


def _small(size: tuple[int, int]) -> tuple[int, int]:
    """Size that a draft is asked for: its longer side is 64 or more."""
    return max(1, size[0] * 64 // max(size)), max(1, size[1] * 64 // max(size))


def _choices(data: bytes) -> tuple[str, bool, bool, PreprocessSpec, str | None, str | None]:
    """Follow from the input alone, so that it repeats its run.

    Returns:
        (way in, EXIF, draft, spec, grey of 16 bits, background)
    """
    dice = hashlib.sha256(data).digest()
    way = ("bytes", "path", "file")[dice[0] % 3]
    spec = _SPECS[dice[3] % len(_SPECS)]
    grey16 = None if spec.image_mode == "I;16" else ("clip", "clip", "scale")[dice[4] % 3]
    opaque = spec.image_mode in ("L", "RGB") and dice[5] % 3 == 0
    return way, dice[1] % 2 == 1, dice[2] % 3 == 0, spec, grey16, "teal" if opaque else None
