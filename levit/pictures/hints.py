"""Hints for errors: the probable meaning of a thing that is no image."""

from __future__ import annotations

import inspect
import os
import re
from typing import Any, Final

from levit.errors import InputError

__all__ = ["check_synchronous", "foreign_name", "is_heif", "name_of_file", "shortened", "text_hint"]

_LONGEST_NAME: Final = 200

_ADDRESS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,20})://|(data):", re.ASCII)
# The first bytes of JPEG, PNG, GIF, WebP and TIFF in base64.
_BASE64: Final = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkqA", "TU0AK")
_BASE64_LETTERS: Final = re.compile(r"[A-Za-z0-9+/_=\s-]{255,}", re.ASCII)

_DECODE: Final = "base64 text: pass base64.b64decode(text)"
_FETCH: Final = "addresses are not fetched: download it, and pass its bytes or its path"

_FOREIGN: Final = {
    b"\xff\x0a": "JPEG XL; convert it to PNG or JPEG",
    b"\0\0\0\x0cJXL ": "JPEG XL; convert it to PNG or JPEG",
    b"<svg": "SVG; render it to PNG",
    b"<?xml": "XML, perhaps SVG; render it to PNG",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"%PDF": "PDF; render its page to PNG",
    b"version https://": "a Git LFS pointer; run git lfs pull",
    b"http://": f"an address; {_FETCH}",
    b"https://": f"an address; {_FETCH}",
    b"data:image": "a data: address; decode its base64 text, and pass bytes",
    **{text.encode(): _DECODE for text in _BASE64},
}

# Brands of ISO media files. A file of mif1 says behind it which codec it needs.
_HEIF: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF: Final = (b"avif", b"avis")


def shortened(name: str) -> str:
    """Shorten a name for an error: its end says more than its beginning."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:60]}…{name[-100:]}"


def text_hint(text: str) -> str | None:
    """Say why a text names no file: it is an address, or base64; None where it may be a path."""
    if match := _ADDRESS.match(text):
        scheme = (match[1] or match[2]).lower()
        if scheme == "data":
            return f"{text[:20]}…: a data: address is no path; decode its base64 and pass bytes"
        if scheme == "file":
            return f"{shortened(text)}: file: addresses are no paths; pass the path in it"
        return f"{shortened(text)}: {scheme}: {_FETCH}"
    mixed = text.lower() != text != text.upper() and _BASE64_LETTERS.fullmatch(text)
    if text.startswith(_BASE64) or mixed:
        return f"{text[:20]}…: no such file; it looks like {_DECODE}"
    return None


def foreign_name(prefix: bytes) -> str:
    """Name what a file is by its first bytes, and what to do with it; or nothing."""
    for start, name in _FOREIGN.items():
        if prefix.startswith(start):
            return name
    return ""


def is_heif(head: bytes) -> bool:
    """Tell if a file of these first 64 bytes or so needs the codec of HEIC, which Pillow lacks."""
    if head[4:8] != b"ftyp":
        return False
    end = min(len(head), int.from_bytes(head[:4], "big"))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    return any(b in _HEIF for b in brands) and not any(b in _AVIF for b in brands)


def check_synchronous(file: Any, name: str) -> None:
    """Raise `InputError` where a file is to be awaited, as FastAPI's ``UploadFile`` is."""
    if inspect.iscoroutinefunction(getattr(file, "read", None)):
        raise InputError(
            f"{name}: a {type(file).__name__} is read asynchronously; pass the bytes that "
            f"`await file.read()` gives"
        )


def name_of_file(file: Any) -> str:
    """Name a file object: by its name if that is a text, as it is not in pipes and elsewhere."""
    try:
        name = getattr(file, "name", None)
    except Exception:  # a property of the caller's
        name = None
    if isinstance(name, (str, bytes)) and name:
        return shortened(os.fsdecode(name))
    return "the image file"
