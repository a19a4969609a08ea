"""What tests of checkpoints ask: equal bit for bit, refused in one line, without effects."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from levit.errors import CheckpointError
from levit.models.checkpoint import read_checkpoint

DATA = Path(__file__).parent.parent / "data" / "pth"


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    return message


def outcome(path):
    """The checkpoint, or the message that refuses it."""
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        return str(error)


_events = None


def _listen(event, arguments):
    if _events is not None:
        _events.append((event, arguments))


sys.addaudithook(_listen)

# What Python itself reports of code, classes, processes, connections and changes of files.
_EFFECTS = ("import", "exec", "compile", "pickle.", "os.", "subprocess.", "socket.", "shutil.",
            "tempfile.", "ctypes.", "marshal.", "code.", "builtins.")  # fmt: skip
# Python reports ast.parse as "compile", though it makes a tree and no code; code that runs is an
# "exec".
_HARMLESS = ("os.listdir", "os.scandir", "compile")


@contextmanager
def without_effects():
    """Fail if anything is executed, imported or written meanwhile; the interpreter tells."""
    global _events
    read_checkpoint(DATA / "no_checksums.pth")  # what we import, we have
    b"a".decode("cp437")  # and zipfile, for names that are not marked as UTF-8
    _events = events = []
    try:
        yield
    finally:
        _events = None
    for event, arguments in events:
        assert not event.startswith(_EFFECTS) or event in _HARMLESS, (event, arguments)
        if event == "open":
            assert not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), arguments
