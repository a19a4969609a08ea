"""A worker as the runner sees it: a process that is asked, and that may die."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import levit
from levit.errors import LevitError

__all__ = ["WorkerFailedError", "WorkerProcess", "child_environment"]

# Whichever of them an engine's libraries read when they are loaded.
_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


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


class WorkerProcess:
    """One worker process.

    Args:
        threads: what the engine's thread pools are told before they are loaded.
    """

    def __init__(self, threads: int) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed by close()
        try:
            self._process = subprocess.Popen(
                # Without the current folder on the path: a torch.py there is not torch.
                [sys.executable, "-P", "-m", "levit.benchmarks.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=child_environment(threads),
                start_new_session=True,  # Ctrl-C is for the runner
            )
        except OSError as error:
            raise WorkerFailedError(f"its process cannot be started ({error.strerror})") from error
        assert self._process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
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
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                self.close()
                raise WorkerFailedError(f"gave no answer in {timeout_s:.0f} s")
            assert self._process.stdout is not None
            data = os.read(self._process.stdout.fileno(), 2**20)
            if not data:
                raise self._ended()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _ended(self) -> WorkerFailedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        status = self._process.poll()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4096))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self.close()
        if status is None:
            return WorkerFailedError("its process closed its output and did not end")
        how = f"signal {-status}" if status < 0 else f"status {status}"
        if status == -signal.SIGKILL:
            return WorkerFailedError(f"its process ended with {how}: is there enough memory?")
        return WorkerFailedError(f"its process ended with {how}: {lines[-1] if lines else ''}")

    def close(self) -> None:
        """End the process, whatever it does."""
        # Compilers that it has started outlive it otherwise, beside whatever is measured next. Once
        # it has been waited for, its number may be somebody else's.
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
