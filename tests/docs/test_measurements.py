"""The pages of docs/measurements are what the tool makes of the records beside them."""

import pytest
import update_results
from snippets import ROOT

from levit.benchmarks.record_file import read_record

RECORDS = sorted(update_results.FOLDER.glob("*.json.gz"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_page_says_what_its_record_says(record):
    page = record.with_name(record.name.replace(".json.gz", ".md"))
    assert page.read_text(encoding="utf-8") == update_results.page_of(record), (
        "run scripts/update_results.py"
    )


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_every_record_is_whole_and_shown(record):
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"measurements/{record.name.replace('.json.gz', '.md')}" in results
    assert read_record(record).status == "complete"


def test_there_are_records():
    assert RECORDS
