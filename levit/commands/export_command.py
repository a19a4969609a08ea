"""``levit export``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import fields

from levit.commands.output import Progress
from levit.errors import BackendUnavailableError

__all__ = ["run"]

_STEPS = ("reading weights", "folding", "evaluating the reference", "writing", "verifying")
_DEAF = 1e-3
_NEEDED = {"onnx": "onnx", "safetensors": "safetensors"}


def run(arguments: argparse.Namespace) -> int:
    """Export as the arguments say; print where it went and how far it is from the reference."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendUnavailableError(
            f"exporting needs {' and '.join(missing)}: pip install 'levit[export]'"
        )
    from levit.export import ExportOptions, export

    names = {f.name for f in fields(ExportOptions)}
    options = ExportOptions(**{k: v for k, v in vars(arguments).items() if k in names})
    with Progress(len(_STEPS), "starting") as progress:
        # What a target tells of its own work in between changes the words, not the bar.
        artifact = export(
            options, progress=lambda step: progress.advance(int(step in _STEPS), step)
        )
    manifest = artifact.manifest
    for choice in manifest.assumed:
        print(f"assumed: {choice}", file=sys.stderr)
    verification = manifest.verification
    if verification["output_spread"] < _DEAF:
        print(
            f"note: the outputs hardly depend on the picture (spread "
            f"{verification['output_spread']:.0e}), so that the verification shows little: are "
            f"these weights trained?",
            file=sys.stderr,
        )
    if verification["status"] == "forced":
        print("note: --force has kept an artifact that is out of tolerance", file=sys.stderr)
    if reason := verification.get("unverified_because"):
        graph = verification["graph"]
        print(
            f"note: the engine has not run here ({reason}); its graph has, in {graph['precision']} "
            f"on the CPU, {graph['max_relative_error']:.1e} of the largest value from the "
            f"reference; the engine proves itself where it is first opened",
            file=sys.stderr,
        )
    error = verification["max_relative_error"]
    detail = "" if error is None else f", {error:.1e} of the largest value from the reference"
    print(f"{artifact.path}: {verification['status']}{detail}")
    return 0
