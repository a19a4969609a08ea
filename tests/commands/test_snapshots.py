"""What users build on, as text: names, help, the manifest's keys. After a change that is meant,
rewrite them with LEVIT_UPDATE_SNAPSHOTS=1, and read the difference before committing it."""

import importlib
import json
import os
import re
from pathlib import Path

import pytest

from levit.artifact import MANIFEST_FILE
from levit.cli import build_parser

FOLDER = Path(__file__).parents[1] / "snapshots"
UPDATE = bool(os.environ.get("LEVIT_UPDATE_SNAPSHOTS"))

COMMANDS = {"levit": build_parser()}
COMMANDS |= {
    f"levit-{name}": parser
    for name, parser in COMMANDS["levit"]._subparsers._group_actions[0].choices.items()
}
NAMES = ("levit", "levit.errors", "levit.export")


def assert_as_stored(name, text, normal=lambda text: text):
    path = FOLDER / f"{name}.txt"
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"no snapshot {path}: run with LEVIT_UPDATE_SNAPSHOTS=1"
    stored = path.read_text(encoding="utf-8")
    assert normal(text) == normal(stored), "meant? then run with LEVIT_UPDATE_SNAPSHOTS=1"


def same_on_every_python(text):
    # Python versions break the lines of the usage differently, and 3.13 names a value once.
    usage, _, rest = text.partition("\n\n")
    rest = re.sub(r"(-[\w-]+) (\S+), (?=-[\w-]+ \2\b)", r"\1, ", rest)
    return " ".join(usage.split()) + "\n\n" + rest


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_as_stored(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    assert_as_stored(f"help-{name}", COMMANDS[name].format_help(), same_on_every_python)


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_as_stored(name):
    names = sorted(importlib.import_module(name).__all__)
    assert len(set(names)) == len(names)
    assert all(hasattr(importlib.import_module(name), public) for public in names)
    assert_as_stored(f"names-{name}", "\n".join(names) + "\n")


def keys(value, path=""):
    """Every key below a JSON value; the entries of a list as one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}{key}: {type(inner).__name__}"
            yield from keys(inner, f"{path}{key}.")
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner, f"{path}[].")


def test_keys_and_types_of_the_manifest_are_as_stored(tiny_artifact):
    values = json.loads((tiny_artifact / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert_as_stored("manifest-keys", "\n".join(dict.fromkeys(keys(values))) + "\n")


def test_no_snapshot_is_left_over():
    known = {f"help-{name}" for name in COMMANDS} | {f"names-{name}" for name in NAMES}
    assert {path.stem for path in FOLDER.glob("*.txt")} == {*known, "manifest-keys"}
