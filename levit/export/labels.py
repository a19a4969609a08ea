"""Class names from a file: one per line, numbered lines, or JSON.

A file in another form is refused with a line that says what it looks like: taken line by line, it
would name the classes "0 brick" or "{".

===========================================  =====================================================
file                                         names
===========================================  =====================================================
``brick``                                    by line (timm's ``class_map`` text, ``labels.txt``)
``0 brick``, ``0: brick``, ``0,brick``       by number, which must be 0 to n - 1 in any order
``brick 0``, ``brick,0``                     the same
``n01440764 tench, Tinca tinca``             by line, without the WordNet numbers, which must rise
JSON: ``["brick"]``                          by position
JSON: ``{"0": "brick"}``, ``{"brick": 0}``   by number; also below ``id2label``, ``label2id``, …
===========================================  =====================================================
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from levit.errors import ConfigError
from levit.json_values import parsed, shown
from levit.plain_file import read_plain

__all__ = ["read_labels"]

# The 21,841 names of the whole of ImageNet take 0.6 MB.
_MOST_BYTES: Final = 16 * 2**20
_LONGEST: Final = 1_000

# Names of the list or table in a config of transformers (the first two), timm, or Ultralytics.
_KEYS: Final = ("id2label", "label2id", "label_names", "names", "classes", "labels")

_FIRST: Final = re.compile(r"(\d{1,9})(?:\s*[:;,=)\t]\s*|\.?\s+)(.+)", re.ASCII)
_LAST: Final = re.compile(r"(?<!\d)\d{1,9}$", re.ASCII)
_WORDNET: Final = re.compile(r"(n\d{8})(?:\s*[:;,=\t]\s*|\s+)(.+)", re.ASCII)

# What lines of other formats look like, and what to call them.
_OTHERS: Final[Mapping[str, re.Pattern[str]]] = {
    "a Git LFS pointer; run git lfs pull": re.compile(r"version https://git-lfs\b.*"),
    "YAML; write its names one per line": re.compile(r"(?:- .*|names:.*|---)"),
    "a label map of TensorFlow; write its names one per line": re.compile(r"item\s*\{.*"),
    "XML; write its names one per line": re.compile(r"<\?xml.*|<!.*"),
}


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the class names of a file in the order of the classes.

    ::

        read_labels(Path("labels.txt"))    # ("brick", "mortar")

    Equal names are taken as they are: two classes of ImageNet are called "crane".

    Raises:
        ConfigError: the file cannot be read, or is in no form of the table above.
    """
    text = _text(path)
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        names = _from_json(text, path)
    else:
        lines = [line.strip() for line in text.rstrip("\r\n").split("\n")]
        _check_lines(lines, path)
        names = _from_lines(lines, path)
    for place, name in enumerate(names):
        if any(unicodedata.category(char) == "Cc" and char != "\t" for char in name):
            raise ConfigError(f"{path}: label {place}, {shown(name)}, has a control character")
    if names and all(len(name) > 1 and name[0] == name[-1] and name[0] in "\"'" for name in names):
        raise ConfigError(f"{path}: these labels are all in quotes: leave the quotes out")
    return names


def _text(path: Path) -> str:
    try:
        data = read_plain(path, _MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: labels cannot be read ({error.strerror or error})") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"{path}: labels are in UTF-16: save them as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line} is not in UTF-8: save it as UTF-8") from error


def _check_lines(lines: Sequence[str], path: Path) -> None:
    """Raise where a line is empty, or is one of a format that is not read."""
    for number, line in enumerate(lines, 1):
        if not line:
            raise ConfigError(f"{path}: line {number} is empty; there is one label in each line")
        if len(line) > _LONGEST:
            raise ConfigError(f"{path}: line {number} has over {_LONGEST:,} characters, no label")
    first = "names:" if "names:" in lines else lines[0]
    for what, pattern in _OTHERS.items():
        if pattern.fullmatch(first):
            raise ConfigError(f"{path}: these labels look like {what}")


def _from_lines(lines: Sequence[str], path: Path) -> tuple[str, ...]:
    matches = _matches(_WORDNET, lines)
    # "n01440764 0" is a WordNet number as the name, and the number of its class behind it.
    if matches and not all(match[2].isdigit() for match in matches):
        numbers = [match[1] for match in matches]
        for line, (number, following) in enumerate(pairwise(numbers), 2):
            if following <= number:
                raise ConfigError(
                    f"{path}: line {line} has {following} after {number}; classes are in the order "
                    f"of their WordNet numbers"
                )
        return tuple(match[2] for match in matches)
    for pairs_of in (_numbered_lines, _lines_numbered_behind):
        if pairs := pairs_of(lines):
            names = _numbered(pairs, path, "line")
            matches = _matches(_WORDNET, names)
            return tuple(match[2] for match in matches) or names
        others = [index for index, _ in pairs_of(lines[1:])]
        if len(others) > 1 and _is_count(others):
            raise ConfigError(f"{path}: line 1 has no number, and the others have: leave it out")
    return tuple(lines)


