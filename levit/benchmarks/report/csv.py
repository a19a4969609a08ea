"""The record as a spreadsheet: one row a measurement, units in the names of columns."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, Final

from levit.benchmarks.intervals import Interval
from levit.benchmarks.measured import STAGES
from levit.benchmarks.record import Record
from levit.benchmarks.summary import Summary, summaries
from levit.errors import printable
from levit.whole_file import write_whole

__all__ = ["to_csv", "write_csv"]

# A spreadsheet would take a text that begins so for a formula (after spaces and quotes), and so one
# behind a semicolon where that separates cells: = + - @, and all that NFKC makes one of these.
_FORMULA: Final = re.compile('(?:^|(?<=;))(?=[ "]*[=+\\-@⁺⁼₊₌\ufb29﹢﹣﹦﹫＋－＝＠])')


def write_csv(record: Record, path: Path | str) -> None:
    """Write `to_csv` at `path`.

    Raises:
        ConfigError: the path cannot be written.
    """
    write_whole(path, to_csv(record).encode("utf-8", "replace"))


def to_csv(record: Record) -> str:
    """A heading and a row for each measurement; what was not measured is empty.

    Numbers have all their digits. A text that a spreadsheet would compute begins with an
    apostrophe. Characters that cannot be seen (line breaks, tabs, U+202E) are written as escapes.
    """
    rows = [_cells(item) for item in summaries(record)]
    text = io.StringIO()
    # Every row has the same columns; without rows there is still the heading.
    writer = csv.DictWriter(text, fieldnames=_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _safe(value) for key, value in row.items()})
    return text.getvalue()


def _intervals(name: str) -> tuple[str, str, str]:
    return (name, f"{name}_low", f"{name}_high")


_COLUMNS: Final = (
    *("contender", "model", "engine", "title", "runtime", "kind", "precision"),
    *("image_height_px", "image_width_px", "macs", "parameters", "top1_percent"),
    *("protocol", "status", "reason", "error_relative"),
    *("batch", "threads", "streams", "device", "settings_json", "rounds", "calls"),
    *_intervals("images_per_s"),
    "paper_images_per_s",
    *_intervals("latency_p50_ms"),
    *_intervals("latency_p90_ms"),
    *_intervals("latency_p99_ms"),
    *(f"{stage}_ms" for stage in STAGES),
    *_intervals("cpu_ms"),
    *_intervals("time_over_cpu"),
    *_intervals("start_s"),
    *_intervals("peak_mb"),
    *_intervals("gflop_per_s"),
    "ceiling_fraction",
    "register_fraction",
)


def _cells(item: Summary) -> dict[str, Any]:
    c, m = item.contender, item.measurement
    return {
        "contender": c.name,
        "model": c.model,
        "engine": c.engine,
        "title": c.title,
        "runtime": c.runtime,
        "kind": c.kind,
        "precision": c.precision,
        "image_height_px": c.image_size[0],
        "image_width_px": c.image_size[1],
        "macs": c.macs,
        "parameters": c.parameters,
        "top1_percent": c.top1,
        "protocol": m.protocol,
        "status": m.status,
        "reason": m.reason,
        "error_relative": m.error,
        **{key: m.settings.get(key) for key in ("batch", "threads", "streams", "device")},
        "settings_json": json.dumps(dict(m.settings), sort_keys=True, default=str),
        "rounds": len(m.rounds),
        "calls": sum(len(r.values) for r in m.rounds),
        **_three("images_per_s", item.images_per_s),
        "paper_images_per_s": item.paper_images_per_s,
        **_three("latency_p50_ms", item.latency_ms.get(50)),
        **_three("latency_p90_ms", item.latency_ms.get(90)),
        **_three("latency_p99_ms", item.latency_ms.get(99)),
        **{f"{stage}_ms": item.stages_ms.get(stage) for stage in STAGES},
        **_three("cpu_ms", item.cpu_ms),
        **_three("time_over_cpu", item.time_over_cpu),
        **_three("start_s", item.start_s),
        **_three("peak_mb", item.peak_mb),
        **_three("gflop_per_s", item.gflop_per_s),
        "ceiling_fraction": item.ceiling_fraction,
        "register_fraction": item.register_fraction,
    }


def _three(name: str, interval: Interval | None) -> dict[str, float | None]:
    values = interval or (None, None, None)
    return dict(zip(_intervals(name), values, strict=True))


def _safe(value: Any) -> Any:
    return _FORMULA.sub("'", printable(value)) if isinstance(value, str) else value
