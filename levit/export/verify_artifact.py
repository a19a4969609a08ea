"""A new artifact against the reference, on this host: what its manifest says of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from levit.artifact import Manifest, describe_files, write_manifest
from levit.errors import VerificationError
from levit.export.fitting import Scanner
from levit.export.options import ExportOptions
from levit.export.ranges import open_graph
from levit.export.sources import Source
from levit.export.targets import Target
from levit.export.verify import TOLERANCES, Golden, cost_of_integers, prove_in_fp32, tolerance_of
from levit.models.model import Model
from levit.runtime.batching import run_in_chunks
from levit.runtime.cpus import cpu_class, cpu_features, cpu_model
from levit.runtime.golden import compare_outputs
from levit.runtime.predictor import Predictor

__all__ = ["check_graph", "forward_of", "run_here", "verify_artifact"]


def verify_artifact(
    options: ExportOptions,
    source: Source,
    deployed: Model,
    scanner: Scanner,
    target: Target,
    manifest: Manifest,
    folder: Path,
    golden: Golden,
    stored: Golden,
    graph: bytes | None,
) -> dict[str, Any]:
    """Run the artifact here, or where this host cannot, the graph that it was built from.

    Args:
        source: with the model that the reference is.
        deployed: as it was emitted.
        scanner: has its graph in fp32, or makes it.
        manifest: complete but for this.
        golden: the reference's answers.
        stored: those that the artifact holds: the same, but for int8, whose are its own integers',
            exactly computed.
        graph: the ONNX that the payload was built from, if it can run here.

    Returns:
        The manifest's ``verification``.

    Raises:
        VerificationError: out of tolerance, and not forced.
    """
    tolerance = tolerance_of(manifest.format, manifest.precision, golden, stored)
    verification: dict[str, Any] = {
        "status": "unverified",
        "tolerance": tolerance.value,
        "tolerance_reason": tolerance.reason,
        "max_relative_error": None,
        "max_abs_error": None,
        "top1_agreement": None,
        **({} if stored is golden else {"cost_of_integers": cost_of_integers(golden, stored)}),
        "cases": len(golden.inputs),
        "output_spread": golden.spread,
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        # No class: the first machine that opens it runs the golden cases.
        "cpu_class": None,
        "source_library": None,
    }
    if options.verify == "none":
        return verification
    if options.verify == "source":
        from levit.export.verify_source import compare_with_source

        verification["source_library"] = compare_with_source(source, golden)
    if manifest.precision != "fp32":
        error = prove_in_fp32(scanner.taps(deployed), golden)
        allowed = TOLERANCES["onnx", "fp32"].value
        if error > allowed and not options.force:
            raise VerificationError(
                f"the graph, written in fp32, is off by {error:.1e} of the largest value, allowed "
                f"is {allowed:.1e}; it is not written (--force writes it, and says so in the "
                f"manifest)"
            )
        if error > allowed:
            verification["status"] = "forced"
        verification["fp32_max_relative_error"] = error if math.isfinite(error) else None
        verification["fp32_tolerance"] = allowed
    if graph is not None:
        on_cpu = tolerance_of("onnx", manifest.precision, golden, stored)
        entry = check_graph(graph, manifest, stored, on_cpu.value)
        passed = _within(entry)
        what = "the graph that the engine was built from"
        _judge(what, entry, manifest, passed=passed, force=options.force)
        if not passed:
            verification["status"] = "forced"
        verification["graph"] = entry
    return run_here(target, manifest, folder, verification, force=options.force)


def run_here(
    target: Target,
    manifest: Manifest,
    folder: Path,
    verification: Mapping[str, Any],
    *,
    force: bool,
) -> dict[str, Any]:
    """The golden cases of a complete folder, if this host can run it.

    Args:
        verification: what is known so far, with ``tolerance``.
        force: keep what is out of tolerance.

    Returns:
        `verification` with what has come out, or why nothing has.

    Raises:
        VerificationError: out of tolerance, and not forced.
    """
    if reason := target.unrunnable():
        return {**verification, "unverified_because": reason}
    write_manifest(
        folder, replace(manifest, files=describe_files(folder), verification=verification)
    )
    with Predictor(
        folder,
        target.device,
        prove=False,
        allow_host_code=True,  # built a moment ago, by this process
    ) as predictor:
        report = predictor.check()
        here = predictor.machine_class
    found = {
        "tolerance": report.tolerance,
        "max_relative_error": report.max_relative_error,
        "max_abs_error": report.max_abs_error,
        "top1_agreement": report.top1_agreement,
    }
    _judge("the artifact", found, manifest, passed=report.passed, force=force)
    forced = not report.passed or verification["status"] == "forced"
    return {
        **verification,
        **found,
        "status": "forced" if forced else "passed",
        **({"gpu_class": here} if target.device == "gpu" else {"cpu_class": cpu_class()}),
    }


def check_graph(
    graph: bytes, manifest: Manifest, golden: Golden, tolerance: float
) -> dict[str, Any]:
    """An ONNX file on this CPU, by ONNX Runtime, against the answers that the artifact holds."""
    outputs = forward_of(graph, manifest)(golden.inputs)
    reference = {name: value.astype(np.float32) for name, value in golden.outputs.items()}
    relative, absolute, agreement = compare_outputs(outputs, reference)
    return {
        "precision": manifest.precision,
        "backend": f"ONNX Runtime {onnxruntime.__version__}, CPU",
        "tolerance": tolerance,
        "max_relative_error": relative,
        "max_abs_error": absolute,
        "top1_agreement": agreement,
    }


def forward_of(
    graph: bytes, manifest: Manifest
) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    """An ONNX file on this CPU, by ONNX Runtime, for any number of inputs."""
    session = open_graph(onnx.load_from_string(graph))
    names = [output.name for output in manifest.outputs]
    feed = manifest.inputs[0].name

    def run(batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, {feed: batch}), strict=True))

    return lambda inputs: run_in_chunks(run, inputs, manifest)


def _within(found: Mapping[str, Any]) -> bool:
    """What changes a first class that is no tie is out of tolerance (`GoldenReport.passed`)."""
    return bool(found["max_relative_error"] <= found["tolerance"])


def _judge(
    what: str, found: Mapping[str, Any], manifest: Manifest, *, passed: bool, force: bool
) -> None:
    """Raise unless it has passed, or `force` is given; not finite is worth nothing to anybody."""
    if not math.isfinite(found["max_relative_error"]):
        raise VerificationError(
            f"{what} has outputs that are not finite: its weights or activations leave the range "
            f"of {manifest.precision}; it is not written"
        )
    if not passed and not force:
        raise VerificationError(
            f"{what} is off by {found['max_relative_error']:.1e} of the largest value, allowed is "
            f"{found['tolerance']:.1e}, with top-1 agreement {found['top1_agreement']}; it is not "
            f"written (--force writes it, and says so in the manifest)"
        )
