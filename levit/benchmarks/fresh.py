"""Fresh processes: the time to the first answer of each, and its memory.

Each process runs the few lines that a user of the engine would write (its module's ``script``),
from ``python -c`` to a printed class.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from levit.benchmarks.worker_process import (
    WorkerFailedError,
    end_child,
    output_of,
    said_last,
    start_child,
)
from levit.interruption import deferred

__all__ = ["FirstPrediction", "first_prediction"]

_TIMEOUT_S = 300

# The kernel's high-water mark of this program's memory, which psutil does not tell. getrusage has
# that of the process that started this one, if that was larger.
_PEAK = """
import sys
try:
    status = open("/proc/self/status").read()
    print("peak", int(status.split("VmHWM:")[1].split()[0]) * 1024)
except (OSError, IndexError):
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("peak", peak if sys.platform == "darwin" else peak * 1024)
"""

_LAST_LINES = re.compile(rb"^(\d+)\npeak (\d+)\n", re.MULTILINE)


class FirstPrediction(NamedTuple):
    """Result of one process.

    Attributes:
        elapsed_ns: from before it was started until its answer could be read.
        top1: its answer.
        peak_bytes: resident memory at its highest.
    """

    elapsed_ns: int
    top1: int
    peak_bytes: int


def first_prediction(script: str, picture: Path, threads: int) -> FirstPrediction:
    """Run a script of an engine once.

    Raises:
        WorkerFailedError: it failed, printed no class, or took five minutes.
    """
    words = ["-u", "-c", script + _PEAK, str(picture)]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        process: subprocess.Popen[bytes] | None = None
        try:
            started = time.perf_counter_ns()
            with deferred():
                process = start_child(words, threads, log, stdin=subprocess.DEVNULL, folder=folder)
            data = b""
            for part in output_of(process, _TIMEOUT_S):
                # Of the last line, a tenth of a millisecond after the answer's; libraries may have
                # printed before.
                answered = time.perf_counter_ns()
                data += part
                if found := _LAST_LINES.search(data):
                    return FirstPrediction(answered - started, int(found[1]), int(found[2]))
            status = process.wait()
            said = said_last(log) or "it printed no class"
            raise WorkerFailedError(f"its process ended with status {status}: {said}")
        finally:
            if process is not None:
                end_child(process)
