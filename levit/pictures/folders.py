"""Folders of pictures, and of pictures by class as torchvision's ImageFolder has them."""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

from levit.errors import InputError
from levit.pictures.decoders import image_endings

__all__ = ["images_in", "labelled_images"]


def images_in(folder: Path) -> list[Path]:
    """List the files below `folder` with the ending of an image format, sorted.

    Links to folders are followed, after all that is no link: a folder that several ways lead to
    counts once, by its own name if that is below `folder`.

    Raises:
        InputError: folders lie in each other deeper than a path can be long.
    """
    endings = image_endings()
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()
    waiting, links = [str(folder)], deque[str]()
    while waiting or links:
        place = waiting.pop() if waiting else links.popleft()
        try:
            status = Path(place).stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                # In an order of names: which of two links comes first must not depend on the disk.
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if _is_folder(entry):
                        (links if entry.is_symlink() else waiting).append(entry.path)
                    elif not entry.name.startswith("."):
                        found.append(Path(entry.path))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise InputError(
                    f"{folder}: its folders lie in each other too deep to name them (one is at "
                    f"{len(place)} letters); name a folder further below, or move them up"
                ) from error
            # As os.walk has it: what may not be read, or is gone by now, holds no images.
    return sorted(path for path in found if path.suffix.lower() in endings and path.is_file())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def labelled_images(
    folder: Path, labels: Sequence[str]
) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """List (image, class index) of every image of ``folder/class/image``, and the assumptions made.

    Args:
        labels: labels of the model; a folder's name is one of them, or an index, or all folders in
            sorted order are the classes in order.

    Raises:
        InputError: there is no such folder, it has no folders of images, two are the same, or they
            match no labels.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    below = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    images = {name: found for name, path in below.items() if (found := images_in(path))}
    classes = list(images)
    if not classes:
        raise InputError(
            f"{folder}: expected one sub-folder of images per class (class/image.png), found none"
        )
    _require_distinct([below[name] for name in classes])
    indices, assumed = _indices(classes, labels, folder)
    pairs = [(path, indices[name]) for name in classes for path in images[name]]
    return pairs, assumed


def _require_distinct(folders: Sequence[Path]) -> None:
    """Refuse two names of one folder: its images would be of both classes."""
    names: dict[str, Path] = {}
    for folder in folders:
        other = names.setdefault(os.path.realpath(folder), folder)
        if other is not folder:
            raise InputError(
                f"{folder} and {other} are the same folder, whose images can be of one class "
                f"only: remove one of them"
            )


def _indices(
    classes: Sequence[str], labels: Sequence[str], folder: Path
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Map folder names to classes."""
    by_label = {label: index for index, label in enumerate(labels)}
    counted = Counter(labels)
    if twice := [name for name in classes if counted[name] > 1]:
        raise InputError(
            f"{folder}: {twice[0]!r} is the label of several classes of this model: name folders "
            f"by index"
        )
    if set(classes) <= set(by_label):
        return {name: by_label[name] for name in classes}, ()
    if all(name.isdecimal() and int(name) < len(labels) for name in classes):
        numbers = {name: int(name) for name in classes}
        if len(set(numbers.values())) < len(classes):
            raise InputError(f"{folder}: two of its folders have one index; rename one of them")
        return numbers, ()
    # Where some are labels, the others are misspelt. Numbers that are no indices count from another
    # number, or in another order.
    named = any(name in by_label for name in classes)
    if len(classes) == len(labels) and not named and not all(n.isdecimal() for n in classes):
        indices = {name: index for index, name in enumerate(classes)}
        return indices, ("folders in sorted order are the classes in order",)
    odd = [name for name in classes if name not in by_label]
    raise InputError(
        f"{folder}: {len(odd)} of its {len(classes)} folders are no labels of this model "
        f"({', '.join(odd[:3])}), and it has {len(labels)} classes; name folders by label or index"
    )
