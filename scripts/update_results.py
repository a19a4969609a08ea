# SPDX-License-Identifier: Apache-2.0
"""Write the measured tables of docs/results.md anew from the records beside it.

Run from the repository root after replacing a record, or after a change of the reports::

    python scripts/update_results.py

A place in the page looks like this, and what is between the two lines is replaced::

    <!-- levit bench report measurements/paper.json.gz, with machine -->
    <!-- end of report -->
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from levit.benchmarks.record_file import read_record
from levit.benchmarks.report.markdown import to_markdown

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"

_PLACE = re.compile(
    r"(<!-- levit bench report (?P<record>[\w./-]+)(?P<machine>, with machine)? -->\n)"
    r".*?(<!-- end of report -->)",
    re.DOTALL,
)


def updated(text: str, folder: Path) -> str:
    """The page with every place filled from its record, which lies in `folder`."""

    def fill(place: re.Match[str]) -> str:
        record = read_record(folder / place["record"])
        tables = to_markdown(record, level=3, machine=place["machine"] is not None)
        return f"{place[1]}\n{tables}\n{place[4]}"

    return _PLACE.sub(fill, text)


def main() -> int:
    before = PAGE.read_text(encoding="utf-8")
    after = updated(before, PAGE.parent)
    PAGE.write_text(after, encoding="utf-8")
    print("changed" if after != before else "as it was")
    return 0


if __name__ == "__main__":
    sys.exit(main())
