"""``--target auto``: build all that this machine can run, time it in turns, keep the fastest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from levit.artifact import MANIFEST_FILE, Artifact, open_artifact, write_manifest
from levit.errors import BackendUnavailableError, ExportError, LevitError
from levit.export.options import DEFAULT_PROFILE, ExportOptions
from levit.export.prepare import Prepared
from levit.export.progress import Progress, silent
from levit.export.quantization.hardware import must_reduce_range
from levit.export.staging import check_destination, staged_folder
from levit.export.targets import TARGETS, Target
from levit.export.timing import time_in_turns
from levit.export.write import destination_of, write
from levit.interruption import raise_if_interrupted
from levit.runtime.cpus import available_cpus, cpu_model
from levit.runtime.predictor import Predictor

__all__ = ["Tried", "write_fastest"]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One way to write the model.

    Attributes:
        batch: a fixed size, or None for any.
        form: of the dataflow.
        dialect: of its operations: the target's ``own``, or another.
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


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """An artifact that is to be built, and the words for it."""

    tried: Tried
    target: Target
    options: ExportOptions
    words: str


def write_fastest(prepared: Prepared, *, progress: Progress = silent) -> Artifact:
    """Write a prepared checkpoint for whichever of all targets is the fastest here.

    ::

        write_fastest(prepare(ExportOptions(model="levit_digits", target="auto")))

    Candidates are every target that this machine runs, at fp32; at bf16 where the CPU computes in
    it and ``eval`` judges what that costs; at int8 where there is ``calibration``; in each way in
    which the target says that it may be written, and with a fixed batch both bound to it and not.
    Those that break the accuracy contract are out. All that was tried stands in the manifest's
    ``verification.tried``.

    Args:
        prepared: their ``precision`` is the only one that is tried, unless it is fp32.

    Raises:
        LevitError: as `levit.export.export`; or no candidate can be written.
    """
    options, variant = prepared.options, prepared.source.variant
    candidates = tuple(_candidates(prepared))
    for target, precision in {(one.tried.target, one.tried.precision) for one in candidates}:
        place = destination_of(options, variant, target, precision)
        check_destination(place, force=options.force)
    _look_at_pictures(prepared)
    with tempfile.TemporaryDirectory(prefix="levit-auto-") as temporary:
        tried: list[Tried] = []
        folders: list[Path] = []
        failure: LevitError | None = None
        for number, one in enumerate(candidates):
            title = f"building {number + 1} of {len(candidates)}: {one.words}"
            progress(title, number, len(candidates))
            folder = Path(temporary) / str(number)
            try:
                write(
                    prepared,
                    one.target,
                    replace(one.options, output=folder),
                    progress=_under(title, progress),
                )
            except LevitError as error:
                raise_if_interrupted()
                failure = failure or error
                tried.append(replace(one.tried, verdict=str(error)))
            else:
                tried.append(one.tried)
                folders.append(folder)
        if not folders:
            assert failure is not None
            raise failure
        progress("timing in turns")
        tried, best = _timed(tried, folders, options)
        return _keep(best, tried, prepared)


def _under(title: str, progress: Progress) -> Progress:
    """Progress of the steps of one candidate."""

    def show(step: str, done: int = 0, total: int = 0) -> None:
        progress(f"{title}: {step}", done, total)

    return show


def _keep(best: Path, tried: Sequence[Tried], prepared: Prepared) -> Artifact:
    """Copy the fastest to its destination, with all that was tried in its manifest."""
    options, manifest = prepared.options, open_artifact(best, verify_hashes=False).manifest
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


def _look_at_pictures(prepared: Prepared) -> None:
    """Raise `CalibrationError` before any work: bad pictures are no candidate's fault."""
    if prepared.options.calibration is not None:
        len(prepared.calibration)
    if prepared.options.eval is not None:
        len(prepared.judging or ())


def _candidates(prepared: Prepared) -> Iterator[_Candidate]:
    options, found = prepared.options, False
    for name, target in TARGETS.items():
        for precision in _precisions(options):
            try:
                target.require(precision)
            except BackendUnavailableError:
                continue
            if precision not in target.precisions or target.unrunnable():
                continue
            for way in target.ways(prepared.trained, precision):
                for batch in dict.fromkeys((options.static_batch, None)):
                    found = True
                    yield _Candidate(
                        tried=Tried(
                            target=name,
                            precision=precision,
                            batch=batch,
                            form=way.form,
                            dialect=way.dialect,
                        ),
                        target=target.in_way(way),
                        options=_options_of(name, precision, batch, options),
                        words=f"{name} {precision}, {way}",
                    )
    if not found:
        raise ExportError(
            f"no target runs {options.precision} on this machine: `levit doctor` says what is here"
        )


def _precisions(options: ExportOptions) -> Sequence[str]:
    if options.precision != "fp32":
        return (options.precision,)
    more = []
    if options.eval is not None:
        more.append("bf16")
    if options.calibration is not None:
        more.append("int8")
    return ("fp32", *more)


def _options_of(
    target: str, precision: str, batch: int | None, options: ExportOptions
) -> ExportOptions:
    int8, fp32 = precision == "int8", precision == "fp32"
    return replace(
        options,
        target=target,
        precision=precision,
        batch=options.batch if batch is not None else _any_batch(options),
        calibration=options.calibration if int8 else None,
        reduce_range=int8 and (options.reduce_range or _must_reduce_range(target)),
        eval=None if fp32 else options.eval,
        max_drop=None if fp32 else options.max_drop,
        force=False,  # which is about the destination: a candidate that breaks the contract is out
        dump_passes=None,
    )


def _must_reduce_range(target: str) -> bool:
    return must_reduce_range() and not TARGETS[target].integers.exact_everywhere


def _any_batch(options: ExportOptions) -> tuple[int, int, int] | None:
    """A profile around a fixed size, for an artifact that takes any."""
    if isinstance(options.batch, int):
        return (1, options.batch, max(DEFAULT_PROFILE[-1], options.batch))
    return options.batch


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
