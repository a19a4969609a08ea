"""Processes that engines run in, as the runner sees them: they are asked, and may die.

A worker loads networks and answers many requests. A fresh process runs the few lines that a user
of the engine would write (its ``script``) once, from ``python -c`` to a printed class.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import levit
from levit.errors import LevitError
from levit.interruption import deferred

__all__ = ["WorkerFailedError", "WorkerProcess", "child_environment", "first_prediction"]

_FRESH_TIMEOUT_S: Final = 300
# An engine's libraries read one of these when they are loaded.
_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


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


class WorkerFailedError(LevitError):
    """A worker ended, or took too long."""


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a process that measures with so many threads."""
    package = str(Path(levit.__file__).resolve().parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        **{name: str(threads) for name in _THREAD_VARIABLES},
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONWARNINGS": "ignore",
        # No engine may ask the network for anything.
        "HF_HUB_OFFLINE": "1",
        "OPENVINO_TELEMETRY_OPT_OUT": "1",
    }


def _start_child(
    words: Sequence[str], threads: int, log: IO[bytes], *, stdin: int, folder: str | None = None
) -> subprocess.Popen[bytes]:
    """Start Python with these words; what it writes to stderr goes to `log`.

    Raises:
        WorkerFailedError: the system starts no process.
    """
    try:
        return subprocess.Popen(
            # Without the current folder on the path: a torch.py there is not torch.
            [sys.executable, "-P", *words],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env=child_environment(threads),
            start_new_session=True,  # Ctrl-C is for the runner
        )
    except OSError as error:
        raise WorkerFailedError(f"its process cannot be started ({error.strerror})") from error


def _output_of(process: subprocess.Popen[bytes], timeout_s: float) -> Iterator[bytes]:
    """Yield what a child writes, as it comes, until it closes its output.

    Raises:
        WorkerFailedError: `timeout_s` have passed.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            part = os.read(process.stdout.fileno(), 2**20)
            if not part:
                return
            yield part
    raise WorkerFailedError(f"gave no answer in {timeout_s:.0f} s")


def _said_last(log: IO[bytes]) -> str:
    """Return the last line of a child's log, or nothing."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _end_child(process: subprocess.Popen[bytes]) -> None:
    """End a child and all that it has started, whatever they do."""
    # Compilers outlive it otherwise, beside whatever is measured next. Once it has been waited for,
    # its number may be somebody else's.
    if process.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


class WorkerProcess:
    """One worker process.

    Args:
        threads: number that the engine's thread pools are told before they are loaded.
    """

    def __init__(self, threads: int) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed by close()
        words = ["-m", "levit.benchmarks.worker"]
        self._process = _start_child(words, threads, self._log, stdin=subprocess.PIPE)
        self._buffer = b""

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for its reply.

        Raises:
            WorkerFailedError: the process ended or did not answer in time; it is gone then.
        """
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            raise WorkerFailedError("its process has ended before")
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        try:
            for part in _output_of(self._process, timeout_s):
                self._buffer += part
                if b"\n" in part:
                    break
            else:
                raise self._ended()
        except WorkerFailedError:
            self.close()
            raise
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _ended(self) -> WorkerFailedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        status = self._process.poll()
        said = _said_last(self._log)
        self.close()
        if status is None:
            return WorkerFailedError("its process closed its output and did not end")
        how = f"signal {-status}" if status < 0 else f"status {status}"
        if status == -signal.SIGKILL:
            return WorkerFailedError(f"its process ended with {how}: is there enough memory?")
        return WorkerFailedError(f"its process ended with {how}: {said}")

    def close(self) -> None:
        """End the process, whatever it does."""
        _end_child(self._process)
        self._log.close()


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
                process = _start_child(words, threads, log, stdin=subprocess.DEVNULL, folder=folder)
            data = b""
            for part in _output_of(process, _FRESH_TIMEOUT_S):
                # Of the last line, a tenth of a millisecond after the answer's; libraries may have
                # printed before.
                answered = time.perf_counter_ns()
                data += part
                if found := _LAST_LINES.search(data):
                    return FirstPrediction(answered - started, int(found[1]), int(found[2]))
            status = process.wait()
            said = _said_last(log) or "it printed no class"
            raise WorkerFailedError(f"its process ended with status {status}: {said}")
        finally:
            if process is not None:
                _end_child(process)
