"""Work in a process of its own, which may crash, hang and eat memory."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fuzzing.target import Outcome, Target, examine

__all__ = ["INPUT", "isolated", "watched"]

T = TypeVar("T")

# Name of the file with the input that is being examined, in the folder of the work.
INPUT = "input.bin"
# Forked, so that what the target has prepared and imported is there at once.
_processes = multiprocessing.get_context("fork")


def isolated(work: Callable[[], T], folder: Path) -> T | Outcome:
    """Return the result of `work`, or the outcome ``hang`` or ``crash`` of its last input.

    Args:
        folder: a folder for the log and the result; `work` examines inputs by `watched` in it.
    """
    process = _processes.Process(target=_run, args=(work, folder), daemon=True)
    process.start()
    process.join()
    status = process.exitcode or 0
    if status == 0:
        result: T = pickle.loads((folder / "result").read_bytes())
        return result
    log = (folder / "log").read_bytes()[-4000:].decode("utf-8", "replace")
    if log.startswith("Timeout") or "\nTimeout (" in log:
        return Outcome(kind="hang", place=_innermost(log), detail=log)
    name = signal.Signals(-status).name if status < 0 else f"exit {status}"
    return Outcome(kind="crash", place=f"{name} {_innermost(log)}", detail=log)


def watched(target: Target, data: bytes, folder: Path) -> Outcome:
    """Examine an input; a process that takes too long ends, and its log says where it was."""
    (folder / INPUT).write_bytes(data)
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    faulthandler.dump_traceback_later(target.seconds, exit=True)
    try:
        return examine(target, data, work)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _run(work: Callable[[], object], folder: Path) -> None:
    """Work in the child: all that it prints goes to a file."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    faulthandler.enable(all_threads=False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    (folder / "result").write_bytes(pickle.dumps(work()))
    os._exit(0)


def _innermost(log: str) -> str:
    """The first frame of faulthandler's traceback that is not this package's."""
    for line in log.splitlines():
        if line.startswith("  File ") and "fuzzing" not in line:
            parts = line.split('"')
            return f"{Path(parts[1]).name}{parts[2].replace(', line ', ':')}"
    return ""
