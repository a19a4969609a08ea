"""``levit eval``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from levit.commands.images import images_in, open_predictor
from levit.commands.output import Progress, print_json, print_table
from levit.errors import InputError

__all__ = ["run"]

_TOP = 5


def run(arguments: argparse.Namespace) -> int:
    """Top-1, top-5 and images per second on an ImageFolder."""
    folder = Path(arguments.folder)
    with open_predictor(arguments) as predictor:
        samples = _samples(folder, predictor.labels)
        first = fifth = 0
        with Progress(len(samples), "images") as progress:
            started = time.perf_counter()
            # The first that cannot be read ends it: accuracy on the others is another figure.
            predictions = predictor.stream((path for path, _ in samples), _TOP)
            for (_, index), prediction in zip(samples, predictions, strict=True):
                found = [entry[1] for entry in prediction.top]
                first += found[0] == index
                fifth += index in found
                progress.advance()
            seconds = time.perf_counter() - started
    total = len(samples)
    report = {
        "images": total,
        "top1": first / total,
        "top5": fifth / total,
        "images_per_second": total / seconds,
    }
    if arguments.json:
        print_json(report)
    else:
        print_table(
            [
                ["images", str(total)],
                ["top-1", f"{first / total:.2%}"],
                ["top-5", f"{fifth / total:.2%}"],
                ["images/s", f"{total / seconds:.1f}"],
            ]
        )
    return 0


def _samples(folder: Path, labels: Sequence[str]) -> list[tuple[Path, int]]:
    """(image, class index) of every image."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    classes = [name for name in classes if images_in(folder / name)]
    if not classes:
        raise InputError(
            f"{folder}: expected one sub-folder of images per class (class/image.png), found none"
        )
    indices = _indices(classes, labels, folder)
    return [(path, indices[name]) for name in classes for path in images_in(folder / name)]


def _indices(classes: Sequence[str], labels: Sequence[str], folder: Path) -> dict[str, int]:
    """Folder name → class: by label, by number, or in sorted order as torchvision does."""
    by_label = {label: index for index, label in enumerate(labels)}
    if set(classes) <= set(by_label):
        return {name: by_label[name] for name in classes}
    if all(name.isdecimal() and int(name) < len(labels) for name in classes):
        return {name: int(name) for name in classes}
    if len(classes) == len(labels):
        print("assumed: folders in sorted order are the classes in order", file=sys.stderr)
        return {name: index for index, name in enumerate(classes)}
    odd = [name for name in classes if name not in by_label]
    raise InputError(
        f"{folder}: {len(odd)} of its {len(classes)} folders are no labels of this model "
        f"({', '.join(odd[:3])}), and it has {len(labels)} classes; name folders by label or index"
    )
