"""One protocol over all contenders that live in workers: load, check, warm up, take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from levit.benchmarks.engines import Job
from levit.benchmarks.lineup import Entrant
from levit.benchmarks.protocols import Protocol
from levit.benchmarks.record import Contender, Measurement, Round
from levit.benchmarks.system import free_memory
from levit.benchmarks.worker_process import WorkerFailedError, WorkerProcess
from levit.export.timing import in_turns

__all__ = ["Standing", "Turns", "length_of", "search_seconds"]

_LOAD_TIMEOUT_S: Final = 900.0
_TURN_TIMEOUT_S: Final = 300.0
# What is searched through: batches, and at most so many streams.
_SCAN_BATCHES: Final[Mapping[str, tuple[int, ...]]] = {
    "cpu": (1, 4, 8, 16, 32),
    "gpu": (32, 128, 512, 1024, 2048),
}
_GPU_STREAMS: Final = (1, 2)
_SCAN_S: Final = 0.4
# Of the best rate so far: below it larger batches are not tried.
_PAST_THE_TOP: Final = 0.8
_CEILING_S: Final = 3.0
# Idle threads of some engines keep their CPU for a while after their last call.
_SETTLE_S: Final = 0.02
# Of the machine's memory: what must stay free, for the others to go on undisturbed.
_LEAST_FREE: Final = 0.06


@dataclass(eq=False)
class Standing:
    """A contender under the protocol that is being measured."""

    entrant: Entrant
    batch: int
    threads: int
    seconds: float
    warmup_s: float
    streams: int = 1
    slot: int = 0
    error: float | None = None
    status: str = "ok"
    reason: str = ""
    rounds: list[Round] = field(default_factory=list)
    scan: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its contender's."""
        return self.entrant.contender.name

    @property
    def running(self) -> bool:
        """Whether it still takes turns."""
        return self.status == "ok"

    def fail(self, reason: str, status: str = "failed") -> None:
        """It takes no more turns, for this reason."""
        self.status, self.reason = status, reason

    def measurement(self, name: str, protocol: Protocol, device: str) -> Measurement:
        """What goes into the record."""
        return Measurement(
            contender=self.name,
            protocol=name,
            settings={
                "batch": self.batch,
                "threads": self.threads,
                "streams": self.streams,
                "device": device,
                "seconds": self.seconds,
                "warmup_s": self.warmup_s,
                "rounds": protocol.rounds,
            },
            status=self.status,
            reason=self.reason,
            error=self.error,
            rounds=tuple(self.rounds),
            scan=tuple(self.scan),
        )


