"""Libraries that are not ours, or no longer: one line that says why, and a process that goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
