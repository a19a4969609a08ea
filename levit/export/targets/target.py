"""What a target is: how a deployed model becomes the files that one backend loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from levit.export.onnx.ops import OnnxOps
from levit.export.options import ExportOptions
from levit.models.model import Model

__all__ = ["Order", "Progress", "Target", "Written"]

Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a target is asked to write.

    Attributes:
        model: deployed, in the form that the target's ``prepare`` chose.
        folder: where the payload goes.
        graph: the keyword arguments of ``emit_onnx``, the precision of its floats among them.
        profile: (min, opt, max) of the batch.
        options: of the export, for what only this target has.
        progress: called with a word for each step of a long build.
    """

    model: Model
    folder: Path
    graph: Mapping[str, Any]
    profile: tuple[int, int, int]
    options: ExportOptions
    progress: Progress = lambda step: None


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a target says of what it wrote.

    Attributes:
        requirements: entries of the manifest's ``requirements`` beside the backend's version.
        toolchain: versions of what made it, by name.
        graph: the ONNX that the payload was built from, where ONNX Runtime's CPU can run it too.
    """

    requirements: Mapping[str, Any] = field(default_factory=dict)
    toolchain: Mapping[str, str] = field(default_factory=dict)
    graph: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of artifact.

    Attributes:
        format: which backend runs it (a key of the runtime's ``BACKENDS``).
        payload: the file that the backend loads.
        precisions: what it can be written in.
        distribution: the package that runs it, for the manifest.
        min_version: of that package, the oldest that it was tried with.
        prepare: chooses the dataflow that the backend runs best, from (model, options).
        write: writes the payload.
        require: raises `BackendUnavailableError`, before any work, where this machine lacks what
            writing it takes; called with the precision.
        device: ``cpu`` or ``gpu``, on which it is verified.
        dialect: in which its graphs are emitted.
        typed: whether its precision is that of the graph's own types; else the graph is fp32.
        signed: its int8 activations have a zero point of 0.
        beside_int8: the precision of what is no integer at int8.
        grids_of_results: it has no convolution of integers that gives floats.
        unrunnable: says why this machine cannot run what the target writes, so that it stays
            unverified; nothing where it can.
    """

    format: str
    payload: str
    precisions: tuple[str, ...]
    distribution: str
    min_version: str
    prepare: Callable[[Model, ExportOptions], Model]
    write: Callable[[Order], Written]
    require: Callable[[str], None] = lambda precision: None
    device: str = "cpu"
    dialect: type[OnnxOps] = OnnxOps
    typed: bool = True
    signed: bool = False
    beside_int8: str = "fp32"
    grids_of_results: bool = False
    unrunnable: Callable[[], str] = lambda: ""
