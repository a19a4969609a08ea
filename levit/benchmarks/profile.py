"""Time of each step of a native artifact, and how near it comes to the register peak."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levit.artifact import open_artifact
from levit.benchmarks.engines.registers import peak_of
from levit.errors import ConfigError
from levit.native.counting import dtype_of, kind_of, macs_of, weight_bytes_of
from levit.native.engine import Engine
from levit.native.payload import read_payload
from levit.native.program import Program
from levit.native.program_file import read_program

__all__ = ["Part", "Profile", "measure_profile"]

# Passes before those that count, and the fewest that do.
_WARMUP = 3
_FEWEST = 10


@dataclass(frozen=True, kw_only=True)
class Part:
    """One step, or all steps of a kind.

    Attributes:
        name: of the step, its path in the model; of a kind, empty.
        kind: ``conv``, ``linear``, ``project``, ``attention``, ``subsample``, ``mean``, ``output``.
        stage: of the program; of a kind, None.
        seconds: of one batch, the lower quartile over passes.
        share: of the whole time.
        macs: multiply-accumulates of one batch.
        weight_bytes: of the arrays that it reads.
        flop_per_s: two operations for each multiply-accumulate.
        peak_fraction: of the time, what its work would take at the register peak of the numbers
            that each step multiplies.
    """

    name: str
    kind: str
    stage: int | None
    seconds: float
    share: float
    macs: int
    weight_bytes: int
    flop_per_s: float
    peak_fraction: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A program's steps in their order, all threads together on one batch.

    Attributes:
        model: name of the artifact's folder or of its model.
        isa: instruction set of the kernels.
        passes: number that was timed.
        peaks: operations per second of all threads at once, in registers alone, by the dtype of
            the numbers that some step multiplies.
        whole: all steps.
        steps: in their order.
        kinds: the same added up by kind, the longest first.
    """

    model: str
    batch: int
    threads: int
    isa: str
    passes: int
    peaks: Mapping[str, float]
    whole: Part
    steps: tuple[Part, ...]
    kinds: tuple[Part, ...]


def measure_profile(
    folder: Path, *, model: str, batch: int, threads: int, seconds: float
) -> Profile:
    """Time the steps of a native artifact.

    Args:
        model: its name in the profile.
        batch: images of a pass, which all threads divide between them.
        seconds: of passes; a quarter more goes into the register peak, before and after.

    Raises:
        ArtifactError: the folder is no artifact, or its program cannot be.
        ConfigError: it is of another target.
        BackendUnavailableError: the library does not load.
    """
    artifact = open_artifact(folder)
    if artifact.manifest.format != "native":
        raise ConfigError(
            f"{folder}: is for target {artifact.manifest.target!r}, and only the native engine is "
            f"timed by step: export it with --target native"
        )
    name = artifact.manifest.payload
    with artifact.hold(name) as file, read_payload(file.name, file.stream) as payload:
        program = read_program(payload)
        engine = Engine(program, payload.read, threads=threads)
    images = _images(program, batch)
    # What the engine runs: float32 in place of bfloat16 where the CPU multiplies none.
    program = engine.program
    dtypes = sorted({dtype_of(program, step) for step in program.steps if macs_of(program, step)})
    each = seconds / 8 / max(len(dtypes), 1)
    before = {dtype: peak_of(threads, each, dtype) for dtype in dtypes}
    passes = _timed(engine, images, seconds)
    # The clock falls as the CPU warms up: the passes lie between the two.
    peaks = {dtype: (before[dtype] + peak_of(threads, each, dtype)) / 2 for dtype in dtypes}
    # Beside other work most passes of a long step are interrupted, and so is their median.
    typical = np.quantile(passes, 0.25, axis=0).tolist()
    return profile_of(
        program,
        typical,
        model=model,
        batch=batch,
        threads=threads,
        isa=engine.isa,
        passes=len(passes),
        peaks=peaks,
    )


def profile_of(
    program: Program,
    seconds: list[float],
    *,
    model: str,
    batch: int,
    threads: int,
    isa: str,
    passes: int,
    peaks: Mapping[str, float],
) -> Profile:
    """Put the seconds of each step beside its work."""
    total = sum(seconds)

    def part(name: str, kind: str, stage: int | None, numbers: Iterable[int]) -> Part:
        chosen = list(numbers)
        taken = sum(seconds[i] for i in chosen)
        work = {i: batch * macs_of(program, program.steps[i]) for i in chosen}
        macs = sum(work.values())
        least = sum(
            2 * count / peaks[dtype_of(program, program.steps[i])]
            for i, count in work.items()
            if count
        )
        return Part(
            name=name,
            kind=kind,
            stage=stage,
            seconds=taken,
            share=taken / total if total else 0.0,
            macs=macs,
            weight_bytes=sum(weight_bytes_of(program, program.steps[i]) for i in chosen),
            flop_per_s=2 * macs / taken if taken else 0.0,
            peak_fraction=least / taken if taken else 0.0,
        )

    by_kind: dict[str, list[int]] = {}
    for number, step in enumerate(program.steps):
        by_kind.setdefault(kind_of(step), []).append(number)
    kinds = [part("", kind, None, numbers) for kind, numbers in by_kind.items()]
    return Profile(
        model=model,
        batch=batch,
        threads=threads,
        isa=isa,
        passes=passes,
        peaks=peaks,
        whole=part("", "all", None, range(len(program.steps))),
        steps=tuple(
            part(step.name, kind_of(step), step.stage, [number])
            for number, step in enumerate(program.steps)
        ),
        kinds=tuple(sorted(kinds, key=lambda one: -one.seconds)),
    )


def _images(program: Program, batch: int) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Draw noise, whose content does not change the work."""
    rng = np.random.default_rng(0)
    source = program.input
    if source.dtype == "uint8":
        shape = (batch, source.height, source.width, source.channels)
        return rng.integers(0, 256, shape, np.uint8)
    shape = (batch, source.channels, source.height, source.width)
    return rng.standard_normal(shape, np.float32)


def _timed(
    engine: Engine, images: NDArray[np.float32] | NDArray[np.uint8], seconds: float
) -> list[list[float]]:
    for _ in range(_WARMUP):
        engine.profile(images)
    found: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(found) < _FEWEST or time.perf_counter() < end:
        found.append(engine.profile(images))
    return found
