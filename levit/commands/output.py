"""Printing: tables and JSON to stdout, progress to stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from levit.errors import printable

__all__ = ["Progress", "print_json", "print_table", "printable"]


def print_json(value: Any) -> None:
    """One JSON document, of what JSON has: numbers that are not finite become null."""
    value = _finite(value)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
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
    """Columns as wide as their widest cell; numbers, or the columns in `right`, to the right."""
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not lines:
        return
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    right = right or [
        bool(rows) and all(_is_number(row[i]) for row in rows if row[i]) and any(r[i] for r in rows)
        for i in range(len(widths))
    ]
    for line in lines:
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ]
        print(printable("  ".join(cells).rstrip()))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


_REDRAW_S = 0.1


class Progress:
    """A bar on a terminal, nothing in a pipe."""

    def __init__(self, total: int, title: str) -> None:
        self._total = max(total, 1)
        self._title = title
        self._done = 0
        self._started = time.monotonic()
        self._shown = sys.stderr.isatty()
        self._drawn = -math.inf

    def advance(self, count: int = 1, title: str | None = None) -> None:
        """`count` more are done."""
        self._done = min(self._done + count, self._total)
        self._title = title or self._title
        now = time.monotonic()
        if self._shown and (now - self._drawn >= _REDRAW_S or self._done == self._total):
            self._drawn = now
            filled = 24 * self._done // self._total
            elapsed = now - self._started
            left = elapsed / self._done * (self._total - self._done) if self._done else 0.0
            bar = "█" * filled + "·" * (24 - filled)
            sys.stderr.write(f"\r\x1b[K{bar} {self._done}/{self._total} {self._title} {left:.0f} s")
            sys.stderr.flush()

    def clear(self) -> None:
        """Make room for a line of output; a later step draws the bar again."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def close(self) -> None:
        """Take the bar away."""
        self.clear()
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
