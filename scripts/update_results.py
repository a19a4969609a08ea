# SPDX-License-Identifier: Apache-2.0
"""Write docs/measurements/NAME.md for every record NAME.json.gz beside it.

Run from the repository root after a record was added or the reports have changed::

    python scripts/update_results.py
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from levit.benchmarks.record_file import read_record
from levit.benchmarks.report.markdown import to_markdown

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "measurements"


def page_of(record: Path) -> str:
    """The page of one record."""
    page = (
        f"# {record.name.removesuffix('.json.gz')}\n\n"
        f"Made by `scripts/update_results.py` from [{record.name}]({record.name}), which holds "
        f"every raw value. [Measuring](../benchmarking.md) defines the protocols, and "
        f"[Results](../results.md) reads the tables.\n\n"
        f"{to_markdown(read_record(record))}"
    )
    return "".join(f"{_wrapped(line)}\n" for line in page.splitlines())


def _wrapped(line: str) -> str:
    """A line of prose on lines of at most 100 characters; tables and headings as they are."""
    if line.startswith(("|", "#")):
        return line
    return textwrap.fill(line, 100, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    for record in sorted(FOLDER.glob("*.json.gz")):
        page = FOLDER / record.name.replace(".json.gz", ".md")
        after = page_of(record)
        changed = not page.exists() or page.read_text(encoding="utf-8") != after
        page.write_text(after, encoding="utf-8")
        print(f"{page.name}: {'changed' if changed else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
