"""The order of things: who runs when, and what is written down.

Every engine has a worker process of its own, which holds all of its models. Contenders take turns
in rounds, in an order drawn anew for each round, so that whatever the machine does beside them
hits all alike; what is compared later are turns of the same round. Between turns the machine
itself is timed (`levit.benchmarks.noise`).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from levit.benchmarks import gpu
from levit.benchmarks.fresh import first_prediction
from levit.benchmarks.lineup import Entrant, ceilings
from levit.benchmarks.machine import fingerprint
from levit.benchmarks.material import Material
from levit.benchmarks.noise import NoiseLog
from levit.benchmarks.protocols import Protocol as Measured
from levit.benchmarks.published import PUBLISHED
from levit.benchmarks.record import Measurement, Record, Round
from levit.benchmarks.turns import Standing, Turns, length_of, search_seconds
from levit.errors import BackendUnavailableError, LevitError
from levit.export.timing import in_turns
from levit.interruption import raise_if_interrupted

__all__ = ["Plan", "Watcher", "run_benchmark"]

# How often the machine is timed, at most: a sample takes some 20 ms.
_BETWEEN_S: Final = 2.0
# About what a process of a `process` protocol takes, for the progress bar.
_PROCESS_S: Final = 2.0
_GPU_BATCH: Final = 2048


class Watcher(Protocol):
    """Who is told how far it is."""

    def plan(self, seconds: float) -> None:
        """There is about so much work in all."""

    def advance(self, seconds: float, title: str) -> None:
        """So much more is done; this comes next."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run measures.

    Attributes:
        protocols: names, with their lengths.
        threads: what "all threads" means here.
        pictures: JPEG files, for the protocols that begin with one.
        seed: of the order of turns.
        command: as it was typed, for the record.
        settings: what else the record should say of the run.
    """

    entrants: tuple[Entrant, ...]
    protocols: Mapping[str, Measured]
    device: str
    threads: int
    pictures: tuple[Path, ...]
    seed: int
    command: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def run_benchmark(
    plan: Plan, material: Material, watcher: Watcher
) -> tuple[Record, BaseException | None]:
    """Measure everything that `plan` says.

    Returns:
        The record, and what has ended the run before its end: an interruption or an error, for
        the caller to raise again once what was measured is safe.
    """
    run = _Run(plan, material, watcher)
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
            contenders=tuple(material.counted(e.contender) for e in run.entrants),
            measurements=tuple(run.measurements),
        ),
        stop,
    )


class _Run:
    def __init__(self, plan: Plan, material: Material, watcher: Watcher) -> None:
        self._plan = plan
        self._material = material
        self._watcher = watcher
        self._rng = np.random.default_rng(plan.seed)
        self._ceilings = ceilings(plan.entrants, plan.device)
        self._sampled = -_BETWEEN_S
        # Who answers as the reference does, and why others do not.
        self._checked: dict[str, float | None] = {}
        self._wrong: dict[str, str] = {}
        self.entrants = [*plan.entrants, *self._ceilings]
        self.noise = NoiseLog()
        self.gpu_samples: list[dict[str, Any]] = []
        self.measurements: list[Measurement] = []

    def all(self) -> None:
        self._watcher.plan(sum(self._seconds(p) for p in self._plan.protocols.values()))
        for name, protocol in self._plan.protocols.items():
            standings = [self._standing(e, name, protocol) for e in self._who(protocol)]
            try:
                if protocol.kind == "process":
                    self._processes(name, protocol, standings)
                else:
                    self._turns(protocol, standings)
            finally:  # an interruption keeps what was measured
                self._wrong.update({s.name: s.reason for s in standings if s.status == "wrong"})
                self._checked.update({s.name: s.error for s in standings if s.running})
                device = self._plan.device
                self.measurements += [s.measurement(name, protocol, device) for s in standings]

    def _who(self, protocol: Measured) -> Sequence[Entrant]:
        return self.entrants if protocol.kind == "tensor" else self._plan.entrants

    def _seconds(self, protocol: Measured) -> float:
        """About how long a protocol takes."""
        count = len(self._plan.entrants)
        if protocol.kind == "process":
            return (protocol.rounds + 1) * count * _PROCESS_S
        who = [*self._plan.entrants, *(self._ceilings if protocol.kind == "tensor" else [])]
        search = 0.0
        if protocol.batch == 0:
            search = search_seconds(self._plan.threads, self._plan.device)
        return count * search + sum(sum(length_of(e.contender, protocol)) for e in who)

    def _standing(self, entrant: Entrant, name: str, protocol: Measured) -> Standing:
        batch = protocol.batch or 1
        if self._plan.device == "gpu" and name == "paper":
            published = PUBLISHED.get(entrant.contender.model)
            batch = _GPU_BATCH if published is None else published.gpu_batch
        if entrant.contender.kind == "ceiling":
            batch = 1
        seconds, warmup_s = length_of(entrant.contender, protocol)
        standing = Standing(
            entrant=entrant,
            batch=batch,
            threads=protocol.threads or self._plan.threads,
            seconds=seconds,
            warmup_s=warmup_s,
        )
        if standing.name in self._material.failed:
            standing.fail(self._material.failed[standing.name])
        elif standing.name in self._wrong:
            standing.fail(self._wrong[standing.name], "wrong")
        return standing

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

    def _turns(self, protocol: Measured, standings: list[Standing]) -> None:
        with self._workers(protocol, standings) as turns:
            turns.run()

    def _workers(self, protocol: Measured, standings: list[Standing]) -> Turns:
        return Turns(
            protocol,
            standings,
            job=lambda standing, batch, threads: self._material.job(
                standing.entrant, batch=batch, threads=threads, device=self._plan.device
            ),
            pictures=self._plan.pictures,
            device=self._plan.device,
            done=self._watcher.advance,
            between=self._between,
            rng=self._rng,
        )

    def _processes(self, name: str, protocol: Measured, standings: list[Standing]) -> None:
        """Fresh processes in turns; the first of each fills the page cache, and does not count."""
        unknown = [s for s in standings if s.name not in self._checked]
        with self._workers(protocol, unknown) as turns:
            turns.check()
        answers: dict[str, int] = {}
        for number, standing in in_turns(standings, protocol.rounds + 1, self._rng):
            if not standing.running:
                continue
            self._between()
            self._watcher.advance(_PROCESS_S, f"{standing.name}, process {number + 1}")
            job = self._material.job(
                standing.entrant, batch=1, threads=standing.threads, device=self._plan.device
            )
            module = importlib.import_module(standing.entrant.module)
            if not hasattr(module, "script"):
                standing.fail("this engine is not measured in fresh processes yet", "skipped")
                continue
            try:
                script = module.script(job)
                found = first_prediction(script, self._plan.pictures[0], standing.threads)
            except LevitError as error:
                standing.fail(str(error))
                continue
            if answers.setdefault(standing.name, found.top1) != found.top1:
                standing.fail("its answer changes from process to process", "wrong")
            elif number:
                value = found.peak_bytes if name == "memory" else found.elapsed_ns
                standing.rounds.append(Round(elapsed_ns=found.elapsed_ns, values=(value,)))
