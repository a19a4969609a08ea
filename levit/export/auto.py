"""``--target auto``: build what this machine can run, time it in turns, keep the fastest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from levit.artifact import MANIFEST_FILE, Artifact, open_artifact, write_manifest
from levit.errors import BackendUnavailableError, ExportError, LevitError
from levit.export.build import destination_of, export_to, plan_of
from levit.export.onnx.onnxruntime_ops import OnnxruntimeOps
from levit.export.onnx.ops import OnnxOps
from levit.export.options import DEFAULT_PROFILE, ExportOptions
from levit.export.quantization.hardware import must_reduce_range
from levit.export.quantization.pictures import read_pictures
from levit.export.settings import choose_labels, choose_preprocess
from levit.export.sources import Source, load_source
from levit.export.staging import check_destination, staged_folder
from levit.export.targets import TARGETS, Target
from levit.export.targets.target import Progress
from levit.export.timing import time_in_turns
from levit.interruption import raise_if_interrupted
from levit.models.levit.layers import LevitParams
from levit.runtime.cpus import available_cpus, cpu_features, cpu_model, cpu_precisions
from levit.runtime.predictor import Predictor

__all__ = ["Tried", "export_fastest"]

# Forms that a family with a grid can be written in; docs/decisions.md has what they are.
_FORMS: Final = {"tokens": False, "channels first": True}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One way to write the model.

    Attributes:
        batch: a fixed size, or None for any.
        form: of the dataflow.
        dialect: of its operations: the target's ``own``, or ``standard``.
        latency_ms: the median of rounds; None where it was not timed.
        ratio: how many times faster it is than the first that was timed, median over rounds.
        verdict: ``kept``, ``slower``, or why it was not timed.
    """

    target: str
    precision: str
    batch: int | None
    form: str
    dialect: str = "own"
    latency_ms: float | None = None
    ratio: float | None = None
    verdict: str = ""

    def words(self) -> str:
        """What it is, in a part of a line."""
        dialect = "" if self.dialect == "own" else f", {self.dialect} dialect"
        return f"{self.target} {self.precision}, {self.form}{dialect}"


def export_fastest(
    options: ExportOptions, *, model: Any = None, progress: Progress = lambda step: None
) -> Artifact:
    """As `levit.export.export`, for whichever of all targets is the fastest here.

    Candidates are every target that this machine runs, at fp32; at bf16 where the CPU computes in
    it and ``eval`` judges what that costs; at int8 where there is ``calibration``; in each form of
    the dataflow and each dialect that may be the faster one, and with a fixed batch both bound to
    it and not. Those that break the accuracy contract are out. What was tried stands in the
    manifest's ``verification.tried``.

    Args:
        options: their ``precision`` is the only one that is tried, unless it is fp32.

    Raises:
        LevitError: as `export`; or no candidate can be written.
    """
    if options.output is not None:  # before anything is fetched
        check_destination(Path(options.output), force=options.force)
    source = load_source(options, model)
    candidates = tuple(_candidates(options, has_grid=isinstance(source.model.params, LevitParams)))
    for place in {
        destination_of(options, source.variant, one.target, one.precision) for one in candidates
    }:
        check_destination(place, force=options.force)
    _look_at_pictures(options, source)
    with tempfile.TemporaryDirectory(prefix="levit-auto-") as temporary:
        tried: list[Tried] = []
        folders: list[Path] = []
        failure: LevitError | None = None
        for number, candidate in enumerate(candidates):
            progress(f"building {candidate.words()}")
            folder = Path(temporary) / str(number)
            try:
                export_to(
                    _target_of(candidate), _options_of(candidate, options, folder), model=model
                )
            except LevitError as error:
                raise_if_interrupted()
                failure = failure or error
                tried.append(replace(candidate, verdict=str(error)))
            else:
                tried.append(candidate)
                folders.append(folder)
        if not folders:
            assert failure is not None
            raise failure
        progress("timing")
        tried, best = _timed(tried, folders, options)
        winner = open_artifact(best, verify_hashes=False)
        manifest = winner.manifest
        destination = destination_of(options, manifest.variant, manifest.target, manifest.precision)
        with staged_folder(destination, force=options.force) as staging:
            for path in best.iterdir():
                if path.name != MANIFEST_FILE:
                    shutil.copyfile(path, staging / path.name)
            entry = {
                "batch": options.static_batch or 1,
                "threads": available_cpus(),
                "cpu": cpu_model(),
                "candidates": [asdict(one) for one in tried],
            }
            verification = {**manifest.verification, "tried": entry}
            write_manifest(staging, replace(manifest, verification=verification))
    return open_artifact(destination, verify_hashes=False)


