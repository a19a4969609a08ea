"""Scripts whose own tests need more than a test run has: they say so, and know all models."""

import json
import subprocess
import sys

import verify_published

from levit.cli import main


def test_verify_published_says_in_a_line_which_libraries_it_lacks(monkeypatch, capsys):
    monkeypatch.setattr(verify_published, "LIBRARIES", ("sys", "sklearn_", "timm_"))
    monkeypatch.setattr(sys, "argv", ["verify_published.py"])
    assert verify_published.main() == 1
    said = "error: missing sklearn_, timm_: pip install '.[dev,peers]'\n"
    assert capsys.readouterr() == ("", said)


def test_verify_published_needs_no_library_to_say_what_it_does():
    ran = subprocess.run(
        [sys.executable, "-W", "error", verify_published.__file__, "--help"],
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_verify_published_knows_all_that_is_listed_on_the_hub(capsys):
    assert main(["list", "--json"]) == 0
    listed = {row["hub_id"] for row in json.loads(capsys.readouterr().out)["models"]}
    names = [row.name for row in verify_published.published()]
    assert listed - {None} <= set(names)
    assert len(set(names)) == len(names) == 82
