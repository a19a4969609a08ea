"""JPEG files in parts, to be put together in other ways."""

import io
import struct

from PIL import Image


def jpeg(size=(64, 48), mode="RGB", **options):
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def segment(marker, body):
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


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


def one_component_at_a_time(times):
    """A baseline JPEG of which each component has scans of its own, empty but for their heads."""
    data = jpeg()
    heads = [part for marker, part in segments(data) if marker not in (0xDA, 0xD9)]
    scans = [struct.pack(">2sHBBBBBB", b"\xff\xda", 8, 1, i, 0, 0, 63, 0) for i in (1, 2, 3)]
    return b"".join([data[:2], *heads, *scans * times, b"\xff\xd9"])


# A frame and a scan that a reader takes for real who does not know where the segment around ends.
FAKE = segment(0xC0, struct.pack(">BHHB", 8, 48, 64, 1) + b"\1\x11\0") + segment(
    0xDA, b"\1\1\0\0\x3f\0"
)