def _look_at_pictures(options: ExportOptions, source: Source) -> None:
    """Raise `CalibrationError` before any work: what is wrong with them is no candidate's fault."""
    spec, _ = choose_preprocess(options, source)
    labels, _ = choose_labels(options, source)
    planned = plan_of(options, source.model, spec)
    if options.calibration is not None:
        read_pictures(options.calibration, planned, spec)
    if options.eval is not None:
        read_pictures(options.eval, planned, spec, labels)


def _candidates(options: ExportOptions, *, has_grid: bool) -> Iterator[Tried]:
    found = False
    for name, target in TARGETS.items():
        for precision in _precisions(options):
            if precision == "bf16" and not (
                target.format == "openvino" and cpu_precisions(cpu_features())["bf16"]
            ):
                continue  # elsewhere it is converted to float32 and back
            try:
                target.require(precision)
            except BackendUnavailableError:
                continue
            if target.unrunnable():
                continue
            for form, dialect in _ways(target, precision, has_grid=has_grid):
                for batch in dict.fromkeys((options.static_batch, None)):
                    found = True
                    yield Tried(
                        target=name, precision=precision, batch=batch, form=form, dialect=dialect
                    )
    if not found:
        raise ExportError(
            f"no target runs {options.precision} on this machine: `levit doctor` says what is here"
        )


def _ways(target: Target, precision: str, *, has_grid: bool) -> Iterator[tuple[str, str]]:
    """(form, dialect) in which a target may be written."""
    # On a GPU the form is the target's own; at int8 it is tokens, whose integers give floats.
    fixed = precision == "int8" or target.device != "cpu"
    for form in _FORMS if has_grid and not fixed else ("tokens",):
        yield form, "own"
        # The dialects differ in Linears over tokens alone; others are for what cannot be written
        # otherwise.
        if target.dialect is OnnxruntimeOps and form == "tokens" and not fixed:
            yield form, "standard"


def _precisions(options: ExportOptions) -> Sequence[str]:
    if options.precision != "fp32":
        return (options.precision,)
    more = []
    if options.eval is not None:
        more.append("bf16")
    if options.calibration is not None:
        more.append("int8")
    return ("fp32", *more)


def _options_of(candidate: Tried, options: ExportOptions, folder: Path) -> ExportOptions:
    int8, fp32 = candidate.precision == "int8", candidate.precision == "fp32"
    return replace(
        options,
        target=candidate.target,
        precision=candidate.precision,
        batch=options.batch if candidate.batch is not None else _any_batch(options),
        calibration=options.calibration if int8 else None,
        reduce_range=int8 and (options.reduce_range or must_reduce_range()),
        eval=None if fp32 else options.eval,
        max_drop=None if fp32 else options.max_drop,
        output=folder,
        force=False,  # which is about the destination: what breaks the contract stays out
        dump_passes=None,
    )


def _any_batch(options: ExportOptions) -> tuple[int, int, int] | None:
    """A profile around a fixed size, for an artifact that takes any."""
    if isinstance(options.batch, int):
        return (1, options.batch, max(DEFAULT_PROFILE[-1], options.batch))
    return options.batch


def _target_of(candidate: Tried) -> Target:
    """Its target, made to write models in its form and dialect."""
    form = _FORMS[candidate.form]
    target = TARGETS[candidate.target]
    return replace(
        target,
        prepare=lambda model, _: model.with_plan(channels_first=form),
        dialect=target.dialect if candidate.dialect == "own" else OnnxOps,
    )


def _timed(
    tried: Sequence[Tried], folders: Sequence[Path], options: ExportOptions
) -> tuple[list[Tried], Path]:
    """(all with their times, the fastest)."""
    with ExitStack() as stack:
        calls = []
        for folder in folders:
            device = TARGETS[open_artifact(folder, verify_hashes=False).manifest.target].device
            predictor = stack.enter_context(
                Predictor(folder, device, workers=0, prove=False, allow_host_code=True)
            )
            spec = predictor.manifest.inputs[0]
            rows = (options.static_batch or 1, *map(int, spec.shape[1:]))
            batch = np.random.default_rng(0).standard_normal(rows).astype(spec.dtype)
            calls.append(partial(predictor.forward, batch))
        seconds = time_in_turns(calls)
    medians = np.median(seconds, axis=0)
    ratios = np.median(seconds[:, :1] / seconds, axis=0)
    best = int(np.argmax(ratios))
    result, place = [], 0
    for candidate in tried:
        if not candidate.verdict:
            candidate = replace(
                candidate,
                latency_ms=round(1e3 * float(medians[place]), 4),
                ratio=round(float(ratios[place]), 3),
                verdict="kept" if place == best else "slower",
            )
            place += 1
        result.append(candidate)
    return result, folders[best]
