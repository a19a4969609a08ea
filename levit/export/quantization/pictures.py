"""Pictures to calibrate with and to judge by, each decoded once."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from levit.errors import CalibrationError, InputError
from levit.models.model import Model
from levit.models.ops import Array
from levit.pictures.folders import images_in, labelled_images
from levit.pictures.pipeline import Pipeline
from levit.pictures.preparation import Preparation
from levit.pictures.preprocess import PreprocessSpec, normalize
from levit.runtime.cpus import available_cpus

__all__ = ["FEWEST", "Decoder", "Pictures", "read_pictures"]

# With fewer, a range is what these few happen to be.
FEWEST: Final = 8
# Names that the inputs and the labels may have in an .npz.
_INPUTS: Final = ("inputs", "images", "input", "x", "arr_0")
_LABELS: Final = ("labels", "targets", "y")


# Of decoded pictures that are kept: 3,500 of 224x224, three times as many as the contract asks for
# at one point of top-1, and less than a folded model of the largest family takes. Pictures beyond
# them are decoded each time that they are asked for.
_MOST_BYTES: Final = 512 * 2**20
_BATCH: Final = 8


class Decoder:
    """Decodes pictures on the threads that `Predictor.predict` uses, and keeps their pixels.

    Args:
        spec: preprocessing of the model.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self.spec = spec
        # Pixels of 8 bits take a quarter of the tensor's memory; those of 16 are float32 too.
        dtype = "uint8" if spec.white == 255 else "float32"
        threads = available_cpus()
        self._pipeline = Pipeline(
            Preparation(spec=spec, dtype=dtype),
            batch=_BATCH,
            workers=threads if threads > 1 else 0,
        )
        self._kept: dict[Path, Array] = {}
        self._left_bytes = _MOST_BYTES

    def pixels(self, paths: Sequence[Path]) -> Iterator[Array]:
        """(H, W, C) uint8 of each picture, in order; of 16 bits its tensor, (1, H, W) float32.

        Raises:
            InputError: one is no picture.
        """
        known = self._kept.keys() & set(paths)
        fresh = self._decoded([path for path in paths if path not in known])
        for path in paths:
            if path in known:
                yield self._kept[path]
                continue
            pixels = next(fresh)
            if path not in self._kept and pixels.nbytes <= self._left_bytes:
                self._kept[path] = pixels
                self._left_bytes -= pixels.nbytes
            yield pixels

    def _decoded(self, paths: Sequence[Path]) -> Iterator[Array]:
        with self._pipeline.batches(paths, on_error="return") as batches:
            for rows, errors in batches:
                if errors:
                    raise errors[min(errors)]
                yield from rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Pictures, or inputs made of some, that a network is shown.

    Attributes:
        origin: the user's name of them.
        items: paths, or rows of an array that are inputs already.
        decoder: of paths.
        takes_pixels: whether the network takes uint8 pixels.
        labels: the class of each, or None.
        assumed: choices about the labels, in words.
    """

    origin: str
    items: Sequence[Path] | Array
    decoder: Decoder | None = None
    takes_pixels: bool = False
    labels: tuple[int, ...] | None = None
    assumed: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Array]:
        """(1, …) each, as the network takes them.

        Raises:
            CalibrationError: one is no picture.
        """
        if isinstance(self.items, np.ndarray):
            for row in self.items:
                yield np.ascontiguousarray(row[None])
            return
        assert self.decoder is not None
        try:
            for pixels in self.decoder.pixels(self.items):
                row = pixels[None]
                ready = self.takes_pixels or row.dtype == np.float32
                yield row if ready else normalize(row, self.decoder.spec)
        except InputError as error:
            raise CalibrationError(f"{self.origin}: {error}") from error

    def sample(self, count: int) -> Pictures:
        """At most `count` of them, spread over all: folders are sorted by class."""
        if len(self) <= count:
            return self
        return self.chosen(np.linspace(0, len(self) - 1, count).round().astype(int))

    def halves(self) -> tuple[Pictures, Pictures]:
        """Split them into every other one, and the rest."""
        places = np.arange(len(self))
        return self.chosen(places[::2]), self.chosen(places[1::2])

    def chosen(self, chosen: Array) -> Pictures:
        """The pictures at these places, in this order."""
        items: Sequence[Path] | Array
        if isinstance(self.items, np.ndarray):
            items = self.items[chosen]
        else:
            items = [self.items[i] for i in chosen]
        labels = None if self.labels is None else tuple(self.labels[i] for i in chosen)
        return replace(self, items=items, labels=labels)


def read_pictures(
    path: str | os.PathLike[str],
    model: Model,
    decoder: Decoder | None,
    labels: Sequence[str] | None = None,
) -> Pictures:
    """Find pictures in a folder, or open an ``.npz`` of preprocessed inputs.

    Args:
        model: with the plan's input.
        decoder: of the model's preprocessing; None where it takes tensors only.
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
    if decoder is None:
        raise CalibrationError(
            f"{origin}: this model of {model.config.in_channels} channels takes no pictures: pass "
            f"an .npz of its inputs"
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
            decoder=decoder,
            takes_pixels=takes_pixels,
            labels=tuple(index for _, index in pairs),
            assumed=assumed,
        )
    return Pictures(origin=origin, items=found, decoder=decoder, takes_pixels=takes_pixels)


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
