import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from levit.artifact import MANIFEST_FILE, describe_files
from levit.cli import main
from levit.models.registry import digits_folder


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def levit(capfd, monkeypatch):
    """(*words) → a command's status, stdout and stderr, in this process."""
    # The command line sets these for its own process.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", os.environ.get("OPENBLAS_NUM_THREADS", "1"))
    monkeypatch.setenv("MKL_NUM_THREADS", os.environ.get("MKL_NUM_THREADS", "1"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*words):
        capfd.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def process():
    """(*words, **settings) → a finished process of the command line."""

    def run(*words, **settings):
        command = [sys.executable, "-m", "levit", *map(str, words)]
        # Buffered, as users have it.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        options = {"capture_output": True, "text": True, "timeout": 60, "env": environment}
        options.update(settings)
        return subprocess.run(command, **options)

    return run


@pytest.fixture(scope="session")
def digits():
    """The pictures that come with the package: a folder of folders 0 to 9."""
    return digits_folder() / "images"


@pytest.fixture(scope="session")
def digit(digits):
    """One picture of a seven."""
    return min((digits / "7").iterdir())


@pytest.fixture
def copy(tiny_artifact, tmp_path):
    """A copy of an artifact, to be damaged."""
    return shutil.copytree(tiny_artifact, tmp_path / "copy")


@pytest.fixture
def reseal():
    """(folder) → its manifest's hashes made to fit what is there."""

    def run(folder):
        values = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        values["files"] = describe_files(folder)
        (folder / MANIFEST_FILE).write_text(json.dumps(values), encoding="utf-8")

    return run


@pytest.fixture
def few(digits, tmp_path):
    """(names) → an ImageFolder with four pictures of each digit, under other names."""

    def make(names):
        folder = tmp_path / "photos"
        for digit, name in enumerate(names):
            (folder / name).mkdir(parents=True)
            for path in sorted((digits / str(digit)).iterdir())[:4]:
                shutil.copy(path, folder / name)
        return folder

    return make