def _numbered_lines(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Read ``0 brick``; nothing where a line is otherwise."""
    return [(int(match[1]), match[2]) for match in _matches(_FIRST, lines)]


def _lines_numbered_behind(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Read ``brick 0``; nothing where a line is otherwise, or the numbers are part of the names."""
    pairs, separators = [], set()
    for line in lines:
        number = _LAST.search(line)
        if number is None:
            return []
        before = line[: number.start()]
        name = before.rstrip(" \t:;,=")
        if name in (before, ""):
            return []
        pairs.append((int(number[0]), name))
        separators |= set(before[len(name) :])
    # "grade 0" and "grade 1", "Boeing 737" and "Airbus 320" are names.
    alike = len({name for _, name in pairs}) < len(pairs)
    if separators == {" "} and (alike or not _is_count([index for index, _ in pairs])):
        return []
    return pairs


def _is_count(indices: Sequence[int]) -> bool:
    return sorted(indices) == list(range(len(indices)))


def _matches(pattern: re.Pattern[str], lines: Sequence[str]) -> list[re.Match[str]]:
    """Match every line; an empty list where one does not."""
    matches = []
    for line in lines:
        match = pattern.fullmatch(line)
        if match is None:
            return []
        matches.append(match)
    return matches


def _numbered(pairs: Sequence[tuple[int, str]], path: Path, place: str) -> tuple[str, ...]:
    """Order names by their numbers.

    Args:
        place: what an entry is, for errors.
    """
    names: dict[int, str] = {}
    for entry, (index, name) in enumerate(pairs, 1):
        if index in names or index >= len(pairs):
            wrong = "twice" if index in names else f"beyond {len(pairs) - 1}"
            raise ConfigError(
                f"{path}: {len(pairs)} labels are numbered from 0 on, and {place} {entry} has "
                f"{index}, {wrong}; if the numbers belong to the names, write a JSON list"
            )
        names[index] = name
    return tuple(names[index] for index in range(len(pairs)))


def _from_json(text: str, path: Path) -> tuple[str, ...]:
    try:
        values = parsed(text, finite=False)
    except ValueError as error:
        raise ConfigError(
            f"{path}: begins as JSON and cannot be read as such ({error}); for one label per line "
            f"begin with a letter or a digit"
        ) from error
    if (names := _names_in(values, path)) is not None:
        return names
    tables = values if isinstance(values, dict) else {}
    keys = [key for key in _KEYS if tables.get(key)]
    names = _names_in(tables[keys[0]], path) if keys else None
    if names is not None:
        _check_others(names, keys, tables, path)
        return names
    raise ConfigError(
        f"{path}: no labels; JSON has them as a list of names, as numbers and names "
        f'({{"0": "brick"}}, {{"brick": 0}}), or as such below {", ".join(_KEYS)}'
    )


def _names_in(value: Any, path: Path) -> tuple[str, ...] | None:
    """Read a list of names, or a table of them and of their numbers; None where it is neither."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    if isinstance(value, dict) and (pairs := _numbers_and_names(value)):
        return _numbered(pairs, path, "entry")
    return None


def _check_others(
    names: Sequence[str], keys: Sequence[str], tables: Mapping[str, Any], path: Path
) -> None:
    """Raise where a second list or table of as many names has others."""
    for key in keys[1:]:
        if not isinstance(tables[key], (list, dict)) or len(tables[key]) != len(names):
            continue  # such as label2id of classes with equal names
        if _names_in(tables[key], path) not in (None, names):
            raise ConfigError(f"{path}: {keys[0]} and {key} hold other names: leave one out")


def _numbers_and_names(values: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Read a table of both, either way; nothing where it is none."""
    numbered = all(re.fullmatch(r"\d{1,9}", key, re.ASCII) for key in values)
    if numbered and all(isinstance(name, str) for name in values.values()):
        return [(int(key), name) for key, name in values.items()]
    if all(type(index) is int and index >= 0 for index in values.values()):
        return [(index, name) for name, index in values.items()]
    return []
