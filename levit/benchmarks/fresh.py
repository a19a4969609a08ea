"""Fresh processes: how long to the first answer, and how much memory for it.

Each process runs the few lines that a user of the engine would write (its module's ``script``),
from ``python -c`` to a printed class.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from levit.benchmarks.worker_process import WorkerFailedError, child_environment
from levit.interruption import deferred

__all__ = ["FirstPrediction", "first_prediction"]

_TIMEOUT_S = 300

# The kernel's own high-water mark of this program's memory. getrusage would hold that of the
# process that started this one, if that was larger.
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


@dataclass(frozen=True, kw_only=True)
class FirstPrediction:
    """What one process did.

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
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        environment = child_environment(threads)
        process: subprocess.Popen[bytes] | None = None
        try:
            started = time.perf_counter_ns()
            with deferred():
                process = _start(script, picture, folder, log, environment)
            deadline = time.monotonic() + _TIMEOUT_S
            assert process.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                data = b""
                answered = 0
                while (found := _LAST_LINES.search(data)) is None:
                    if not selector.select(max(0.0, deadline - time.monotonic())):
                        raise WorkerFailedError(f"gave no answer in {_TIMEOUT_S} s")
                    part = os.read(process.stdout.fileno(), 4096)
                    if not part:
                        break
                    # Of the last line, a tenth of a millisecond after the answer's; libraries
                    # may have printed before.
                    answered = time.perf_counter_ns()
                    data += part
            if found is not None:
                return FirstPrediction(
                    elapsed_ns=answered - started, top1=int(found[1]), peak_bytes=int(found[2])
                )
            status = process.wait()
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
            said = said or ["it printed no class"]
            raise WorkerFailedError(f"its process ended with status {status}: {said[-1]}")
        finally:
            if process is not None:
                _end(process)


def _start(
    script: str, picture: Path, folder: str, log: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-u", "-P", "-c", script + _PEAK, str(picture)],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise WorkerFailedError(f"its process cannot be started ({error.strerror})") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    # Some of them keep helpers of their own (compilers), which must not outlive them.
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
