"""Libraries that are not ours, or no longer: one line that says why, and a process that goes on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import levit
from levit.native.library import load_library

pytestmark = pytest.mark.native

LOAD = """
from levit.errors import LevitError
from levit.native.library import load_library
try:
    load_library()
except LevitError as error:
    print(type(error).__name__, error)
"""


def loaded(path):
    """Load a library in a process of its own; what it prints."""
    found = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**os.environ, "LEVIT_NATIVE_LIBRARY": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.count("\n") <= 1
    return found.stdout


@pytest.fixture(scope="module")
def library():
    return Path(load_library().functions._name).read_bytes()


@pytest.mark.parametrize("length", [0, 5, 16, 64, 100, 1000, 4096, 20_000])
def test_a_library_that_is_cut_short(library, tmp_path, length):
    path = tmp_path / "cut.so"
    path.write_bytes(library[:length])
    found = loaded(str(path))
    assert found.startswith("BackendUnavailableError the native engine cannot be loaded (")
    assert "pip install" in found
    assert "it is cut short" in found or length < 16


def test_a_library_for_another_cpu(library, tmp_path):
    path = tmp_path / "s390.so"
    path.write_bytes(library[:18] + b"\x16\x00" + library[20:])
    assert "(it is built for another CPU than " in loaded(str(path))


@pytest.mark.parametrize("path", ["/", "/etc/passwd", "libc.so.6", "no/such.so", "\udcff\udcfe"])
def test_no_library_of_ours(path):
    assert loaded(path).startswith("BackendUnavailableError the native engine cannot be loaded (")


def test_the_library_itself(library, tmp_path):
    path = tmp_path / "again.so"
    path.write_bytes(library)
    assert loaded(str(path)) == ""


def test_a_clone_without_a_library_says_so(tmp_path):
    """Python that is started in a clone takes levit from there, whatever has been installed."""
    package = Path(levit.__file__).parent
    shutil.copytree(package, tmp_path / "levit", ignore=shutil.ignore_patterns("*.so", "data"))
    environment = {**os.environ, "LEVIT_NATIVE_LIBRARY": ""}
    environment.pop("PYTHONPATH", None)
    for name, words in (
        (None, "this installation of levit has no native engine"),
        ("CMakeLists.txt", f"Python takes levit from the clone {tmp_path}, in which no native"),
    ):
        if name is not None:
            (tmp_path / name).touch()
        found = subprocess.run(
            [sys.executable, "-c", LOAD],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert found.startswith(f"BackendUnavailableError {words}")
        assert found.endswith(" .\n")
    assert "pip install --no-deps -e ." in found
