"""Target that reads the record of a benchmark and shows all that it says."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hypothesis import strategies as st

from fuzzing.damage import damaged
from fuzzing.json_damage import damaged_json
from fuzzing.target import WrongAnswerError
from levit.benchmarks.compare import compare
from levit.benchmarks.record import Record
from levit.benchmarks.record_file import from_json, read_record, to_json
from levit.benchmarks.report.csv import to_csv
from levit.benchmarks.report.html import to_html
from levit.benchmarks.report.markdown import to_markdown
from levit.commands.bench_tables import print_comparison, print_record, record_json
from levit.commands.output import print_json
from levit.errors import ConfigError

__all__ = ["RecordTarget"]

_RUNS: Final = Path(__file__).parents[3] / "docs" / "measurements"
# Text that a terminal obeys, that turns others round, that is a formula or markup.
_FOREIGN: Final = (
    *("\x9b2J", "\u202egnp", "\x1b]0;x\x07", "=1+1", "\n＝1", "</td><script>", "\udcff"),
)


class RecordTarget:
    """`levit bench report` and ``compare`` of a record from elsewhere, in every form of output."""

    name = "record"
    memory_bytes = 1 << 30
    seconds = 60.0

    def __init__(self) -> None:
        self._texts: list[str] = []

    def prepare(self, folder: Path) -> None:
        for path in sorted(_RUNS.glob("zen5-*.json.gz")):
            values = json.loads(gzip.decompress(path.read_bytes()))
            self._texts.append(json.dumps(_shortened(values)))

    def seeds(self) -> Sequence[bytes]:
        return [text.encode() for text in self._texts]

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        text = data.decode()
        foreign = json.dumps(list(_FOREIGN))
        plain = damaged_json(text, [foreign, *self._texts])
        packed = gzip.compress(data, 1, mtime=0)
        return st.one_of(*[plain] * 8, damaged(data), damaged(packed))

    def attempt(self, data: bytes, folder: Path) -> Any:
        path = folder / "record.json"
        path.write_bytes(data)
        record = read_record(path)
        with contextlib.suppress(ConfigError):  # nothing in it that could be compared
            return record, _outputs(record, compared=True)
        return record, _outputs(record, compared=False)

    def judge(self, data: bytes, folder: Path, answer: tuple[Record, Mapping[str, str]]) -> None:
        record, outputs = answer
        for name, text in outputs.items():
            if not all(line.isprintable() for line in text.split("\n")):
                raise WrongAnswerError(f"text: {name} holds characters that cannot be seen")
        for name in ("report json", "compare json"):
            if name in outputs:
                json.loads(outputs[name], parse_constant=_refused)
        rows = list(csv.reader(io.StringIO(outputs["csv"])))
        if len({len(row) for row in rows}) != 1 or len(rows) != 1 + len(record.measurements):
            raise WrongAnswerError("csv: its rows are not the measurements")
        if from_json(outputs["record"]) != record:
            raise WrongAnswerError("record: it is another one when written and read")


def _shortened(values: dict[str, Any]) -> dict[str, Any]:
    """Keep a few contenders and values of a run, so that a document has few tokens."""
    kept = [*values["contenders"][:2], *values["contenders"][-1:]]
    names = {contender["name"] for contender in kept}
    measured = [m for m in values["measurements"] if m["contender"] in names][:5]
    for measurement in measured:
        measurement["scan"] = measurement["scan"][:1]
        measurement["rounds"] = measurement["rounds"][:2]
        for turn in measurement["rounds"]:
            turn["values"] = turn["values"][:2]
            turn["stages"] = {stage: times[:2] for stage, times in turn["stages"].items()}
    values["noise"]["samples"] = values["noise"]["samples"][:4]
    return {**values, "contenders": kept, "measurements": measured}


def _outputs(record: Record, *, compared: bool) -> dict[str, str]:
    found = {
        "html": to_html(record),
        "markdown": to_markdown(record),
        "csv": to_csv(record),
        "record": to_json(record),
        "report": _printed(print_record, record),
        "report json": _printed(print_json, record_json(record)),
    }
    if compared:
        comparison = compare(record, record)
        found["compare"] = _printed(print_comparison, comparison)
        found["compare json"] = _printed(print_json, dict(vars(comparison), changes=()))
    return found


def _printed(show: Any, value: Any) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n")
    before, sys.stdout = sys.stdout, stream
    try:
        show(value)
    finally:
        sys.stdout = before
    stream.seek(0)
    return stream.read()


def _refused(word: str) -> None:
    raise WrongAnswerError(f"json: it holds {word}")
