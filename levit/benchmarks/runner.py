"""A run: its protocols one after the other, with the machine timed beside them.

Every engine has a worker process of its own, which holds all of its models. Contenders take turns
in rounds, in an order drawn anew for each round, so that a machine that slows down slows all
alike; turns of the same round are compared later. Between turns the machine itself is timed
(`levit.benchmarks.noise`).
"""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from levit.benchmarks import gpu
from levit.benchmarks.lineup import RunnableContender, ceilings
from levit.benchmarks.machine import fingerprint
from levit.benchmarks.material import Material
from levit.benchmarks.noise import NoiseLog
from levit.benchmarks.processes import first_prediction
from levit.benchmarks.protocols import Protocol
from levit.benchmarks.published import PUBLISHED
from levit.benchmarks.record import Measurement, Record, Round
from levit.benchmarks.turns import Trial, Turns, length_of, search_seconds
from levit.errors import BackendUnavailableError, LevitError
from levit.export.timing import in_turns
from levit.interruption import raise_if_interrupted

__all__ = ["Plan", "run_benchmark"]

# Least time between samples of the machine, which take some 20 ms.
_BETWEEN_S: Final = 2.0
# Estimate for a process of a `process` protocol, for the progress bar.
_PROCESS_S: Final = 2.0
_GPU_BATCH: Final = 2048


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Contenders, protocols and settings of a run.

    Attributes:
        protocols: by name, with their lengths.
        threads: number behind "all threads".
        pictures: JPEG files, for the protocols that begin with one.
        seed: of the order of turns.
        command: as it was typed, for the record.
        settings: more that the record should say of the run.
    """

    contenders: tuple[RunnableContender, ...]
    protocols: Mapping[str, Protocol]
    device: str
    threads: int
    pictures: tuple[Path, ...]
    seed: int
    command: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def run_benchmark(
    plan: Plan, material: Material, progress: Callable[[str], None]
) -> tuple[Record, BaseException | None]:
    """Measure everything that `plan` says.

    Args:
        progress: told each step, with the part of the work that is done.

    Returns:
        The record, and the interruption or error that has ended the run early, for the caller to
        raise again once the record is safe.
    """
    run = _Run(plan, material, progress)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    machine = fingerprint(plan.device)
    stop: BaseException | None = None
    try:
        run.all()
    except BaseException as error:  # nothing may cost the values that there are
        stop = error
    return (
        Record(
            created=created,
            command=plan.command,
            status="complete" if stop is None else "interrupted",
            machine=machine,
            settings={
                "device": plan.device,
                "threads": plan.threads,
                "seed": plan.seed,
                "pictures": len(plan.pictures),
                **plan.settings,
            },
            noise=run.noise.to_dict(),
            gpu_samples=tuple(run.gpu_samples),
            contenders=tuple(material.counted(c) for c in run.contenders),
            measurements=tuple(run.measurements),
        ),
        stop,
    )


class _Run:
    def __init__(self, plan: Plan, material: Material, progress: Callable[[str], None]) -> None:
        self._plan = plan
        self._material = material
        self._progress = progress
        self._done_s = self._planned_s = 0.0
        self._rng = np.random.default_rng(plan.seed)
        self._sampled = -_BETWEEN_S
        # Contenders that answer as the reference does, and reasons of those that do not.
        self._checked: set[str] = set()
        self._wrong: dict[str, str] = {}
        self.contenders = [*plan.contenders, *ceilings(plan.contenders, plan.device)]
        self.noise = NoiseLog()
        self.gpu_samples: list[dict[str, Any]] = []
        self.measurements: list[Measurement] = []

    def all(self) -> None:
        self._progress("measuring")
        self._planned_s = sum(map(self._seconds, self._plan.protocols.values()))
        for name, protocol in self._plan.protocols.items():
            trials = [self._trial(c, name, protocol) for c in self._timed(protocol)]
            try:
                if protocol.kind == "process":
                    self._processes(name, protocol, trials)
                else:
                    with self._turns(protocol, trials) as turns:
                        turns.run()
            finally:  # an interruption keeps what was measured
                self._wrong.update({t.name: t.reason for t in trials if t.status == "wrong"})
                self._checked.update(t.name for t in trials if t.running)
                device = self._plan.device
                self.measurements += [t.measurement(name, protocol, device) for t in trials]

    def _advance(self, seconds: float, title: str) -> None:
        """Add `seconds` of work that are done, and name the step that comes next."""
        self._done_s += seconds
        part = min(1.0, self._done_s / self._planned_s) if self._planned_s else 0.0
        self._progress(f"measuring: {part:.0%} of the work, {title}")

    def _timed(self, protocol: Protocol) -> Sequence[RunnableContender]:
        return self.contenders if protocol.kind == "tensor" else self._plan.contenders

    def _seconds(self, protocol: Protocol) -> float:
        """Estimate the length of a protocol."""
        plan = self._plan
        if protocol.kind == "process":
            return (protocol.rounds + 1) * len(plan.contenders) * _PROCESS_S
        search = search_seconds(plan.threads, plan.device) if protocol.batch == 0 else 0.0
        timed = sum(sum(length_of(c, protocol)) for c in self._timed(protocol))
        return len(plan.contenders) * search + timed

    def _trial(self, contender: RunnableContender, name: str, protocol: Protocol) -> Trial:
        batch = protocol.batch or 1
        if self._plan.device == "gpu" and name == "paper":
            published = PUBLISHED.get(contender.model)
            batch = _GPU_BATCH if published is None else published.gpu_batch
        if contender.kind == "ceiling":
            batch = 1
        seconds, warmup_s = length_of(contender, protocol)
        trial = Trial(
            contender=contender,
            batch=batch,
            threads=protocol.threads or self._plan.threads,
            seconds=seconds,
            warmup_s=warmup_s,
        )
        if trial.name in self._material.failed:
            trial.fail(self._material.failed[trial.name])
        elif trial.name in self._wrong:
            trial.fail(self._wrong[trial.name], "wrong")
        return trial

    def _between(self) -> None:
        """Time the machine itself, now and then."""
        raise_if_interrupted()
        if time.monotonic() - self._sampled < _BETWEEN_S:
            return
        self.noise.sample()
        if self._plan.device == "gpu":
            try:
                self.gpu_samples.append(gpu.sample())
            except BackendUnavailableError as error:  # one slow answer is no reason to stop
                self.gpu_samples.append({"error": str(error)})
        self._sampled = time.monotonic()

    def _turns(self, protocol: Protocol, trials: Sequence[Trial]) -> Turns:
        return Turns(
            protocol=protocol,
            trials=trials,
            job=partial(self._material.job, device=self._plan.device),
            pictures=self._plan.pictures,
            device=self._plan.device,
            done=self._advance,
            between=self._between,
            rng=self._rng,
        )

    def _processes(self, name: str, protocol: Protocol, trials: list[Trial]) -> None:
        """Fresh processes in turns; the first of each fills the page cache, and does not count."""
        unknown = [t for t in trials if t.name not in self._checked]
        with self._turns(protocol, unknown) as turns:
            turns.check()
        answers: dict[str, int] = {}
        for number, trial in in_turns(trials, protocol.rounds + 1, self._rng):
            if not trial.running:
                continue
            self._between()
            self._advance(_PROCESS_S, f"{trial.name}, process {number + 1}")
            job = self._material.job(
                trial.contender, batch=1, threads=trial.threads, device=self._plan.device
            )
            script = getattr(pkgutil.resolve_name(trial.contender.code), "script", None)
            if script is None:
                trial.fail("this engine is not measured in fresh processes yet", "skipped")
                continue
            try:
                found = first_prediction(script(job), self._plan.pictures[0], trial.threads)
            except LevitError as error:
                trial.fail(str(error))
                continue
            if answers.setdefault(trial.name, found.top1) != found.top1:
                trial.fail("its answer changes from process to process", "wrong")
            elif number:
                value = found.peak_bytes if name == "memory" else found.elapsed_ns
                trial.rounds.append(Round(elapsed_ns=found.elapsed_ns, values=(value,)))
