"""README and docs keep their form, and their links lead somewhere."""

import re

import pytest
from snippets import ROOT, pages

PAGES = sorted({*pages(), *ROOT.glob("*.md")})
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_waits_to_be_filled_in(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"\b(RESULTS|EXPORT s|COLD s|UINT8|TODO|TBD|XXX)\b", text)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_lines_fit_a_terminal(page):
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= 100 or line.lstrip().startswith("|"), f"{page}:{number}"


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130
    assert all(len(line) <= 100 for line in README.splitlines())


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_paths_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.])((?:levit|scripts|docs|tests)/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path


def test_the_readme_shows_what_ships():
    images = list((ROOT / "levit/data/levit_digits/images").glob("*/*.png"))
    assert len(images) == 540
    assert "540 held-out digits" in README


def test_the_package_data_is_small():
    folder = ROOT / "levit" / "data" / "levit_digits"
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 1_500_000
