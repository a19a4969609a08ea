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
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.correctness import REFERENCE_FILE, check
from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.pictures import ImageRunner
from levit.errors import LevitError, brief
from levit.export.timing import call_times_ns

__all__ = ["main", "timed_turn"]

Turn = tuple[int, list[int], dict[str, list[int]]]

_SEED: Final = 0
# Fraction of a turn that a call which is not counted may take.
_WAKING: Final = 0.05
# Far more pictures than say anything new.
_MOST_PAIRS: Final = 50_000


class Work(NamedTuple):
    """The work of a turn.

    Attributes:
        call: what is timed; it may tell nanoseconds of its own.
        staged: told the stages of a call like it; runs after each one that is timed, so that
            those have no clocks in them.
    """

    call: Callable[[], Mapping[str, int] | None]
    staged: Callable[[], Mapping[str, int]] | None = None


def timed_turn(work: Work, seconds: float, handicap: float = 0.0) -> Turn:
    """(nanoseconds of the timed calls together, of each, of each stage of each call).

    See `call_times_ns`.
    """
    told: list[Mapping[str, int] | None] = []
    if work.staged is None:
        elapsed, values = call_times_ns(
            lambda: told.append(work.call()), seconds, handicap=handicap
        )
    else:
        elapsed, values = 0, []
        deadline = time.perf_counter_ns() + int(seconds * 1e9)
        while not values or (time.perf_counter_ns() < deadline and len(values) < _MOST_PAIRS):
            taken, (value,) = call_times_ns(work.call, 0.0, handicap=handicap)
            elapsed += taken
            values.append(value)
            told.append(work.staged())
    stages: dict[str, list[int]] = {}
    for entry in told:
        for name, value in (entry or {}).items():
            stages.setdefault(name, []).append(value)
    return elapsed, values, stages


class Stream:
    """One runner with a thread of its own, in which it is opened, called and dropped."""

    def __init__(self, open_work: Callable[[], Work]) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._typical_ns = 0.0
        self._work = self._thread.submit(open_work).result()

    def turn(self, seconds: float, handicap: float, barrier: threading.Barrier) -> Future[Turn]:
        def run() -> Turn:
            # Others had the caches, and threads have gone to sleep: the first call after that is
            # not one of many. Where calls are long it hardly matters, and would take as long: but
            # not beside calls that are timed by stages, of which none is the first.
            if self._work.staged or self._typical_ns < seconds * _WAKING * 1e9:
                self._work.call()
            barrier.wait()
            turn = timed_turn(self._work, seconds, handicap)
            self._typical_ns = statistics.median(turn[1])
            return turn

        return self._thread.submit(run)

    def close(self) -> None:
        self._thread.shutdown()


class Slot:
    """A loaded network: one stream, or several that run side by side."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        given = request["job"]
        self._job = Job(
            **{**given, "image_size": tuple(given["image_size"]), "files": Path(given["files"])}
        )
        self._engine = pkgutil.resolve_name(request["code"])
        self._checked = request.get("check") and (self._job.files / REFERENCE_FILE).exists()
        self._handicap = float(request.get("handicap", 0))
        self._pictures = [Path(path).read_bytes() for path in request.get("pictures", ())]
        self._images = request.get("images", 0)
        self.batch = self._job.batch
        self.error: float | None = None
        self.wrong = ""
        self._streams: list[Stream] = []
        self._own_turn: Callable[[float], int] | None = None
        if hasattr(self._engine, "open_turn"):
            self._own_turn = self._engine.open_turn(self._job)
            return
        try:
            for _ in range(request.get("streams", 1)):
                self._streams.append(Stream(self._open))
        except BaseException:
            self.close()
            raise

    def _open(self) -> Work:
        engine, job = self._engine, self._job
        if self._pictures:
            if self._checked:  # the network alone: pictures have no reference
                self._check(engine.open_runner(job))
            return self._many() if self._images else self._one_by_one()
        run = engine.open_runner(job)
        if self._checked:
            self._check(run)
        make = getattr(engine, "example", _example)
        batch = make(job, np.random.default_rng(_SEED))

        def call() -> None:
            run(batch)

        return Work(call)

    def _one_by_one(self) -> Work:
        runner: ImageRunner = self._engine.open_image_runner(self._job)
        first = self._pictures[0]
        if runner.whole(first) != runner.staged(first)[0]:
            raise LevitError("stage by stage its answer is another: its stages are not timed")
        count = len(self._pictures)
        places = itertools.cycle(range(count))
        last = 0

        def call() -> None:
            nonlocal last
            last = next(places)
            runner.whole(self._pictures[last])

        def staged() -> Mapping[str, int]:
            # Another picture than that of the calls before and after, whose bytes are in caches.
            _, stages = runner.staged(self._pictures[(last + count // 2) % count])
            return stages

        return Work(call, staged)

    def _many(self) -> Work:
        self.batch, run = self._engine.open_line(self._job)
        pictures = [*itertools.islice(itertools.cycle(self._pictures), self._images)]

        def call() -> Mapping[str, int]:
            start = time.process_time_ns()
            run(pictures)
            return {"cpu": time.process_time_ns() - start}

        return Work(call)

    def _check(self, run: Runner) -> None:
        error, self.wrong = check(run, self._job)
        self.error = error if np.isfinite(error) else None

    def turn(self, seconds: float) -> dict[str, Any]:
        """Time it for some `seconds`."""
        if self._own_turn is not None:
            elapsed = self._own_turn(seconds)
            return {"elapsed_ns": elapsed, "values": [elapsed], "stages": {}}
        gc.collect()
        gc.disable()
        try:
            barrier = threading.Barrier(len(self._streams) + 1)
            waiting = [s.turn(seconds, self._handicap, barrier) for s in self._streams]
            barrier.wait()
            start = time.perf_counter_ns()
            turns = [future.result() for future in waiting]
            elapsed = time.perf_counter_ns() - start
        finally:
            gc.enable()
        if len(turns) == 1:  # without the hand-over between threads
            elapsed = turns[0][0]
        values = [value for _, values, _ in turns for value in values]
        stages: dict[str, list[int]] = {}
        for name, times in itertools.chain(*(by_stage.items() for _, _, by_stage in turns)):
            stages.setdefault(name, []).extend(times)
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


def _example(job: Job, rng: np.random.Generator) -> NDArray[Any]:
    return rng.standard_normal((job.batch, 3, *job.image_size), np.float32)


def _reply(slots: dict[int, Slot], request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a request says, in its slot; a failure becomes a line in ``failed``."""
    number = request["slot"]
    try:
        if request["do"] == "load":
            slot = slots[number] = Slot(request)
            return {"error": slot.error, "wrong": slot.wrong, "batch": slot.batch}
        if request["do"] == "unload":
            if number in slots:  # unless it could not be loaded
                slots.pop(number).close()
            return {}
        turn = slots[number].turn(request["seconds"])
        _give_back()
        return turn
    except LevitError as error:
        return {"failed": str(error)}
    except MemoryError:
        return {"failed": "out of memory"}
    except Exception as error:  # an engine raises anything
        return {"failed": f"{type(error).__name__}: {brief(error)}"}


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides what an interruption means
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    slots: dict[int, Slot] = {}
    for line in sys.stdin:
        replies.write(json.dumps(_reply(slots, json.loads(line))) + "\n")
        replies.flush()
    os._exit(0)  # backends with threads of their own may wait for ever in their destructors


if __name__ == "__main__":
    main()
