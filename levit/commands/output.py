"""Everything that commands print: lines, tables and JSON, whatever names and values are in them.

Names of files, labels, nodes and contenders come from elsewhere. Only this module and the line of
`levit.commands.progress` write to a terminal, so that all of it passes through `printable`.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from levit.errors import printable
from levit.json_values import printable_json

__all__ = ["print_json", "print_line", "print_note", "print_table"]


def print_line(text: str = "", *, flush: bool = False) -> None:
    """Print one line to stdout."""
    print(printable(text), flush=flush)


def print_note(text: str) -> None:
    """Print one line to stderr, if anybody is there to read it."""
    if sys.stderr is not None:  # closed by the caller: print would take stdout
        with contextlib.suppress(OSError, ValueError):
            print(printable(text), file=sys.stderr)


def print_json(value: Any) -> None:
    """Print one JSON document; numbers that are not finite become null, as JSON has none."""
    value = _finite(value)
    text = printable_json(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, allow_nan=False)
    print(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(
    rows: Sequence[Sequence[str]],
    header: Sequence[str] | None = None,
    right: Sequence[bool] | None = None,
) -> None:
    """Print columns as wide as their widest cell.

    Numbers, or else the columns marked in `right`, stand to the right. The last cell of a row that
    has fewer cells than others is as wide as it likes.
    """
    lines = [[printable(cell) for cell in row] for row in ([header] if header else []) + [*rows]]
    if not lines:
        return
    count = max(map(len, lines))
    columns = [
        [line[i] for line in lines if i < len(line) - (len(line) < count)] for i in range(count)
    ]
    widths = [max(map(len, column)) for column in columns]
    right = right or [_are_numbers(column[1:] if header else column) for column in columns]
    for line in lines:
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=False)
        ]
        print("  ".join(cells).rstrip())


def _are_numbers(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell]
    return bool(filled) and all(map(_is_number, filled))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
