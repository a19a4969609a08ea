"""One protocol over all contenders in workers: load, check, warm up, take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from levit.benchmarks.engines import Job
from levit.benchmarks.lineup import RunnableContender
from levit.benchmarks.processes import WorkerFailedError, WorkerProcess
from levit.benchmarks.protocols import Protocol
from levit.benchmarks.record import Contender, Measurement, Round, Status
from levit.benchmarks.system import free_memory
from levit.export.timing import in_turns

__all__ = ["Trial", "Turns", "length_of", "search_seconds"]

_LOAD_TIMEOUT_S: Final = 900.0
_TURN_TIMEOUT_S: Final = 300.0
# The search under `throughput`: batches by device, streams, and the length of a turn.
_SCAN_BATCHES: Final[Mapping[str, tuple[int, ...]]] = {
    "cpu": (1, 4, 8, 16, 32),
    "gpu": (32, 128, 512, 1024, 2048),
}
_GPU_STREAMS: Final = (1, 2)
_SCAN_S: Final = 0.4
# A rate below this fraction of the best ends the search through larger batches.
_PAST_THE_TOP: Final = 0.8
_CEILING_S: Final = 3.0
# Idle threads of some engines keep their CPU for a while after their last call.
_SETTLE_S: Final = 0.02
# Fraction of the machine's memory that must stay free, for the others to go on undisturbed.
_LEAST_FREE: Final = 0.06


@dataclass(eq=False, kw_only=True)
class Trial:
    """One contender under one protocol, while it is measured.

    Attributes:
        seconds, warmup_s: of timed work in all rounds together, and of work before that.
        streams: runners side by side.
        slot: its number in its engine's worker; 0 while it is not loaded.
        status, reason, error, rounds, scan: as in `Measurement`.
    """

    contender: RunnableContender
    batch: int
    threads: int
    seconds: float
    warmup_s: float
    streams: int = 1
    slot: int = 0
    error: float | None = None
    status: Status = "ok"
    reason: str = ""
    rounds: list[Round] = field(default_factory=list)
    scan: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the contender."""
        return self.contender.name

    @property
    def running(self) -> bool:
        """True until it fails."""
        return self.status == "ok"

    def fail(self, reason: str, status: Status = "failed") -> None:
        """Take it out of the turns, for a reason that the record keeps."""
        self.status, self.reason = status, reason

    def measurement(self, name: str, protocol: Protocol, device: str) -> Measurement:
        """Return the record's entry under the protocol of this name."""
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
                **({"images": protocol.images} if protocol.images else {}),
            },
            status=self.status,
            reason=self.reason,
            error=self.error,
            rounds=tuple(self.rounds),
            scan=tuple(self.scan),
        )


