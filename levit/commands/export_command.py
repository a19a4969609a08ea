"""``levit export``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from levit.artifact import Manifest
from levit.commands.output import print_line, print_note, print_table
from levit.commands.progress import Progress
from levit.errors import ConfigError

__all__ = ["run"]

_DEAF = 1e-3


def run(arguments: argparse.Namespace) -> int:
    """Export as the arguments say; print where it went and how far it is from the reference."""
    from levit.export import ExportOptions, export
    from levit.export.rebuild import rebuild

    names = {f.name for f in fields(ExportOptions)}
    given = {k: v for k, v in vars(arguments).items() if k in names}
    if arguments.path is not None:
        given |= _named_by(arguments.path, arguments.model)
    options = ExportOptions(**given)
    with Progress() as progress:
        progress("starting")
        if arguments.rebuild is None:
            artifact = export(options, progress=progress)
        else:
            _check_alone(options, ExportOptions())
            artifact = rebuild(
                arguments.rebuild, output=options.output, force=options.force, progress=progress
            )
    verification = artifact.manifest.verification
    checked = ""
    if arguments.rebuild is None:
        _print_notes(artifact.manifest)
        checked = _graph_check(verification)
    if reason := verification.get("unverified_because"):
        print_note(
            f"note: the engine has not run here ({reason}){checked}; it proves itself where it is "
            f"first opened"
        )
    if tried := verification.get("tried"):
        _print_tried(tried)
    _print_accuracy(verification.get("accuracy"), artifact.manifest.precision)
    print_line(f"{artifact.path}: {verification['status']}{_distance(verification)}")
    return 0


def _named_by(path: str, model: str | None) -> dict[str, str]:
    """Turn the word without a flag into the option that it stands for."""
    from levit.commands.names import is_model_name

    if not is_model_name(path):
        return {"checkpoint": path}
    if model is not None:
        raise ConfigError(
            f"{path} and --model {model} both name a model (there is no file {path}): give one"
        )
    return {"model": path}


def _print_notes(manifest: Manifest) -> None:
    for choice in manifest.assumed:
        print_note(f"assumed: {choice}")
    verification = manifest.verification
    if verification["output_spread"] < _DEAF:
        print_note(
            f"note: the outputs hardly depend on the picture (spread "
            f"{verification['output_spread']:.0e}), so that the verification shows little: are "
            f"these weights trained?"
        )
    if library := verification.get("source_library"):
        arguments = ", ".join(f"{name}={value!r}" for name, value in library["arguments"].items())
        print_note(
            f"compared with {library['library']} {library['version']}: {library['network']}"
            f"({arguments}), {library['max_relative_error']:.1e} of the largest value"
        )
    if verification["status"] == "forced":
        print_note(f"note: --force has kept an artifact {_fault(manifest)}")


def _fault(manifest: Manifest) -> str:
    """Name the fault of an artifact that only --force has kept."""
    verification, precision = manifest.verification, manifest.precision
    accuracy = verification.get("accuracy")
    if accuracy is not None and accuracy["verdict"] == "cannot tell":
        needed = f"of {accuracy['images']} images, where {accuracy['needed_images']} are needed"
        if accuracy["images"] >= accuracy["needed_images"]:
            needed = "whose labels float32 itself guesses"
            if "decisions" in accuracy:
                needed = f"of {accuracy['decisions']} yes or no of float32, which are too few"
        return f"that nothing tells the accuracy of ({needed})"
    if accuracy is not None and accuracy["verdict"] == "failed":
        return f"whose {precision} does not keep the accuracy"
    if accuracy is None and precision == "int8":
        return "whose answers nobody has judged"
    return "that is out of tolerance"


def _distance(verification: Mapping[str, Any]) -> str:
    """Write the distance of the artifact's answers from the reference."""
    error, cost = verification["max_relative_error"], verification.get("cost_of_integers")
    if error is None:
        return ""
    if cost is None:
        return f", {error:.1e} of the largest value from the reference"
    return (
        f", {error:.1e} of the largest value from its integers exactly computed, and those "
        f"{cost:.1e} from the reference"
    )


def _print_accuracy(accuracy: Mapping[str, Any] | None, precision: str) -> None:
    """Print the accuracy found, and the layers that were kept in floating point for it."""
    if accuracy is None:
        return
    if "top1_drop" in accuracy:
        found = (
            f"top-1 {accuracy['top1']:.2%}, float32 {accuracy['reference_top1']:.2%} "
            f"({accuracy['images']} images)"
        )
    else:
        found = f"{_agreement(accuracy)} ({accuracy['on']})"
    verdict = "" if accuracy["verdict"] == "passed" else f": {accuracy['verdict']}"
    print_note(f"accuracy: {found}{verdict}")
    if kept := accuracy["kept_in_floating_point"]:
        print_note(
            f"note: {precision} throughout does not keep the accuracy; {len(kept)} layers are in "
            f"floating point, the worst first: {', '.join(kept)}"
        )


def _agreement(accuracy: Mapping[str, Any]) -> str:
    """Write the agreement with float32, whichever was measured."""
    images = f"{accuracy['images']} images"
    if "decision_agreement" in accuracy:
        return f"decisions agree with float32's to {accuracy['decision_agreement']:.2%} on {images}"
    if "r_squared" in accuracy:
        return f"R² of {accuracy['r_squared']:.4f} to float32's values on {images}"
    return f"top-1 as float32's for {accuracy['top1_agreement']:.2%} of {images}"


def _print_tried(tried: Mapping[str, Any]) -> None:
    """Print the candidates of `--target auto`, and their speed here."""
    rows = [
        [
            entry["target"],
            entry["precision"],
            "any" if entry["batch"] is None else str(entry["batch"]),
            entry["form"],
            entry["dialect"],
            "" if entry["latency_ms"] is None else f"{entry['latency_ms']:.2f}",
            "" if entry["ratio"] is None else f"{entry['ratio']:.2f}",
            entry["verdict"],
        ]
        for entry in tried["candidates"]
    ]
    header = ["target", "precision", "batch", "form", "dialect", "ms", "ratio", "verdict"]
    print_line(f"batch {tried['batch']}, {tried['threads']} threads, {tried['cpu']}")
    print_table(rows, header)


def _graph_check(verification: Mapping[str, Any]) -> str:
    """Write the distance of the graph from the reference on the CPU, where it was measured."""
    precision, error = "fp32", verification.get("fp32_max_relative_error")
    if graph := verification.get("graph"):
        precision, error = graph["precision"], graph["max_relative_error"]
    if error is None:
        return ""
    return (
        f"; its graph has, in {precision} on the CPU, {error:.1e} of the largest value from the "
        f"reference"
    )


def _check_alone(options: Any, defaults: Any) -> None:
    """Raise where an option is given that a rebuilt artifact would not have."""
    given = [
        field.name
        for field in fields(options)
        if getattr(options, field.name) != getattr(defaults, field.name)
    ]
    odd = [f"--{name.replace('_', '-')}" for name in given if name not in ("output", "force")]
    if odd:
        raise ConfigError(
            f"--rebuild keeps what the artifact is, so {', '.join(odd)} cannot go with it: leave "
            f"it out, or export again"
        )
