"""Labels of pictures in a CSV file: several classes for each, or values."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from levit.errors import InputError
from levit.json_values import shown
from levit.plain_file import read_plain

__all__ = ["LabelFile", "read_label_file"]

_NAMES: Final = ("label", "labels")
# 50,000 pictures with a column for each of 1,000 labels are 100 MB.
_MOST_BYTES: Final = 256 * 1024 * 1024

# The cells behind the image → a number for each output of the model.
_Read: TypeAlias = Callable[[Sequence[str]], list[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelFile:
    """Pictures and what is true of them.

    Attributes:
        images: paths.
        values: (N, outputs) float64: 1 where a picture has the label, else 0; or its values.
    """

    images: tuple[Path, ...]
    values: NDArray[np.float64]


def read_label_file(
    path: Path,
    folder: Path,
    labels: Sequence[str],
    *,
    decisions: bool,
    negative: str | None = None,
) -> LabelFile:
    """Read a CSV file in UTF-8 whose first line names its columns.

    ::

        image,labels            image,cat,dog           image,age
        a.jpg,cat;dog           a.jpg,1,1               a.jpg,31.5
        b.jpg,                  b.jpg,0,0               b.jpg,7

    Args:
        folder: of the images, which the lines name relative to it.
        labels: of the model's outputs. A column for each, in any order; or, of decisions, a column
            ``labels`` with names between semicolons. The column of a model of one output has any
            name.
        decisions: whether pictures have labels or not (0 or 1), or else values.
        negative: the name for pictures without the label of a model of one output.

    Raises:
        InputError: it cannot be read, or a line is not as it should be, with its number.
    """
    try:
        text = read_plain(path, _MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: labels cannot be read ({reason})") from error
    lines = _lines(text, path)
    first, header = next(lines, (0, []))
    if not header:
        raise InputError(_empty(path))
    with _on_line(path, first):
        read = _reader([name.strip() for name in header], labels, decisions, negative)
    numbers: dict[str, int] = {}
    images, values = [], []
    for number, row in lines:
        with _on_line(path, number):
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells where the first line has {len(header)}")
            images.append(_image(folder, row[0].strip(), number, numbers))
            values.append(np.asarray(read([cell.strip() for cell in row[1:]]), np.float64))
    if not values:
        raise InputError(_empty(path))
    return LabelFile(images=tuple(images), values=np.stack(values))


def _lines(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number, cells) of each line that holds any; one at a time, of which few are large."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise InputError(f"{path}: labels cannot be read ({error})") from error


def _empty(path: Path) -> str:
    return f"{path}: expected a first line such as 'image,labels', and more below it"


@contextmanager
def _on_line(path: Path, number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {error}") from error


def _image(folder: Path, name: str, number: int, before: dict[str, int]) -> Path:
    image = folder / name
    if Path(name).is_absolute() or os.path.normpath(name).split(os.sep, 1)[0] == os.pardir:
        raise ValueError(f"{shown(name)} is not inside {folder}: name images relative to it")
    try:
        found = bool(name) and "\0" not in name and image.is_file()
    except OSError:  # a name that is too long
        found = False
    if not found:
        raise ValueError(f"{folder} has no image {shown(name)}")
    # By the folder that it lies in: a/../b.jpg is b.jpg once more. Two links are two pictures.
    place = os.path.join(os.path.realpath(image.parent), image.name)
    if before.setdefault(place, number) != number:
        raise ValueError(f"{shown(name)} stands on line {before[place]} too")
    return image


def _reader(
    header: Sequence[str], labels: Sequence[str], decisions: bool, negative: str | None
) -> _Read:
    """Choose how the cells behind the image are read."""
    first, *columns = header
    if first != "image" or not columns:
        raise ValueError(f"expected columns 'image' and others, not {shown(','.join(header))}")
    if decisions and columns[0] in _NAMES and len(columns) == 1:
        if len(labels) == 1:
            return lambda cells: [_yes_or_no(cells[0], labels[0], negative)]
        return lambda cells: _named(cells[0], labels)
    if len(labels) == 1 and len(columns) == 1:
        return lambda cells: [_number(cells[0], decisions)]
    counted, known = Counter(columns), set(labels)
    odd = [name for name in columns if name not in known or counted[name] > 1]
    odd = odd or [name for name in labels if name not in counted]
    if odd or len(known) != len(labels):
        raise ValueError(
            f"expected a column for each of the model's {len(labels)} labels"
            f"{', or labels' if decisions else ''}: see {', '.join(map(shown, odd[:3]))}"
        )
    places = [columns.index(name) for name in labels]
    return lambda cells: [_number(cells[place], decisions) for place in places]


def _named(cell: str, labels: Sequence[str]) -> list[float]:
    names = {name.strip() for name in cell.split(";")} - {""}
    if odd := sorted(names - set(labels)):
        raise ValueError(f"{shown(odd[0])} is no label of this model")
    if several := sorted(name for name in names if labels.count(name) > 1):
        raise ValueError(f"{shown(several[0])} is the label of several classes of this model")
    return [float(label in names) for label in labels]


def _yes_or_no(cell: str, positive: str, negative: str | None) -> float:
    # Numbers first: the label of a model without names is "0", and means a yes.
    if cell in ("0", "1"):
        return float(cell)
    if cell == positive:
        return 1.0
    if cell == (negative or ""):
        return 0.0
    known = f"{positive!r} or {negative!r}" if negative else f"{positive!r} or nothing"
    raise ValueError(f"expected {known}, or 1 or 0, not {shown(cell)}")


def _number(cell: str, decision: bool) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (decision and number not in (0, 1)):
        raise ValueError(f"expected {'0 or 1' if decision else 'a number'}, not {shown(cell)}")
    return number
