"""Pictures to calibrate with and to judge by, read one after the other."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from levit.errors import CalibrationError, InputError
from levit.models.model import Model
from levit.models.ops import Array
from levit.pictures.folders import images_in, labelled_images
from levit.pictures.preprocess import PreprocessSpec, normalize, to_pixels
from levit.pictures.reading import load_image

__all__ = ["FEWEST", "Pictures", "read_pictures"]

# With fewer, a range is what these few happen to be.
FEWEST: Final = 8
# Of what an .npz may be called in there.
_INPUTS: Final = ("inputs", "images", "input", "x", "arr_0")
_LABELS: Final = ("labels", "targets", "y")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What a network is shown.

    Attributes:
        origin: what the user called them.
        items: paths, or rows of an array that are inputs already.
        labels: the class of each, or None.
        assumed: of the labels, in words.
    """

    origin: str
    items: Sequence[Path] | Array
    spec: PreprocessSpec | None
    takes_pixels: bool
    labels: tuple[int, ...] | None = None
    assumed: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Array]:
        """(1, …) each, as the network takes them.

        Raises:
            CalibrationError: one is no picture.
        """
        for item in self.items:
            if isinstance(item, Path):
                yield self._read(item)
            else:
                yield np.ascontiguousarray(item[None])

    def _read(self, path: Path) -> Array:
        assert self.spec is not None
        try:
            pixels = to_pixels(load_image(path), self.spec)[None]
        except InputError as error:
            raise CalibrationError(f"{self.origin}: {error}") from error
        return pixels if self.takes_pixels else normalize(pixels, self.spec)

    def sample(self, count: int) -> Pictures:
        """At most `count` of them, spread over all: folders are sorted by class."""
        if len(self) <= count:
            return self
        return self._chosen(np.linspace(0, len(self) - 1, count).round().astype(int))

    def halves(self) -> tuple[Pictures, Pictures]:
        """Every other one, and the rest."""
        places = np.arange(len(self))
        return self._chosen(places[::2]), self._chosen(places[1::2])

    def _chosen(self, chosen: Array) -> Pictures:
        items = self.items[chosen] if isinstance(self.items, np.ndarray) else None
        return Pictures(
            origin=self.origin,
            items=[self.items[i] for i in chosen] if items is None else items,
            spec=self.spec,
            takes_pixels=self.takes_pixels,
            labels=None if self.labels is None else tuple(self.labels[i] for i in chosen),
            assumed=self.assumed,
        )


def read_pictures(
    path: str | os.PathLike[str],
    model: Model,
    spec: PreprocessSpec | None,
    labels: Sequence[str] | None = None,
) -> Pictures:
    """Find pictures in a folder, or open an ``.npz`` of preprocessed inputs.

    Args:
        model: with the plan's input.
        labels: of the model, where the pictures' classes are asked for. They are those of the
            folders that the pictures lie in, or the ``labels`` of the ``.npz``; a folder without
            sub-folders has none.

    Raises:
        CalibrationError: there are none, or they are not what the model takes.
    """
    origin = os.fspath(path)
    place = Path(origin)
    takes_pixels = model.plan.pixels is not None
    if place.suffix.lower() == ".npz":
        return _arrays(place, model, takes_pixels=takes_pixels, labelled=labels is not None)
    if not place.is_dir():
        raise CalibrationError(f"{origin}: no such folder, and no .npz of preprocessed inputs")
    if spec is None:
        raise CalibrationError(
            f"{origin}: a model of {model.config.in_channels} channels takes no pictures: pass an "
            f".npz of its inputs"
        )
    found = images_in(place)
    if not found:
        raise CalibrationError(f"{origin}: no images in this folder, at any depth")
    if labels is not None and any(entry.is_dir() and images_in(entry) for entry in place.iterdir()):
        try:
            pairs, assumed = labelled_images(place, labels)
        except InputError as error:
            raise CalibrationError(str(error)) from error
        return Pictures(
            origin=origin,
            items=[file for file, _ in pairs],
            spec=spec,
            takes_pixels=takes_pixels,
            labels=tuple(index for _, index in pairs),
            assumed=assumed,
        )
    return Pictures(origin=origin, items=found, spec=spec, takes_pixels=takes_pixels)


def _arrays(place: Path, model: Model, *, takes_pixels: bool, labelled: bool) -> Pictures:
    arrays: dict[str, Array]
    try:
        file = np.load(place, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array: write it with np.savez(path, inputs=array)")
        with file:
            arrays = {name: file[name] for name in file.files}
    # RuntimeError is what the zip reader raises for passwords and methods that it does not know.
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise CalibrationError(f"{place}: cannot be read as .npz ({error})") from error
    name: str | None = next((name for name in _INPUTS if name in arrays), None)
    if name is None and len(arrays) == 1:
        name = next(iter(arrays))
    if name is None:
        raise CalibrationError(
            f"{place}: which array are the inputs? Call it 'inputs'; it has "
            f"{', '.join(arrays) or 'none'}"
        )
    inputs = arrays[name]
    shape = model.input_shape
    dtype = np.uint8 if takes_pixels else np.float32
    if inputs.dtype.kind == "f" and not takes_pixels:
        inputs = inputs.astype(np.float32)
    if inputs.dtype != dtype or inputs.shape[1:] != shape:
        raise CalibrationError(
            f"{place}: {name!r} is {inputs.shape} {inputs.dtype}; the model takes (N, "
            f"{', '.join(map(str, shape))}) {np.dtype(dtype)}"
        )
    if not len(inputs):
        raise CalibrationError(f"{place}: {name!r} holds no inputs")
    return Pictures(
        origin=str(place),
        items=inputs,
        spec=None,
        takes_pixels=takes_pixels,
        labels=_labels(place, arrays, len(inputs), model.config.num_classes) if labelled else None,
    )


def _labels(
    place: Path, arrays: dict[str, Array], count: int, classes: int
) -> tuple[int, ...] | None:
    name = next((name for name in _LABELS if name in arrays), None)
    if name is None:
        return None
    labels = arrays[name]
    fits = labels.shape == (count,) and labels.dtype.kind in "iu"
    if not fits or labels.min() < 0 or labels.max() >= classes:
        raise CalibrationError(
            f"{place}: {name!r} must hold a class from 0 to {classes - 1} for each of the {count} "
            f"inputs"
        )
    return tuple(map(int, labels))
