"""The pages of docs/measurements are what the tool makes of the records beside them."""

import pytest
import update_results
from snippets import ROOT

RECORDS = sorted(update_results.FOLDER.glob("*.json.gz"))
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_page_says_what_its_record_says(record):
    page = record.with_name(record.name.replace(".json.gz", ".md"))
    made = update_results.page_of(record)
    assert page.read_text(encoding="utf-8") == made, "run scripts/update_results.py"
    assert "interrupted before its end" not in made
    assert f"measurements/{page.name}" in RESULTS


def test_there_are_records():
    assert RECORDS
