"""Pictures for the protocols that begin with a JPEG, on a machine that has none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from levit.errors import InputError
from levit.models.pictures import smooth_pictures
from levit.pictures.reading import load_image

__all__ = ["write_photographs"]

_SIZE = (375, 500)  # (height, width): what ImageNet's pictures have most often
_COUNT = 16
_NOISE = 6.0  # grey levels: makes files of 57 KB at quality 90, about what photographs have
_ENDINGS = {".jpg", ".jpeg"}
# Of a user's folder: each contender holds them all in memory.
_MOST = 64


def write_photographs(folder: Path, source: Path | None, seed: int) -> tuple[Path, ...]:
    """JPEG files to classify: at most 64 of `source`, or gradients with a sensor's noise.

    Raises:
        InputError: `source` is no folder of JPEGs, or one of them cannot be read.
    """
    if source is not None:
        if not source.is_dir():
            raise InputError(f"{source}: no such folder of photographs")
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in _ENDINGS)
        if not found:
            raise InputError(f"{source}: holds no .jpg or .jpeg file")
        if len(found) > _MOST:
            chosen = np.random.default_rng(seed).choice(len(found), _MOST, replace=False)
            found = [found[index] for index in sorted(chosen)]
        for path in found:
            load_image(path)  # one that cannot be read says so now, not in the middle
        return tuple(path.resolve() for path in found)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for number, picture in enumerate(smooth_pictures(rng, _COUNT, _SIZE)):
        noisy = np.clip(picture + rng.normal(0, _NOISE, (*_SIZE, 1)), 0, 255)
        data = io.BytesIO()
        Image.fromarray(noisy.round().astype(np.uint8)).save(data, "JPEG", quality=90)
        paths.append(folder / f"{number:02}.jpg")
        paths[-1].write_bytes(data.getvalue())
    return tuple(paths)
