"""Targets that do what levit must not, run as `scripts/fuzz.py` runs a target.

A process of its own, because it forks. Prints {behaviour: [kind, place]} as JSON.
"""

import json
import os
import signal
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

from fuzzing.isolation import isolated, watched
from fuzzing.target import WrongAnswerError

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


if __name__ == "__main__":
    outcomes = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in (*BEHAVIOURS, "answer wrongly"):
            work = partial(watched, Misbehaving(), name.encode(), Path(scratch))
            outcome = isolated(work, Path(scratch))
            outcomes[name] = [outcome.kind, outcome.place]
    json.dump(outcomes, sys.stdout)
