"""Files that describe the package agree with it."""

import re
from pathlib import Path

import levit

ROOT = Path(__file__).resolve().parents[1]


def test_the_citation_has_the_version_of_the_package():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", text, re.MULTILINE) == [levit.__version__]


def test_the_version_of_the_distribution_is_read_from_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in text
    assert f'"{levit.__version__}"' not in text


def test_every_python_of_the_classifiers_is_one_that_is_required():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (oldest,) = re.findall(r'requires-python = ">=3\.(\d+)"', text)
    minors = [
        int(minor) for minor in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', text)
    ]
    assert minors == list(range(int(oldest), max(minors) + 1))


def test_contributing_names_paths_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w/.])((?:levit|scripts|docs|tests|\.ci)/[\w./-]*\w)", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) > 10
