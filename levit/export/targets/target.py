"""Definition of a target: how a deployed model becomes the files that one backend loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from levit.export.grids import Quantization
from levit.export.options import ExportOptions
from levit.export.progress import Progress, silent
from levit.export.quantization.form import IntegerForm
from levit.models.model import Model
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["Order", "Prepare", "Target", "Way", "Write", "Written"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A model to be written, and the folder to write it into.

    Attributes:
        model: deployed, in the form that the target's ``prepare`` chose.
        variant: its name.
        folder: where the payload goes.
        floats: precision of all that is no integer.
        options: of the export: its batch, its opset, and what only this target has.
        islands: names of values and weights that stay float32 at fp16.
        quantization: layers that are int8, whose weights lie on its grids; None without integers.
        preprocess, labels, scores: for payloads that carry them.
        progress: told each step of a long build.
    """

    model: Model
    variant: str
    folder: Path
    floats: str
    options: ExportOptions
    islands: frozenset[str] = frozenset()
    quantization: Quantization | None = None
    preprocess: PreprocessSpec | None = None
    labels: tuple[str, ...] = ()
    scores: str | None = None
    progress: Progress = silent


@dataclass(frozen=True, kw_only=True)
class Written:
    """A target's report of the payload that it has written.

    Attributes:
        requirements: entries of the manifest's ``requirements`` beside the backend's version.
        toolchain: versions of the packages that made it, by name.
        graph: the ONNX that the payload was built from, where ONNX Runtime's CPU can run it too.
    """

    requirements: Mapping[str, Any] = field(default_factory=dict)
    toolchain: Mapping[str, str] = field(default_factory=dict)
    graph: bytes | None = None


Prepare: TypeAlias = Callable[[Model, str], Model]
Write: TypeAlias = Callable[[Order], Written]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One of several ways to write a model, of which ``--target auto`` takes the fastest.

    Attributes:
        form: name of the dataflow.
        dialect: name of the spelling of its operations: the target's ``own``, or another.
        prepare, write: in place of the target's; None for the target's own.
    """

    form: str = "tokens"
    dialect: str = "own"
    prepare: Prepare | None = None
    write: Write | None = None

    def __str__(self) -> str:
        return self.form if self.dialect == "own" else f"{self.form}, {self.dialect} dialect"


def _as_always(model: Model, precision: str) -> Sequence[Way]:
    return (Way(),)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of artifact.

    Attributes:
        format: of the artifact, by which the runtime finds the backend that runs it.
        payload: the file that the backend loads.
        precisions: all that it can be written in.
        distribution: the package that runs it, for the manifest.
        min_version: of that package, the oldest that it was tried with.
        prepare: chooses the dataflow that the backend runs best, from (model, precision).
        write: writes the payload.
        require: raises `BackendUnavailableError`, before any work, where this machine lacks
            anything that writing it takes; called with the precision.
        device: ``cpu`` or ``gpu``, on which it is verified.
        integers: their form at int8.
        ways: all ways that may be the fastest for (model, precision) on this machine; none where
            the backend would convert such numbers to float32 and back.
        unrunnable: says why this machine cannot run the payload, so that it stays unverified;
            nothing where it can.
    """

    format: str
    payload: str
    precisions: tuple[str, ...]
    distribution: str
    min_version: str
    prepare: Prepare
    write: Write
    require: Callable[[str], None] = lambda precision: None
    device: str = "cpu"
    integers: IntegerForm = field(default_factory=IntegerForm)
    ways: Callable[[Model, str], Sequence[Way]] = _as_always
    unrunnable: Callable[[], str] = lambda: ""

    def floats(self, precision: str) -> str:
        """The precision of all that is no integer in an artifact of this precision."""
        return self.integers.floats if precision == "int8" else precision

    def in_way(self, way: Way) -> Target:
        """The same target, which writes every model in one way."""
        return replace(self, prepare=way.prepare or self.prepare, write=way.write or self.write)
