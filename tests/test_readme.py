"""What the documents promise is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_waits_to_be_filled_in(page):
    assert not re.search(r"\b(RESULTS|EXPORT s|COLD s|UINT8|TODO|TBD|XXX)\b", page.read_text())


def test_paths_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.])((?:levit|scripts|docs|tests)/[\w./-]+)", text):
        assert (ROOT / path).exists(), path


def test_the_readme_shows_what_ships():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    images = list((ROOT / "levit/data/levit_digits/images").glob("*/*.png"))
    assert len(images) == 540
    assert "540 held-out digits" in text


def test_the_package_data_is_small():
    folder = ROOT / "levit" / "data" / "levit_digits"
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 1_500_000
