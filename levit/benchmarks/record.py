"""The record of a run: every raw value, and the conditions under which it was taken.

The JSON document's schema is these dataclasses, field by field; docs/benchmarking.md describes
it. Nothing computed is stored: summaries are made on reading (`levit.benchmarks.summary`), so
that a better statistic serves old runs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

__all__ = [
    "REGISTERS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Contender",
    "Kind",
    "Measurement",
    "Record",
    "Round",
    "Status",
]

SCHEMA: Final = "levit-bench"
SCHEMA_VERSION: Final = 1

# Model of the ceiling that multiplies and adds in registers alone.
REGISTERS: Final = "registers"

Kind: TypeAlias = Literal["ours", "peer", "ceiling"]
Status: TypeAlias = Literal["ok", "failed", "wrong", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model on an engine: the thing that is timed.

    Attributes:
        name: unique in its run, for people: ``levit_128s · levit · ONNX Runtime fp32``.
        model: timm's name, or that of an artifact's folder, or of a ceiling ``matmul``
            or ``registers``.
        engine: key of ``ENGINES``.
        title: display name of the engine: ``levit → ONNX Runtime``.
        runtime: library that does the arithmetic: ``onnxruntime``, ``openvino``, ``pytorch``.
        kind: ``ours``, ``peer``, or ``ceiling`` (a plain matrix product, or registers alone).
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``.
        image_size: (height, width) in pixels.
        macs: multiply-accumulates of one image (of one product, for a ceiling), or None.
        parameters: learnable values, or None.
        top1: published ImageNet-1k accuracy in percent, or None.
    """

    name: str
    model: str
    engine: str
    title: str
    runtime: str
    kind: Kind
    precision: str
    image_size: tuple[int, int]
    macs: int | None = None
    parameters: int | None = None
    top1: float | None = None


@dataclass(frozen=True, kw_only=True)
class Round:
    """One turn of one contender.

    Attributes:
        elapsed_ns: length of the whole turn; with several streams less than the sum of its calls.
        values: nanoseconds of each call; for ``memory`` the peak resident bytes, for
            ``cold-start`` the nanoseconds of each process.
        stages: for ``end-to-end``, the nanoseconds of each stage (decode, resize, network) of
            calls between those of `values`, which have no clocks in them (older records: *infer*
            in place of *network*, with the choice of the class, of those calls themselves); for
            ``end-to-end-many`` as ``cpu`` those of CPU time of each call, of all threads.
    """

    elapsed_ns: int
    values: tuple[int, ...]
    stages: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One contender under one protocol.

    Attributes:
        contender: its name.
        protocol: ``paper``, ``latency``, ``throughput``, ``end-to-end``, ``end-to-end-many``,
            ``cold-start``, ``memory``.
        settings: batch, threads, streams, device, seconds, warmup_s, and of ``end-to-end-many``
            the images of a call; two measurements are compared if theirs are equal.
        status: ``ok``; ``failed`` or ``wrong`` (its answers are not the reference's) or
            ``skipped``, with a reason.
        reason: one line, empty where all is well.
        error: largest difference of its logits from the reference's over their largest.
        rounds: in the order they were taken; round i of all contenders lie side by side.
        scan: for ``throughput``, each try of the search: batch, streams, images_per_second.
    """

    contender: str
    protocol: str
    settings: Mapping[str, Any]
    status: Status = "ok"
    reason: str = ""
    error: float | None = None
    rounds: tuple[Round, ...] = ()
    scan: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run.

    Attributes:
        created: ISO 8601, UTC.
        command: as it was typed.
        status: ``complete`` or ``interrupted``.
        machine: `levit.benchmarks.machine.fingerprint` (nested plain values).
        settings: device, seed, and the other choices made for the run.
        noise: the calibration kernel's nanoseconds and the system's counters
            (`levit.benchmarks.noise`).
        gpu_samples: clocks in MHz and temperature in °C between rounds; empty on a CPU.
        contenders: everything that took part.
        measurements: the results, each naming its contender.
    """

    created: str
    command: tuple[str, ...]
    status: Literal["complete", "interrupted"]
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    noise: Mapping[str, Any]
    gpu_samples: tuple[Mapping[str, Any], ...] = ()
    contenders: tuple[Contender, ...]
    measurements: tuple[Measurement, ...]
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
