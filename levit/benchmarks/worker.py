"""Worker process of one engine: it loads, checks and times networks on request.

``python -m levit.benchmarks.worker`` reads one JSON request a line and answers each with one
line. Prints of libraries go to stderr. Rounds and other engines are the runner's concern
(`levit.benchmarks.runner`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import json
import os
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.correctness import REFERENCE_FILE, check
from levit.benchmarks.engines import Job
from levit.errors import LevitError, brief
from levit.export.timing import call_times_ns

__all__ = ["main", "timed_turn"]

Call = Callable[[], Mapping[str, int] | None]
Turn = tuple[int, list[int], dict[str, list[int]]]

_SEED: Final = 0
# Fraction of a turn that a call which is not counted may take.
_WAKING: Final = 0.05


def timed_turn(call: Call, seconds: float, handicap: float = 0.0) -> Turn:
    """(nanoseconds of the turn, of each call, of each stage of each call); see `call_times_ns`."""
    told: list[Mapping[str, int] | None] = []
    elapsed, values = call_times_ns(lambda: told.append(call()), seconds, handicap=handicap)
    stages: dict[str, list[int]] = {}
    for entry in told:
        for name, value in (entry or {}).items():
            stages.setdefault(name, []).append(value)
    return elapsed, values, stages


class Stream:
    """One runner with a thread of its own, in which it is opened, called and dropped."""

    def __init__(self, open_call: Callable[[], Call]) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._typical_ns = 0
        self._call = self._thread.submit(open_call).result()

    def turn(self, seconds: float, handicap: float, barrier: threading.Barrier) -> Any:
        def run() -> Turn:
            # Others had the caches, and threads have gone to sleep: the first call after that is
            # not one of many. Where calls are long it hardly matters, and would take as long.
            if self._typical_ns < seconds * _WAKING * 1e9:
                self._call()
            barrier.wait()
            turn = timed_turn(self._call, seconds, handicap)
            self._typical_ns = sorted(turn[1])[len(turn[1]) // 2]
            return turn

        return self._thread.submit(run)

    def close(self) -> None:
        self._thread.shutdown()


class Slot:
    """A loaded network: one stream, or several that run side by side."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        given = request["job"]
        job = Job(
            **{**given, "image_size": tuple(given["image_size"]), "files": Path(given["files"])}
        )
        engine = pkgutil.resolve_name(request["code"])
        self._handicap = float(request.get("handicap", 0))
        pictures = [Path(path).read_bytes() for path in request.get("pictures", ())]
        self.error: float | None = None
        self.wrong = ""
        self._streams: list[Stream] = []

        def open_call() -> Call:
            checks = request.get("check") and (job.files / REFERENCE_FILE).exists()
            if pictures:
                if checks:  # of the network alone: pictures have no reference
                    self.error, self.wrong = check(engine.open_runner(job), job)
                run_image = engine.open_image_runner(job)
                return _image_call(run_image, pictures)
            run = engine.open_runner(job)
            if checks:
                self.error, self.wrong = check(run, job)
            make = getattr(engine, "example", _example)
            batch = make(job, np.random.default_rng(_SEED))
            return lambda: _nothing(run(batch))

        try:
            for _ in range(request.get("streams", 1)):
                self._streams.append(Stream(open_call))
        except BaseException:
            self.close()
            raise

    def turn(self, seconds: float) -> dict[str, Any]:
        """Time it for some `seconds`."""
        gc.collect()
        gc.disable()
        try:
            barrier = threading.Barrier(len(self._streams) + 1)
            waiting = [s.turn(seconds, self._handicap, barrier) for s in self._streams]
            barrier.wait()
            start = time.perf_counter_ns()
            turns: list[Turn] = [future.result() for future in waiting]
            elapsed = time.perf_counter_ns() - start
        finally:
            gc.enable()
        if len(turns) == 1:  # without the hand-over between threads
            elapsed = turns[0][0]
        stages: dict[str, list[int]] = {}
        for _, _, by_stage in turns:
            for name, values in by_stage.items():
                stages.setdefault(name, []).extend(values)
        values = [value for _, values, _ in turns for value in values]
        return {"elapsed_ns": elapsed, "values": values, "stages": stages}

    def close(self) -> None:
        """Drop its runners."""
        for stream in self._streams:
            stream.close()
        self._streams.clear()


def _give_back() -> None:
    """Return freed memory to the system: allocators keep gigabytes of activations otherwise.

    Thirteen networks on seven engines are in memory at once. The next turn begins with a call
    that does not count.
    """
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _nothing(_: Any) -> None:
    return None


def _example(job: Job, rng: np.random.Generator) -> NDArray[Any]:
    return rng.standard_normal((job.batch, 3, *job.image_size), np.float32)


def _image_call(
    run: Callable[[bytes], tuple[int, Mapping[str, int]]], pictures: Sequence[bytes]
) -> Call:
    following = itertools.cycle(pictures)
    return lambda: run(next(following))[1]


class Worker:
    """Requests by name, and the networks that they have loaded."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request; a failure becomes a line in ``failed``."""
        try:
            reply: dict[str, Any] = getattr(self, f"do_{request['do']}")(request)
            return reply
        except LevitError as error:
            return {"failed": str(error)}
        except MemoryError:
            return {"failed": "out of memory"}
        except Exception as error:  # an engine raises anything
            return {"failed": f"{type(error).__name__}: {brief(error)}"}

    def do_load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        slot = self._slots[request["slot"]] = Slot(request)
        known = slot.error is not None and np.isfinite(slot.error)
        return {"error": slot.error if known else None, "wrong": slot.wrong}

    def do_turn(self, request: Mapping[str, Any]) -> dict[str, Any]:
        reply = self._slots[request["slot"]].turn(request["seconds"])
        _give_back()
        return reply

    def do_unload(self, request: Mapping[str, Any]) -> dict[str, Any]:
        slot = self._slots.pop(request["slot"], None)
        if slot is not None:
            slot.close()
        return {}


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides what an interruption means
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = Worker()
    for line in sys.stdin:
        replies.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        replies.flush()
    os._exit(0)  # backends with threads of their own may wait for ever in their destructors


if __name__ == "__main__":
    main()
