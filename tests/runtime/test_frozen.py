"""A program that PyInstaller has frozen answers, without the installation that it came from."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import levit
from levit.pyinstaller import hook_folders

ROOT = Path(levit.__file__).resolve().parents[1]

PROGRAM = """
import sys
from levit import Predictor
for artifact in sys.argv[2:]:
    with Predictor(artifact, threads=1) as predictor:
        print(predictor(sys.argv[1]).label, sys.frozen)
"""

# Large, and of no use to it.
LEFT_OUT = ("torch", "openvino", "scipy", "matplotlib", "tensorrt", "onnx", "sklearn", "IPython")


def test_pyinstaller_finds_the_hook_by_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (entry,) = re.findall(
        r'\[project\.entry-points\.pyinstaller40\]\nhook-dirs = "([\w.]+:\w+)"', text
    )
    module, _, function = entry.partition(":")
    (folder,) = getattr(importlib.import_module(module), function)()
    assert (Path(folder) / "hook-levit.py").is_file()


@pytest.mark.frozen
@pytest.mark.native
@pytest.mark.slow
def test_a_frozen_program_answers(tiny_artifact, make_artifact, digit_paths, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    (hooks,) = hook_folders()
    places = ["--distpath", "dist", "--workpath", "work", "--specpath", "."]
    options = ["--additional-hooks-dir", hooks, "--paths", str(ROOT), "--log-level", "ERROR"]
    excluded = [word for name in LEFT_OUT for word in ("--exclude-module", name)]
    subprocess.run(
        [sys.executable, "-m", "PyInstaller", *places, *options, *excluded, "program.py"],
        cwd=tmp_path, check=True, timeout=600,
    )  # fmt: skip
    native = make_artifact("frozen-native", target="native")
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "LEVIT"))}
    done = subprocess.run(
        [tmp_path / "dist/program/program", digit_paths[3], tiny_artifact, native],
        capture_output=True, text=True, timeout=120, env=kept, cwd="/",
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("3 True\n" * 2, "")
