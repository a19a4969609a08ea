"""Pictures of every Pillow mode, and the tensor that a preprocessing spec makes from one."""

import io

import numpy as np
from PIL import Image

from levit.pictures.preparation import to_tensor

MODES = ("RGB", "L", "LA", "RGBA", "P", "CMYK", "1", "I;16", "YCbCr", "PA")


def picture(mode, size, seed=0):
    """Noise on a gradient, so that every filter, rounding and crop offset shows."""
    width, height = size
    rng = np.random.default_rng([seed, width, height])
    ramp = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    values = (ramp + rng.integers(0, 36, (height, width, 4))).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    if mode == "P":
        return Image.fromarray(values[..., :3]).quantize(64)
    if mode == "PA":
        return Image.fromarray(values[..., :3]).quantize(64).convert("PA")
    if mode in ("RGBA", "CMYK"):
        return Image.frombytes(mode, size, values.tobytes())
    if mode == "LA":
        return Image.frombytes(mode, size, np.ascontiguousarray(values[..., 2:]).tobytes())
    return Image.fromarray(values[..., :3]).convert(mode)


def encoded(image, format_name="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format_name, **options)
    return buffer.getvalue()


def tensor_of(image, spec):
    return to_tensor(image, spec, "float32")
