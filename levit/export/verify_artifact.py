"""A new artifact against the reference, on this host: its manifest's ``verification``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from levit.artifact import Manifest, describe_files, write_manifest
from levit.errors import VerificationError
from levit.export.options import ExportOptions
from levit.export.prepare import Prepared
from levit.export.ranges import open_graph
from levit.export.targets import Target
from levit.export.verify import TOLERANCES, Golden, cost_of_integers, prove_in_fp32, tolerance_of
from levit.models.model import Model
from levit.runtime.batching import run_in_chunks
from levit.runtime.cpus import cpu_class, cpu_features, cpu_model
from levit.runtime.golden import compare_outputs
from levit.runtime.predictor import Predictor

__all__ = ["Candidate", "check_graph", "forward_of", "run_here", "verify_artifact"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """An artifact that has been written and is to be verified.

    Attributes:
        folder: complete but for the manifest.
        manifest: complete but for its verification.
        target: that wrote it.
        deployed: the model as it was emitted, in floating point.
        golden: the cases that it holds: the reference's answers, at int8 those of its own
            integers, exactly computed.
        graph: the ONNX that the payload was built from, if it can run here.
    """

    folder: Path
    manifest: Manifest
    target: Target
    deployed: Model
    golden: Golden
    graph: bytes | None


def verify_artifact(
    candidate: Candidate, prepared: Prepared, options: ExportOptions
) -> dict[str, Any]:
    """Run an artifact here, or where this host cannot, the graph that it was built from.

    Args:
        prepared: has the reference.
        options: of the artifact.

    Returns:
        The manifest's ``verification``.

    Raises:
        VerificationError: out of tolerance, and not forced.
    """
    manifest, exact, stored = candidate.manifest, prepared.golden, candidate.golden
    tolerance = tolerance_of(manifest.precision, exact, stored)
    verification: dict[str, Any] = {
        "status": "unverified",
        "tolerance": tolerance.value,
        "tolerance_reason": tolerance.reason,
        "max_relative_error": None,
        "max_abs_error": None,
        "top1_agreement": None,
        **({} if stored is exact else {"cost_of_integers": cost_of_integers(exact, stored)}),
        "cases": len(exact.inputs),
        "output_spread": exact.spread,
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        # No class: the first machine that opens it runs the golden cases.
        "cpu_class": None,
        "source_library": None,
    }
    if options.verify == "none":
        return verification
    if options.verify == "source":
        verification["source_library"] = prepared.source_library
    if manifest.precision != "fp32":
        error = prove_in_fp32(prepared.scanner.taps(candidate.deployed), exact)
        allowed = TOLERANCES["fp32"].value
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
    if candidate.graph is not None:
        entry = check_graph(candidate.graph, manifest, stored, tolerance.value)
        passed = _within(entry)
        subject = "the graph that the engine was built from"
        _require(subject, entry, manifest, passed=passed, force=options.force)
        if not passed:
            verification["status"] = "forced"
        verification["graph"] = entry
    return run_here(candidate.target, manifest, candidate.folder, verification, force=options.force)


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
        verification: entries so far, with ``tolerance``.
        force: keep an artifact that is out of tolerance.

    Returns:
        `verification` with the errors that were found, or why nothing could run.

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
    _require("the artifact", found, manifest, passed=report.passed, force=force)
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
    """True within tolerance; an error that changes a sure first class exceeds it anyway."""
    return bool(found["max_relative_error"] <= found["tolerance"])


def _require(
    subject: str, found: Mapping[str, Any], manifest: Manifest, *, passed: bool, force: bool
) -> None:
    """Raise unless it has passed, or `force` is given; not finite is worth nothing to anybody."""
    if not math.isfinite(found["max_relative_error"]):
        raise VerificationError(
            f"{subject} has outputs that are not finite: its weights or activations leave the "
            f"range of {manifest.precision}; it is not written"
        )
    if not passed and not force:
        raise VerificationError(
            f"{subject} is off by {found['max_relative_error']:.1e} of the largest value, allowed "
            f"is {found['tolerance']:.1e}{_first_classes(found, manifest)}; it is not written "
            f"(--force writes it, and says so in the manifest)"
        )


def _first_classes(found: Mapping[str, Any], manifest: Manifest) -> str:
    """Write the agreement of first classes, where there is one right class."""
    if manifest.scores != "softmax":
        return ""
    return f", with top-1 agreement {found['top1_agreement']}"