@dataclass(kw_only=True)
class Turns:
    """Trials of one protocol in their workers; a context manager, at whose end those are gone.

    Attributes:
        job: (contender, batch=, threads=) → the work of its worker.
        pictures: JPEG files, for a protocol that begins with one.
        device: ``cpu`` or ``gpu``, where a batch that does not fit (the paper's) is halved.
        done: told the seconds of work that are done, and the step that comes next.
        between: called between turns; samples the machine.
    """

    protocol: Protocol
    trials: Sequence[Trial]
    job: Callable[..., Job]
    pictures: Sequence[Path]
    device: str
    done: Callable[[float, str], None]
    between: Callable[[], None]
    rng: np.random.Generator
    _workers: dict[str, WorkerProcess] = field(default_factory=dict, init=False)

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def run(self) -> None:
        """Load, warm up and time all; trials hold their rounds, whenever this is interrupted."""
        for trial in self.trials:
            if not trial.running:
                continue
            if self.protocol.batch == 0 and trial.contender.kind != "ceiling":
                self._search(trial)
            if trial.running:
                self.done(0, f"loading {trial.name}")
                self._load(trial, check=True)
                # On a GPU with half of the batch, and half of that, until it fits.
                while self.device == "gpu" and trial.batch > 1 and _lacked_memory(trial):
                    trial.status, trial.reason = "ok", ""
                    trial.batch //= 2
                    self._load(trial, check=True)
        for trial in self._running():
            self.done(trial.warmup_s, f"warming up {trial.name}")
            self._turn(trial, trial.warmup_s)
        rounds = self.protocol.rounds
        for number, trial in in_turns(self._running(), rounds, self.rng):
            if not trial.running:
                continue
            time.sleep(_SETTLE_S)
            self.between()
            seconds = trial.seconds / rounds
            if (taken := self._turn(trial, seconds)) is not None:
                trial.rounds.append(taken)
            self.done(seconds, f"round {number + 1} of {rounds}")
        self.between()

    def check(self) -> None:
        """Load each once, compare its answers with the reference's, and unload it."""
        for trial in self._running():
            self.done(0, f"checking {trial.name}")
            self._load(trial, check=True)
            self._unload(trial)

    def _running(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.running]

    # ------------------------------------------------------------------ single requests

    def _load(self, trial: Trial, *, check: bool) -> None:
        free = free_memory()
        if free is not None and free < _LEAST_FREE:
            trial.fail(
                f"skipped: {free:.0%} of the memory is free beside the others; name fewer --models",
                "skipped",
            )
            return
        trial.slot = id(trial)
        per_stream = max(1, trial.threads // trial.streams)
        job = self.job(trial.contender, batch=trial.batch, threads=per_stream)
        pictures = self.pictures if self.protocol.kind in ("image", "images") else ()
        request = {
            "do": "load",
            "slot": trial.slot,
            "code": trial.contender.code,
            "job": {**asdict(job), "files": str(job.files)},
            "streams": trial.streams,
            "handicap": trial.contender.handicap,
            "pictures": [str(path) for path in pictures],
            "images": self.protocol.images,
            "check": check,
        }
        reply = self._ask(trial, request, _LOAD_TIMEOUT_S)
        if reply is None or not check:
            return
        trial.batch = reply["batch"]  # a line may have one of its own
        trial.error = reply["error"]
        if reply["wrong"]:
            trial.fail(f"{reply['wrong']}; it is not timed", "wrong")
            self._unload(trial)

    def _unload(self, trial: Trial) -> None:
        if trial.slot and trial.contender.engine in self._workers:
            self._ask(trial, {"do": "unload", "slot": trial.slot}, _TURN_TIMEOUT_S)
        trial.slot = 0

    def _turn(self, trial: Trial, seconds: float) -> Round | None:
        if not trial.slot:  # its worker had to be started again
            self._load(trial, check=False)
            if not trial.running:
                return None
        request = {"do": "turn", "slot": trial.slot, "seconds": seconds}
        reply = self._ask(trial, request, _TURN_TIMEOUT_S + 20 * seconds)
        if reply is None:
            return None
        stages = {name: tuple(values) for name, values in reply["stages"].items()}
        return Round(elapsed_ns=reply["elapsed_ns"], values=tuple(reply["values"]), stages=stages)

    def _ask(
        self, trial: Trial, request: dict[str, Any], timeout_s: float
    ) -> dict[str, Any] | None:
        """Return the worker's reply; None where it failed, with the reason in the trial."""
        engine = trial.contender.engine
        worker = self._workers.get(engine)
        try:
            if worker is None:
                worker = self._workers[engine] = WorkerProcess(trial.threads)
            reply = worker.ask(request, timeout_s)
        except WorkerFailedError as error:
            # Its other trials are gone with it, and are loaded again at their next turns.
            self._workers.pop(engine, None)
            for other in self.trials:
                if other.contender.engine == engine:
                    other.slot = 0
            trial.fail(str(error))
            return None
        if "failed" in reply:
            trial.fail(reply["failed"])
            return None
        return reply

    # ------------------------------------------------------------------ batch × streams

    def _search(self, trial: Trial) -> None:
        """Find the batch and number of streams with the most images per second.

        They are measured again, beside the others: the best of many short turns looks better than
        it is.
        """
        best = 0.0
        chosen = (1, 1)
        for streams in _streams(trial.threads, self.device):
            highest = 0.0
            for batch in _SCAN_BATCHES[self.device]:
                trial.batch, trial.streams = batch, streams
                self.done(_SCAN_S, f"searching: {trial.name}, batch {batch} × {streams}")
                self._load(trial, check=False)
                taken = self._turn(trial, _SCAN_S) if trial.running else None
                self._unload(trial)
                if taken is None:
                    if not trial.scan:
                        return  # it cannot run at all
                    trial.status, trial.reason = "ok", ""  # this one is too large
                    continue
                rate = batch * len(taken.values) / taken.elapsed_ns * 1e9
                trial.scan.append({"batch": batch, "streams": streams, "images_per_second": rate})
                if rate > best:
                    best, chosen = rate, (batch, streams)
                if rate < _PAST_THE_TOP * highest:
                    break
                highest = max(highest, rate)
        trial.batch, trial.streams = chosen


def length_of(contender: Contender, protocol: Protocol) -> tuple[float, float]:
    """Return a contender's (seconds of timed work in all rounds, of warming up).

    One product is like another, and takes milliseconds: ceilings get less.
    """
    if contender.kind != "ceiling":
        return protocol.seconds, protocol.warmup_s
    seconds = min(protocol.seconds / 4, _CEILING_S)
    return seconds, min(protocol.warmup_s, seconds)


def search_seconds(threads: int, device: str) -> float:
    """Estimate the longest search of one contender."""
    return _SCAN_S * len(_SCAN_BATCHES[device]) * len(_streams(threads, device))


def _lacked_memory(trial: Trial) -> bool:
    """Tell a failure for memory, in the words of CUDA, PyTorch or ONNX Runtime."""
    reason = trial.reason.lower() if trial.status == "failed" else ""
    return any(words in reason for words in ("out of memory", "failed to allocate", "bad_alloc"))


def _streams(threads: int, device: str) -> list[int]:
    """Return the numbers of streams to try: on a CPU they leave no thread without work."""
    if device == "gpu":
        return list(_GPU_STREAMS)
    return [n for n in range(1, threads + 1) if threads % n == 0]
