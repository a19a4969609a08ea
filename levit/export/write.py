"""A prepared checkpoint × a target → a verified artifact."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from levit import __version__
from levit.artifact import (
    GOLDEN_FILE,
    LABELS_FILE,
    Artifact,
    BatchProfile,
    Manifest,
    describe_files,
    open_artifact,
    write_manifest,
)
from levit.errors import VerificationError
from levit.export.contract import Judgement
from levit.export.dump import dump_passes
from levit.export.fitting import find_islands
from levit.export.interface import input_spec, output_specs
from levit.export.judging import Judge, accuracy_entry, choose_judge, refusal
from levit.export.options import ExportOptions
from levit.export.passes import EXACT, Applied, require_exact
from levit.export.prepare import Prepared
from levit.export.progress import Progress, silent
from levit.export.quantization.compiler import Attempt
from levit.export.quantization.hardware import require_vnni, required_features
from levit.export.quantization.reference import QuantizedOps
from levit.export.staging import staged_folder
from levit.export.targets import Order, Target, Written
from levit.export.verify import Golden
from levit.export.verify_artifact import Candidate, verify_artifact
from levit.models.model import Model

__all__ = ["destination_of", "write"]


def write(
    prepared: Prepared, target: Target, options: ExportOptions, *, progress: Progress = silent
) -> Artifact:
    """Write, verify and judge one artifact.

    ::

        prepared = prepare(options)
        write(prepared, find_target("onnx", "fp32"), options)

    Args:
        target: need not stand in the table.
        options: of this artifact: its target, precision, batch and folder.
        progress: told each step.

    Raises:
        LevitError: whatever is wrong; nothing is written then.
    """
    variant = prepared.source.variant
    destination = destination_of(options, variant, options.target, options.precision)
    judge = choose_judge(prepared, options)
    if options.precision == "int8":
        require_vnni(options, target.device, target.integers)
    with staged_folder(destination, force=options.force) as folder:
        compiled = _compile(prepared, target, options, progress)
        if judge is not None and not options.force:  # before any engine is built
            judge.require_enough(options.precision)
        _Writer(
            prepared=prepared,
            target=target,
            options=options,
            compiled=compiled,
            judge=judge,
            folder=folder,
            progress=progress,
        ).settle()
        if options.dump_passes is not None:
            opset = options.opset if target.floats(options.precision) == "fp32" else None
            dump_passes(prepared, compiled.applied, Path(options.dump_passes), opset)
    return open_artifact(destination, verify_hashes=False)


def destination_of(options: ExportOptions, variant: str, target: str, precision: str) -> Path:
    """The artifact's folder."""
    # As it is written: a/../b is b, also where there is no a.
    return Path(os.path.normpath(options.output or f"{variant}-{target}-{precision}"))


@dataclass(frozen=True, kw_only=True)
class _Compiled:
    """A model in the form that a target writes.

    Attributes:
        applied: the passes that led to it.
        difference: of the folded model from the one as trained; more than 1e-12 only by force.
        deployed: the folded model in the dataflow of the target.
        islands: values and weights that stay float32 at fp16.
    """

    applied: tuple[Applied, ...]
    difference: float
    deployed: Model
    islands: tuple[str, ...]


def _compile(
    prepared: Prepared, target: Target, options: ExportOptions, progress: Progress
) -> _Compiled:
    precision = options.precision
    quantizer = prepared.quantizer if precision == "int8" else None
    progress("folding")
    # Pixels that are multiplied as they are have their normalisation in the weights.
    pixels = prepared.trained.plan.pixels is not None and not target.integers.keep_first
    as_they_are = precision == "int8" and pixels
    applied = prepared.folded("fp32" if as_they_are else precision)
    if quantizer is not None:
        model = target.prepare(applied[-1].model, precision)
        scheme = target.integers.scheme(reduce_range=options.reduce_range)
        applied = (*applied, quantizer.equalize(model, scheme, progress))
    progress("evaluating the reference")
    folded = applied[-1].model
    difference = prepared.difference(folded)
    if not options.force:
        require_exact("folding", difference)
    deployed = target.prepare(folded, precision)
    islands = find_islands(deployed, target.floats(precision), prepared.scanner)
    return _Compiled(applied=applied, difference=difference, deployed=deployed, islands=islands)


