"""Target of the walker over a JPEG's markers, which libjpeg itself judges."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from fuzzing.image_seeds import image_seeds
from fuzzing.jpeg_damage import damaged_jpeg
from fuzzing.target import WrongAnswerError
from levit.pictures.checks import check_jpeg
from levit.pictures.jpeg_markers import Outline, splice

__all__ = ["JpegTarget"]

_SMALL = 512


class JpegTarget:
    """`check_jpeg`: frame and scans are those that libjpeg decodes.

    A file without the segments that are not shown to Pillow must be decoded to the same pixels.
    """

    name = "jpeg"
    memory_bytes = 1 << 30
    seconds = 60.0

    def __init__(self) -> None:
        self._seeds: list[bytes] = []

    def prepare(self, folder: Path) -> None:
        self._seeds = [data for name, data in image_seeds().items() if name.startswith("JPEG-")]
        self._seeds += [data for name, data in image_seeds().items() if name == "JPEG"]

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        return damaged_jpeg(data)

    def attempt(self, data: bytes, folder: Path) -> Any:
        return check_jpeg(io.BytesIO(data), "the image bytes")

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        outline: Outline = answer
        size = outline.width, outline.height
        if not 0 < min(size) <= max(size) <= _SMALL:
            size = 64, 48  # libjpeg shall refuse it, or see this
        whole = _decoded(data, size)
        if whole is not None and size != (outline.width, outline.height):
            raise WrongAnswerError(f"size: {outline}, and libjpeg decodes {size}")
        if whole is not None and not outline.scans:
            raise WrongAnswerError("scans: none, and libjpeg decodes it")
        if outline.scan_at is not None:
            shown = splice(io.BytesIO(data), outline).read()
            if _decoded(shown, size) != whole:
                raise WrongAnswerError("splice: libjpeg decodes other pixels")


def _decoded(data: bytes, size: tuple[int, int]) -> bytes | None:
    """Pixels by Pillow's binding of libjpeg alone, which reads no header itself."""
    for mode in ("RGB", "L", "CMYK"):
        decoder = Image._getdecoder(mode, "jpeg", (mode, ""), ())  # type: ignore[attr-defined]
        core = Image.core.new(mode, size)
        decoder.setimage(core, (0, 0, *size))
        consumed, status = decoder.decode(data)
        if consumed < 0 and status >= 0:  # it has come to its end
            return bytes(Image.Image()._new(core).tobytes())
    return None
