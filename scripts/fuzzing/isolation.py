"""Inputs in processes of their own, which may crash, hang and eat memory."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fuzzing.target import Outcome, Target, examine, make_input

__all__ = ["Worker", "run_inputs"]

# Forked, so that what the target has prepared and imported is there at once.
_processes = multiprocessing.get_context("fork")


class Worker:
    """A process that examines one input after the other, and a new one where it has died."""

    def __init__(self, target: Target, seed: int, folder: Path) -> None:
        self._target = target
        self._seed = seed
        self._folder = folder
        self._process: Any = None
        self._pipe: Connection | None = None
        self._deadline = 0.0
        self.index: int | bytes | None = None

    def start(self, index: int | bytes) -> Connection:
        """Examine input number `index`, or this input; the result will come over the pipe."""
        if self._process is None:
            self._pipe, theirs = _processes.Pipe()
            self._process = _processes.Process(
                target=_serve, args=(self._target, self._seed, self._folder, theirs), daemon=True
            )
            self._process.start()
            theirs.close()
        assert self._pipe is not None
        self.index = index
        # Waiting for the processor does not count, but sleeping for ever does.
        self._deadline = time.monotonic() + 6 * self._target.seconds
        self._pipe.send(index)
        return self._pipe

    def overdue(self) -> bool:
        """Whether it takes so long that it must be stopped."""
        return time.monotonic() > self._deadline

    def result(self) -> Outcome:
        """What the process says, or what became of it."""
        assert self._pipe is not None
        outcome = None
        with contextlib.suppress(EOFError, OSError):
            outcome = self._pipe.recv() if self._pipe.poll() else None
        self.index = None
        if outcome is not None:
            return outcome
        hung = self.overdue()
        if hung and self._process is not None:
            # Its last words are where it hangs.
            os.kill(self._process.pid, signal.SIGXCPU)
        status = self.stop()
        log = _tail(self._folder / "log")
        if hung or status in (-signal.SIGXCPU, -signal.SIGKILL):
            return Outcome(kind="hang", place=_innermost(log), detail=log)
        name = signal.Signals(-status).name if status < 0 else f"exit {status}"
        return Outcome(kind="crash", place=f"{name} {_innermost(log)}", detail=log)

    def stop(self) -> int:
        """End the process; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert self._pipe is not None
        self._pipe.close()
        process.join(1)
        if process.is_alive():
            process.kill()
            process.join()
        return int(process.exitcode)


def run_inputs(
    target: Target, seed: int, indices: Iterable[int], folder: Path, jobs: int = 1
) -> Iterator[tuple[int, Outcome]]:
    """Examine inputs by number; (index, outcome) as they come."""
    pending = iter(indices)
    workers = [Worker(target, seed, folder / f"worker-{i}") for i in range(jobs)]
    busy: dict[Connection, Worker] = {}
    try:
        for worker in workers:
            _next(worker, pending, busy)
        while busy:
            ready = set(wait(list(busy), timeout=0.5))
            for pipe, worker in list(busy.items()):
                if pipe in ready or worker.overdue():
                    del busy[pipe]
                    index = worker.index
                    assert isinstance(index, int)
                    yield index, worker.result()
                    _next(worker, pending, busy)
    finally:
        for worker in workers:
            worker.stop()


def _next(worker: Worker, pending: Iterator[int], busy: dict[Connection, Worker]) -> None:
    for index in pending:
        busy[worker.start(index)] = worker
        return


def _serve(target: Target, seed: int, folder: Path, pipe: Connection) -> None:
    """The child: what it prints goes to a file, and its limits are its own."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    faulthandler.enable(log, all_threads=False)
    faulthandler.register(signal.SIGXCPU, log, all_threads=False, chain=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    while True:
        try:
            index = pipe.recv()
        except EOFError:
            break
        os.ftruncate(log, 0)
        work = folder / "input"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        data = index if isinstance(index, bytes) else make_input(target, seed, index)
        used = time.process_time()
        # The second limit comes a moment after the first, which writes where it happened.
        soft = int(used + target.seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        pipe.send(examine(target, data, work))
    os._exit(0)


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-4000:].decode("utf-8", "replace")
    except OSError:
        return ""


def _innermost(log: str) -> str:
    """The first frame of faulthandler's traceback that is not this package's."""
    for line in log.splitlines():
        if line.startswith("  File ") and "fuzzing" not in line:
            parts = line.split('"')
            return f"{Path(parts[1]).name}{parts[2].replace(', line ', ':')}"
    return ""
