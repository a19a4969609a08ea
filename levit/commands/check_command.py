"""``levit check``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from levit.commands.output import print_json, print_table
from levit.runtime.backends import BACKENDS
from levit.runtime.cpus import cpu_class
from levit.runtime.gpus import first_gpu
from levit.runtime.predictor import Predictor

__all__ = ["run"]


def _status(verification: Mapping[str, Any]) -> str:
    """Read how the artifact did where it was written."""
    accuracy = verification.get("accuracy")
    if accuracy is None:
        return str(verification["status"])
    return f"{verification['status']}, accuracy {accuracy['verdict']}"


def run(arguments: argparse.Namespace) -> int:
    """Check hashes, backend and golden cases; 1 when the golden cases are out of tolerance."""
    with Predictor(
        arguments.artifact,
        arguments.device,
        allow_host_code=arguments.allow_host_code,
        prove=False,
    ) as predictor:
        report = predictor.check()
    manifest = predictor.manifest
    gpu = first_gpu() if arguments.device == "gpu" else None
    values = {
        "artifact": str(predictor.path),
        "files": len(manifest.files),
        "backend": BACKENDS[manifest.format].name,
        "device": arguments.device,
        "cpu_class": cpu_class(),
        "gpu_class": None if gpu is None else gpu.machine_class,
        "export_status": manifest.verification["status"],
        "exported_on": manifest.verification.get("cpu_class"),
        "golden_cases": report.cases,
        "max_relative_error": report.max_relative_error,
        "max_abs_error": report.max_abs_error,
        "tolerance": report.tolerance,
        "top1_agreement": report.top1_agreement,
        "preprocessing_error": report.tensor_error,
        "passed": report.passed,
    }
    if arguments.json:
        print_json(values)
    else:
        ranked = report.top1_agreement is not None and manifest.scores == "softmax"
        agreement = f", top-1 {report.top1_agreement:.0%}" if ranked else ""
        same = "the same" if report.tensor_error in (None, 0.0) else f"off by {report.tensor_error}"
        print_table(
            [
                ["files", f"{len(manifest.files)}, hashes as written"],
                ["backend", f"{values['backend']} on {'the CPU' if gpu is None else gpu.name}"],
                ["preprocessing", same],
                [
                    "golden cases",
                    f"{report.cases}, off by {report.max_relative_error:.1e} of the largest "
                    f"(allowed {report.tolerance:.0e}){agreement}",
                ],
                ["export", _status(manifest.verification)],
                ["result", "passed" if report.passed else "FAILED"],
            ]
        )
    return 0 if report.passed else 1
