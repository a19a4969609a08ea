"""Targets that do what levit must not, run as `scripts/fuzz.py` runs a target.

A process of its own, because it forks. Prints {behaviour: [kind, place]} as JSON.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import fuzz
from fuzzing.isolation import isolated, watched
from fuzzing.target import WrongAnswerError
from hypothesis import strategies as st

from levit.errors import InputError


def _warn():
    namespace = {"__name__": "levit.made_up", "warnings": warnings}
    exec(compile("warnings.warn('odd')", "/site/levit/made_up.py", "exec"), namespace)


def _refuse_for_memory():
    try:
        bytearray(1 << 40)
    except MemoryError as error:
        raise InputError("damaged image (MemoryError)") from error


class _UnprintableError(InputError):
    def __str__(self):
        return "two\nlines"


BEHAVIOURS = {
    "answer": lambda: None,
    "refuse": lambda: (_ for _ in ()).throw(InputError("no, because")),
    "raise": lambda: [][0],
    "two lines": lambda: (_ for _ in ()).throw(_UnprintableError()),
    "warn": _warn,
    "eat memory": lambda: bytearray(1 << 40),
    "refuse for memory": _refuse_for_memory,
    "spin": lambda: any(iter(int, 1)),
    "sleep": lambda: time.sleep(3600),
    "abort": os.abort,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(3),
    "answer again": lambda: None,
}


class Misbehaving:
    name = "misbehaving"
    memory_bytes = 256 << 20
    seconds = 2

    def attempt(self, data, folder):
        print("to be swallowed")
        behaviour = BEHAVIOURS.get(data.decode())
        return behaviour() if behaviour else "wrong"

    def judge(self, data, folder, answer):
        if answer == "wrong":
            raise WrongAnswerError("value: it is not what it should be")


class Fragile(Misbehaving):
    """Fails on every input with a byte beyond ASCII, in a way of its own."""

    def __init__(self, fail):
        self.name, self._fail = "fragile", fail

    def seeds(self):
        return [b"plain", b"words"]

    def damaged(self, data):
        return st.binary(max_size=40).map(lambda more: data + more)

    def attempt(self, data, folder):
        return None if data.isascii() else self._fail()

    def judge(self, data, folder, answer):
        pass


def found(fail, folder):
    """(tally's failures, inputs that are kept) of a run of `scripts/fuzz.py`."""
    arguments = argparse.Namespace(count=300, seed=1, output=folder / "kept")
    tally = fuzz.run(Fragile(fail), arguments, folder)
    kept = [path.read_bytes() for path in sorted(arguments.output.glob("*.bin"))]
    return [list(map(list, tally.smallest)), [data.decode("latin-1") for data in kept]]


if __name__ == "__main__":
    outcomes = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in (*BEHAVIOURS, "answer wrongly"):
            work = partial(watched, Misbehaving(), name.encode(), Path(scratch))
            outcome = isolated(work, Path(scratch))
            outcomes[name] = [outcome.kind, outcome.place]
    with tempfile.TemporaryDirectory() as scratch:
        outcomes["search raises"] = found(BEHAVIOURS["raise"], Path(scratch))
    with tempfile.TemporaryDirectory() as scratch:
        outcomes["search aborts"] = found(os.abort, Path(scratch))
    json.dump(outcomes, sys.stdout)
