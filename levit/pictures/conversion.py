"""Pictures that hold more than a model sees: grey of 16 bits, and opacity.

Pillow's ``convert("RGB")``, which every home library calls, makes white of all grey above 255 of
65535, and drops the opacity, with all that is drawn in it alone. Here the caller says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image, ImageColor

from levit.errors import InputError
from levit.pictures.modes import MODES, convert_image

__all__ = ["Conversion"]

# Points of a picture that are looked at first: where two colours are among them, it has a shape.
_SAMPLE: Final = (8, 8)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Conversion of pictures to an image mode.

    Attributes:
        mode: a name of :data:`~levit.pictures.modes.MODES`.
        grey16: to eight bits, ``scale`` grey of 16 by their upper eight, so that 65535 becomes
            255, or ``clip`` it at 255, as Pillow and all home libraries do.
        background: colour that is behind what is not opaque: a name or ``#rrggbb``.
    """

    mode: str = "RGB"
    grey16: str | None = None
    background: str | None = None

    def keeps(self, image: Image.Image) -> bool:
        """Tell whether a decoded picture is in the mode already, with nothing to change."""
        return image.mode == self.mode in ("L", "RGB") and not _has_opacity(image)

    def apply(self, image: Image.Image, name: str) -> Image.Image:
        """Convert a decoded picture; always a copy.

        Args:
            name: the picture's, for errors.

        Returns:
            A Pillow image in the mode; for ``I;16`` in mode F, on 0..65535.

        Raises:
            InputError: the mode has no room for the picture's values, and nothing says how they
                are to be changed.
            ValueError: Pillow converts no such pictures.
        """
        if MODES[self.mode].white == 255 and (image.mode == "F" or image.mode[:1] == "I"):
            image = self._eight_bits(image, name)
        if self.mode in ("L", "RGB") and _has_opacity(image):
            image = self._opaque(image, name)
        return convert_image(image, self.mode, name)

    def _eight_bits(self, image: Image.Image, name: str) -> Image.Image:
        if self.grey16 == "clip":
            return image
        if image.mode == "F":
            raise InputError(
                f"{name}: a picture of fractions has no known white; scale it to 0..255 and pass "
                f"an array of uint8"
            )
        if self.grey16 is None:
            raise InputError(
                f"{name}: grey of 16 bits, for a model of 8: pass grey16='scale' (--grey16 scale) "
                f"for its upper eight, or 'clip' for white from 255 on, as timm has it"
            )
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > MODES["I;16"].white):
            raise InputError(
                f"{name}: has values from {values.min()} to {values.max()}, not from 0 to 65535; "
                f"save it with 16 bits"
            )
        return Image.fromarray((values >> 8).astype(np.uint8))

    def _opaque(self, image: Image.Image, name: str) -> Image.Image:
        if self.background is None:
            if _has_shape_in_opacity_alone(image):
                raise InputError(
                    f"{name}: is of one colour, and what it shows is in its opacity alone: pass "
                    f"background='white' (--background white), or another colour behind it"
                )
            return image
        behind = Image.new("RGBA", image.size, ImageColor.getrgb(self.background))
        return Image.alpha_composite(behind, image.convert("RGBA"))


def _has_opacity(image: Image.Image) -> bool:
    return image.mode[-1:] in ("A", "a") or "transparency" in image.info


def _has_shape_in_opacity_alone(image: Image.Image) -> bool:
    sample = convert_image(image.resize(_SAMPLE, Image.Resampling.NEAREST), "RGB", "")
    if sample.getcolors(1) is None:
        return False
    extrema: Any = image.convert("RGBA").getextrema()
    *colours, (least, most) = extrema
    return least < most and all(low == high for low, high in colours)
