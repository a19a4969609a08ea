"""Folders of pictures, and of pictures by class as torchvision's ImageFolder has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from levit.errors import InputError
from levit.pictures.reading import image_endings

__all__ = ["images_in", "labelled_images"]


def images_in(folder: Path) -> list[Path]:
    """List the files below `folder` with the ending of an image format, sorted."""
    endings = image_endings()
    found: list[Path] = []
    entered: set[str] = set()
    # Links to folders too, but for those that lead back to where one has been.
    for place, folders, files in os.walk(folder, followlinks=True):
        entered.add(os.path.realpath(place))
        folders[:] = [f for f in folders if os.path.realpath(os.path.join(place, f)) not in entered]
        found += [Path(place) / name for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in endings and path.is_file())


def labelled_images(
    folder: Path, labels: Sequence[str]
) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """List (image, class index) of every image of ``folder/class/image``, and the assumptions made.

    Args:
        labels: labels of the model; a folder's name is one of them, or an index, or all folders in
            sorted order are the classes in order.

    Raises:
        InputError: there is no such folder, it has no folders of images, or they match no labels.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    classes = [name for name in classes if images_in(folder / name)]
    if not classes:
        raise InputError(
            f"{folder}: expected one sub-folder of images per class (class/image.png), found none"
        )
    indices, assumed = _indices(classes, labels, folder)
    pairs = [(path, indices[name]) for name in classes for path in images_in(folder / name)]
    return pairs, assumed


def _indices(
    classes: Sequence[str], labels: Sequence[str], folder: Path
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Map folder names to classes."""
    by_label = {label: index for index, label in enumerate(labels)}
    if twice := [name for name in classes if labels.count(name) > 1]:
        raise InputError(
            f"{folder}: {twice[0]!r} is the label of several classes of this model: name folders "
            f"by index"
        )
    if set(classes) <= set(by_label):
        return {name: by_label[name] for name in classes}, ()
    if all(name.isdecimal() and int(name) < len(labels) for name in classes):
        return {name: int(name) for name in classes}, ()
    # Numbers that are no indices count from another number, or in another order.
    if len(classes) == len(labels) and not all(name.isdecimal() for name in classes):
        indices = {name: index for index, name in enumerate(classes)}
        return indices, ("folders in sorted order are the classes in order",)
    odd = [name for name in classes if name not in by_label]
    raise InputError(
        f"{folder}: {len(odd)} of its {len(classes)} folders are no labels of this model "
        f"({', '.join(odd[:3])}), and it has {len(labels)} classes; name folders by label or index"
    )
