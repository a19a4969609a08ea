"""levit's own engine."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.artifact import Artifact
from levit.errors import CorruptArtifactError, InputError, ResourceError
from levit.native.engine import Engine
from levit.native.payload import read_payload
from levit.native.program import Output, Program
from levit.native.program_file import read_program
from levit.native.widening import uses_bfloat16
from levit.pictures.preprocess import PreprocessSpec, value_tables
from levit.runtime.backends import BACKENDS, SessionOptions
from levit.runtime.compatibility import Tensor, check_interface, require_version
from levit.runtime.cpus import known_cpu_class

__all__ = ["NativeSession"]


class NativeSession:
    """A program on levit's own engine; it may be run from many threads, and after a fork."""

    survives_fork = True
    runs_alone = True

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        present = BACKENDS[artifact.manifest.format].version or ""
        require_version(artifact, "levit", present, "pip install -U levit")
        try:
            program, engine = _opened(artifact, options.threads)
        except MemoryError as error:
            raise ResourceError(
                f"{artifact.path.name}: there is not enough memory to open it: free some"
            ) from error
        if uses_bfloat16(program) and engine.program is not program:
            _say_float32(engine.isa)
        self._engine: Engine | None = engine
        self._input = program.input.name
        self._row = _row(program)
        self._dtype = np.dtype(program.input.dtype)
        self.takes_pixels = _set_tables(engine, program, artifact.manifest.preprocess)

    @property
    def machine_class(self) -> str:
        """The CPU's."""
        return known_cpu_class()

    def run(
        self, feeds: Mapping[str, NDArray[Any]], *, alone: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Run one batch of any size, on all threads or on the calling one alone."""
        engine = self._engine
        if engine is None:
            raise InputError("the session is closed")
        batch = feeds[self._input]
        by_tables = self.takes_pixels and batch.dtype == np.uint8
        row = (*self._row[1:], self._row[0]) if by_tables else self._row
        if batch.shape[1:] != row or not (by_tables or batch.dtype == self._dtype):
            raise InputError(
                f"the network takes (N, {', '.join(map(str, self._row))}) {self._dtype}, not "
                f"{batch.shape} {batch.dtype}"
            )
        flags = batch.flags
        if not (flags.c_contiguous and flags.aligned):
            batch = np.array(batch, order="C")
        return engine.run(batch, pixels=by_tables, alone=alone)

    def close(self) -> None:
        """Release the engine; runs that are under way in other threads end undisturbed."""
        self._engine = None


@cache
def _say_float32(isa: str) -> None:
    """Say once in a process that bfloat16 is of no use here."""
    warnings.warn(
        f"this CPU multiplies no bfloat16 ({isa}): a bf16 artifact computes in float32, as fast as "
        f"an fp32 one and as exact as its weights",
        stacklevel=2,
    )


def _opened(artifact: Artifact, threads: int) -> tuple[Program, Engine]:
    name = artifact.manifest.payload
    with artifact.hold(name) as file, read_payload(file.name, file.stream) as payload:
        program = read_program(payload)
        inputs, outputs = [_input(artifact, program)], _outputs(artifact, program)
        check_interface(artifact, inputs, outputs, payload.metadata)
        try:
            return program, Engine(program, payload.read, threads=threads)
        except CorruptArtifactError as error:
            raise CorruptArtifactError(f"{artifact.payload}: {error}; export again") from error


def _set_tables(engine: Engine, program: Program, spec: PreprocessSpec | None) -> bool:
    """Let the engine normalise pixels itself, where it can; tell whether it can."""
    source = program.input
    if source.dtype == "uint8" or spec is None or spec.white != 255:
        return False
    if (source.height, source.width, source.channels) != (*spec.image_size, spec.channels):
        return False
    engine.set_tables(value_tables(spec))
    return True


def _row(program: Program) -> tuple[int, ...]:
    """Shape of one image."""
    source = program.input
    if source.dtype == "uint8":
        return source.height, source.width, source.channels
    return source.channels, source.height, source.width


def _input(artifact: Artifact, program: Program) -> Tensor:
    return program.input.name, program.input.dtype, (_batch(artifact), *_row(program))


def _outputs(artifact: Artifact, program: Program) -> list[Tensor]:
    steps = [step for step in program.steps if isinstance(step, Output)]
    return [(step.name, "float32", (_batch(artifact), *step.shape)) for step in steps]


def _batch(artifact: Artifact) -> int | str:
    """The batch in shapes: a program itself takes any."""
    batch = artifact.manifest.batch
    return batch.max if batch.static else "batch"