@dataclass(frozen=True, kw_only=True)
class _Failed:
    """An attempt that breaks the accuracy contract."""

    judgement: Judgement
    verification: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """Writes attempts into a folder until one is good."""

    prepared: Prepared
    target: Target
    options: ExportOptions
    compiled: _Compiled
    judge: Judge | None
    folder: Path
    progress: Progress

    def settle(self) -> None:
        """Write the first attempt that keeps the contract; none does: by force the first of all.

        Raises:
            VerificationError: none does, without force.
        """
        made: list[Attempt] = []
        first: _Failed | None = None
        failure: VerificationError | None = None
        for attempt in self._attempts():
            if made:
                self.progress(f"trying with {len(attempt.kept)} layers in floating point")
            made.append(attempt)
            try:
                manifest, judgement = self._make(attempt, first)
            except VerificationError as error:
                if attempt.quantization is None:
                    raise
                failure = failure or error
                continue
            if manifest.verification["status"] != "forced":
                write_manifest(self.folder, manifest)
                return
            if judgement is None:
                break
            first = first or _Failed(judgement=judgement, verification=manifest.verification)
            if judgement.verdict == "cannot tell":
                break
        if self.options.force:
            if len(made) > 1 or failure is not None:  # its files have been written over
                manifest, _ = self._make(made[0], None)
            write_manifest(self.folder, manifest)
            return
        if first is None:
            assert failure is not None, "no attempt was made"
            raise failure
        worst = made[1].kept if len(made) > 1 else ()
        raise refusal(first.judgement, self.options.precision, worst)

    def _attempts(self) -> Iterable[Attempt]:
        if self.options.precision != "int8":
            return [Attempt(model=self.compiled.deployed)]
        integers = self.target.integers
        return self.prepared.quantizer.attempts(
            self.compiled.deployed,
            integers.scheme(reduce_range=self.options.reduce_range),
            self.compiled.islands,
            integer_results=integers.integer_results,
            integer_attention=integers.integer_attention,
            keep_first=integers.keep_first,
            progress=self.progress,
        )

    def _make(self, attempt: Attempt, first: _Failed | None) -> tuple[Manifest, Judgement | None]:
        """(its manifest, the contract's verdict); ``forced`` is what only force keeps.

        Args:
            first: the first attempt, where this is another.
        """
        if not attempt.kept:
            self.progress("writing")
        golden = self._golden(attempt)
        written = self._write(attempt, golden)
        manifest = self._manifest(attempt, written)
        judgement = None
        if first is not None:
            # Most of these fail by their answers, and are verified in vain.
            manifest = replace(
                manifest, files=describe_files(self.folder), verification=first.verification
            )
            write_manifest(self.folder, manifest)
            judgement = self._judge(manifest, written, only_verdict=True)
            if judgement is not None and judgement.verdict != "passed":
                return manifest, judgement
        else:
            self.progress("verifying")
        candidate = Candidate(
            folder=self.folder,
            manifest=manifest,
            target=self.target,
            deployed=self.compiled.deployed,
            golden=golden,
            graph=written.graph,
        )
        verification = verify_artifact(candidate, self.prepared, self.options)
        if self.compiled.difference > EXACT:
            verification["status"] = "forced"
        judgement = judgement or self._judge(manifest, written, only_verdict=False)
        if judgement is not None:
            before = None if first is None else first.judgement
            verification["accuracy"] = accuracy_entry(judgement, attempt.kept, before)
            if judgement.verdict != "passed":
                verification["status"] = "forced"
        elif attempt.quantization is not None and self.options.verify != "none":
            verification["status"] = "forced"  # nothing tells what its integers cost
        files = describe_files(self.folder)
        return replace(manifest, files=files, verification=verification), judgement

    def _golden(self, attempt: Attempt) -> Golden:
        """The reference's answers; at int8 those of its integers, exactly computed."""
        golden = self.prepared.golden
        if attempt.quantization is None:
            return golden
        outputs = attempt.model.forward(QuantizedOps(attempt.quantization), golden.inputs)
        return replace(golden, outputs=outputs)

    def _write(self, attempt: Attempt, golden: Golden) -> Written:
        """Write the payload, the labels and the golden cases."""
        prepared = self.prepared
        written = self.target.write(
            Order(
                model=attempt.model,
                variant=prepared.source.variant,
                folder=self.folder,
                floats=self.target.floats(self.options.precision),
                options=self.options,
                islands=frozenset(self.compiled.islands),
                quantization=attempt.quantization,
                preprocess=prepared.spec,
                labels=prepared.labels,
                scores=prepared.scores,
                progress=self.progress,
            )
        )
        if prepared.labels:
            text = "\n".join(prepared.labels) + "\n"
            (self.folder / LABELS_FILE).write_text(text, encoding="utf-8")
        np.savez(self.folder / GOLDEN_FILE, **golden.arrays())  # type: ignore[arg-type]
        return written

    def _judge(
        self, manifest: Manifest, written: Written, *, only_verdict: bool
    ) -> Judgement | None:
        """Judge the payload, which is complete in its folder, with a manifest."""
        if self.judge is None:
            return None
        runnable = not self.target.unrunnable()
        if not runnable and written.graph is None:
            if self.options.force:
                return None
            raise VerificationError(
                f"this machine runs neither the engine nor its graph, so that nothing tells what "
                f"{manifest.precision} costs; it is not written (leave out --eval, or add --force)"
            )
        reference = self.prepared.answers(self.compiled.deployed, self.progress)
        self.progress("judging")
        if runnable:
            return self.judge.of_folder(
                self.folder, self.target, reference, self.progress, only_verdict=only_verdict
            )
        assert written.graph is not None
        return self.judge.of_graph(
            written.graph, manifest, reference, self.progress, only_verdict=only_verdict
        )

    def _manifest(self, attempt: Attempt, written: Written) -> Manifest:
        """The manifest, complete but for its verification and files."""
        options, target, prepared = self.options, self.target, self.prepared
        model, batch = self.compiled.applied[-1].model, options.static_batch
        low, middle, high = options.profile
        assumed = () if self.judge is None else self.judge.assumed
        int8 = attempt.quantization is not None
        return Manifest(
            family=model.family.name,
            variant=prepared.source.variant,
            config=_jsonable(model.config.to_dict()),
            source=prepared.source.origin,
            assumed=(*prepared.assumed, *assumed),
            passes=self._passes(attempt),
            target=options.target,
            format=target.format,
            precision=options.precision,
            payload=target.payload,
            inputs=(input_spec(model, batch),),
            outputs=output_specs(model, batch),
            batch=BatchProfile(min=low, opt=middle, max=high, static=batch is not None),
            scores=prepared.scores,
            preprocess=prepared.spec,
            verification={},
            calibration=prepared.quantizer.to_dict() if int8 else None,
            toolchain={
                "levit": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                **written.toolchain,
            },
            requirements={
                "backend": target.distribution,
                "backend_version": f">={target.min_version}",
                "cpu_features": required_features(options, target.device, target.integers),
                "gpu_architecture": None,
                **written.requirements,
            },
        )

    def _passes(self, attempt: Attempt) -> tuple[dict[str, Any], ...]:
        passes: list[dict[str, Any]] = [
            {"name": a.name, "count": a.count, **({"macs_saved": a.macs_saved} if a.count else {})}
            for a in self.compiled.applied
        ]
        if self.compiled.islands:
            values = list(self.compiled.islands)
            passes.append({"name": "keep_float32", "count": len(values), "values": values})
        if attempt.quantization is not None:
            entry = attempt.quantization.to_dict()
            count = len(entry["layers"])
            floats = self.target.integers.floats
            passes.append({"name": "quantize", "count": count, "beside": floats, **entry})
        return tuple(passes)


def _jsonable(value: Any) -> Any:
    """Tuples as lists, so that a manifest is equal to itself read back."""
    return json.loads(json.dumps(value))