class Turns:
    """The workers of one protocol; a context manager, at whose end they are gone.

    Args:
        job: (standing, batch, threads) → what its worker loads.
        pictures: JPEG files, for a protocol that begins with one.
        device: ``cpu`` or ``gpu``, where a batch that does not fit (the paper's) is halved.
        done: told the seconds of work that are done, and what comes next.
        between: called between turns; samples the machine.
    """

    def __init__(
        self,
        protocol: Protocol,
        standings: Sequence[Standing],
        *,
        job: Callable[[Standing, int, int], Job],
        pictures: Sequence[Path],
        device: str,
        done: Callable[[float, str], None],
        between: Callable[[], None],
        rng: np.random.Generator,
    ) -> None:
        self._protocol = protocol
        self._standings = standings
        self._job = job
        self._pictures = [str(p) for p in pictures] if protocol.kind == "images" else []
        self._device = device
        self._done = done
        self._between = between
        self._rng = rng
        self._workers: dict[str, WorkerProcess] = {}

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def run(self) -> None:
        """All of it; standings hold what was measured, whenever this is interrupted."""
        for standing in self._standings:
            if not standing.running:
                continue
            if self._protocol.batch == 0 and standing.entrant.contender.kind != "ceiling":
                self._search(standing)
            if standing.running:
                self._done(0, f"loading {standing.name}")
                self._load_largest(standing)
        for standing in self._running():
            self._done(standing.warmup_s, f"warming up {standing.name}")
            self._turn(standing, standing.warmup_s, keep=False)
        rounds = self._protocol.rounds
        for number, standing in in_turns(self._running(), rounds, self._rng):
            if not standing.running:
                continue
            time.sleep(_SETTLE_S)
            self._between()
            seconds = standing.seconds / rounds
            self._turn(standing, seconds, keep=True)
            self._done(seconds, f"round {number + 1} of {rounds}")
        self._between()

    def check(self) -> None:
        """Load each once, compare its answers with the reference's, and let it go."""
        for standing in self._running():
            self._done(0, f"checking {standing.name}")
            self._load(standing, check=True)
            self._unload(standing)

    def _running(self) -> list[Standing]:
        return [standing for standing in self._standings if standing.running]

    # ------------------------------------------------------------------ single requests

    def _load_largest(self, standing: Standing) -> None:
        """Load it; where batches may shrink with half of it, and half of that, until it fits."""
        self._load(standing, check=True)
        while self._device == "gpu" and standing.batch > 1 and _lacked_memory(standing):
            standing.status, standing.reason = "ok", ""
            standing.batch //= 2
            self._load(standing, check=True)

    def _load(self, standing: Standing, *, check: bool) -> None:
        free = free_memory()
        if free is not None and free < _LEAST_FREE:
            standing.fail(
                f"skipped: {free:.0%} of the memory is free beside the others; name fewer --models",
                "skipped",
            )
            return
        standing.slot = id(standing)
        per_stream = max(1, standing.threads // standing.streams)
        job = self._job(standing, standing.batch, per_stream)
        request = {
            "do": "load",
            "slot": standing.slot,
            "module": standing.entrant.module,
            "job": {**asdict(job), "files": str(job.files)},
            "streams": standing.streams,
            "handicap": standing.entrant.handicap,
            "pictures": self._pictures,
            "check": check,
        }
        reply = self._ask(standing, request, _LOAD_TIMEOUT_S)
        if reply is None or not check:
            return
        standing.error = reply["error"]
        if reply["wrong"]:
            standing.fail(f"{reply['wrong']}; it is not timed", "wrong")
            self._unload(standing)

    def _unload(self, standing: Standing) -> None:
        if standing.slot and standing.entrant.contender.engine in self._workers:
            self._ask(standing, {"do": "unload", "slot": standing.slot}, _TURN_TIMEOUT_S)
        standing.slot = 0

    def _turn(self, standing: Standing, seconds: float, *, keep: bool) -> Round | None:
        if not standing.slot:  # its worker had to be started again
            self._load(standing, check=False)
            if not standing.running:
                return None
        request = {"do": "turn", "slot": standing.slot, "seconds": seconds}
        reply = self._ask(standing, request, _TURN_TIMEOUT_S + 20 * seconds)
        if reply is None:
            return None
        taken = Round(
            elapsed_ns=reply["elapsed_ns"],
            values=tuple(reply["values"]),
            stages={name: tuple(values) for name, values in reply["stages"].items()},
        )
        if keep:
            standing.rounds.append(taken)
        return taken

    def _ask(
        self, standing: Standing, request: dict[str, Any], timeout_s: float
    ) -> dict[str, Any] | None:
        """The worker's reply; None where it failed, and then the standing says why."""
        engine = standing.entrant.contender.engine
        worker = self._workers.get(engine)
        try:
            if worker is None:
                worker = self._workers[engine] = WorkerProcess(standing.threads)
            reply = worker.ask(request, timeout_s)
        except WorkerFailedError as error:
            # Whatever else it held is gone with it, and is loaded again at its next turn.
            self._workers.pop(engine, None)
            for other in self._standings:
                if other.entrant.contender.engine == engine:
                    other.slot = 0
            standing.fail(str(error))
            return None
        if "failed" in reply:
            standing.fail(reply["failed"])
            return None
        return reply

    # ------------------------------------------------------------------ batch × streams

    def _search(self, standing: Standing) -> None:
        """The batch and number of streams with the most images per second.

        What is reported is measured again, beside the others: the best of many short turns is
        better than it is.
        """
        best = 0.0
        chosen = (1, 1)
        for streams in _streams(standing.threads, self._device):
            highest = 0.0
            for batch in _SCAN_BATCHES[self._device]:
                standing.batch, standing.streams = batch, streams
                self._done(_SCAN_S, f"searching: {standing.name}, batch {batch} × {streams}")
                self._load(standing, check=False)
                taken = self._turn(standing, _SCAN_S, keep=False) if standing.running else None
                self._unload(standing)
                if taken is None:
                    if not standing.scan:
                        return  # it cannot run at all
                    standing.status, standing.reason = "ok", ""  # this one is too large
                    continue
                rate = batch * len(taken.values) / taken.elapsed_ns * 1e9
                standing.scan.append(
                    {"batch": batch, "streams": streams, "images_per_second": rate}
                )
                if rate > best:
                    best, chosen = rate, (batch, streams)
                if rate < _PAST_THE_TOP * highest:
                    break
                highest = max(highest, rate)
        standing.batch, standing.streams = chosen


def length_of(contender: Contender, protocol: Protocol) -> tuple[float, float]:
    """(seconds of timed work in all rounds, of warming up) of a contender.

    One product is like another, and takes milliseconds: ceilings get less.
    """
    if contender.kind != "ceiling":
        return protocol.seconds, protocol.warmup_s
    seconds = min(protocol.seconds / 4, _CEILING_S)
    return seconds, min(protocol.warmup_s, seconds)


def search_seconds(threads: int, device: str) -> float:
    """How long the search of one contender takes, at most, about."""
    return _SCAN_S * len(_SCAN_BATCHES[device]) * len(_streams(threads, device))


def _lacked_memory(standing: Standing) -> bool:
    """Whether it failed for memory, in the words of CUDA, PyTorch or ONNX Runtime."""
    reason = standing.reason.lower() if standing.status == "failed" else ""
    return any(words in reason for words in ("out of memory", "failed to allocate", "bad_alloc"))


def _streams(threads: int, device: str) -> list[int]:
    """Numbers of streams to try: on a CPU those that leave no thread without work."""
    if device == "gpu":
        return list(_GPU_STREAMS)
    return [n for n in range(1, threads + 1) if threads % n == 0]
