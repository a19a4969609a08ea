"""The measured tables of docs/results.md are what the tool makes of the records beside it."""

import update_results

from levit.benchmarks.record_file import read_record


def test_the_page_is_what_the_records_say():
    page = update_results.PAGE
    text = page.read_text(encoding="utf-8")
    assert update_results.updated(text, page.parent) == text, "run scripts/update_results.py"


def test_every_record_is_shown():
    page = update_results.PAGE
    text = page.read_text(encoding="utf-8")
    records = sorted((page.parent / "measurements").glob("*.json.gz"))
    assert records
    for path in records:
        assert f"levit bench report measurements/{path.name}" in text
        assert read_record(path).status == "complete"
