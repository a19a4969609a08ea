"""The whole path on one screen: checkpoint → model → passes → target → verified artifact."""

from __future__ import annotations

import importlib
import json
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
from levit.errors import ArtifactError, ConfigError, VerificationError
from levit.export.contract import Judgement
from levit.export.fitting import Scanner, find_islands
from levit.export.judging import Judge, choose_judge, note_judgement, refusal
from levit.export.onnx.graph import emit_onnx, input_spec, metadata_of, output_specs
from levit.export.options import AUTO, ExportOptions
from levit.export.passes import (
    EXACT,
    Applied,
    passes_for,
    relative_difference,
    require_exact,
    run_passes,
)
from levit.export.precision import choose_opset
from levit.export.quantization.compiler import Attempt, Quantizer
from levit.export.quantization.grid import Scheme
from levit.export.quantization.hardware import require_vnni, required_features
from levit.export.quantization.pictures import read_pictures
from levit.export.quantization.reference import QuantizedOps
from levit.export.settings import choose_labels, choose_outputs, choose_preprocess
from levit.export.sources import Source, load_source
from levit.export.staging import check_destination, staged_folder
from levit.export.targets import Order, Target, Written, find_target
from levit.export.targets.target import Progress
from levit.export.verify import Golden, golden_cases
from levit.export.verify_artifact import verify_artifact
from levit.models.model import Model
from levit.pictures.preprocess import PreprocessSpec
from levit.runtime.backends import BACKENDS

__all__ = ["destination_of", "export", "export_to", "plan_of"]


def export(
    options: ExportOptions,
    *,
    model: Any = None,
    progress: Progress = lambda step: None,
) -> Artifact:
    """Compile a checkpoint, or a live network, into an artifact.

    Args:
        model: a ``torch.nn.Module`` of timm, transformers or mmpretrain, in place of a checkpoint.
            Its ``pretrained_cfg`` or ``config`` is read too; it is not changed.
        progress: called with a word for each step as it begins.

    Returns:
        The artifact, opened.

    Raises:
        LevitError: whatever is wrong, in one line; nothing is written then.
    """
    if options.target == AUTO:
        from levit.export.auto import export_fastest

        return export_fastest(options, model=model, progress=progress)
    target = find_target(options.target, options.precision)
    return export_to(target, options, model=model, progress=progress)


def export_to(
    target: Target, options: ExportOptions, *, model: Any, progress: Progress = lambda step: None
) -> Artifact:
    """As `export`, for a target that need not stand in the table."""
    if options.output is not None:  # before any work
        check_destination(Path(options.output), force=options.force)
    progress("reading weights")
    source = load_source(options, model)
    destination = destination_of(options, source.variant, options.target, options.precision)
    spec, assumed = choose_preprocess(options, source)
    labels, unnamed = choose_labels(options, source)
    trained = plan_of(options, source.model, spec)
    judge = choose_judge(options, trained, spec, labels)
    quantizer = _quantizer(options, trained, spec, target, progress)
    floats = target.beside_int8 if options.precision == "int8" else options.precision
    with staged_folder(destination, force=options.force) as folder:
        progress("folding")
        applied = run_passes(trained, passes_for(options.precision))
        progress("evaluating the reference")
        golden = golden_cases(trained, spec)
        scanner = Scanner(golden.inputs, spec, target.dialect)
        if quantizer is not None:
            applied += quantizer.equalize(target.prepare(applied[-1].model, options))
        difference = _prove_passes(applied[-1].model, golden, force=options.force)
        deployed = target.prepare(applied[-1].model, options)
        islands = find_islands(deployed, floats, scanner)
        if judge is not None:
            if not options.force:  # nor any engine built
                judge.require_enough(options.precision)
            judge.hear(deployed, target.dialect)
        assumed = (*source.assumed, *assumed, *unnamed, *(judge.assumed if judge else ()))
        compilation = _Compilation(
            options=options,
            floats=floats,
            source=source,
            target=target,
            spec=spec,
            labels=labels,
            assumed=assumed,
            applied=tuple(applied),
            islands=islands,
            trained=trained,
            deployed=deployed,
            difference=difference,
            golden=golden,
            scanner=scanner,
            judge=judge,
            calibration=None if quantizer is None else quantizer.to_dict(),
            folder=folder,
            progress=progress,
        )
        if quantizer is None:
            compilation.settle([Attempt(model=deployed)])
        else:
            compilation.settle(quantizer.attempts(deployed, islands))
        if options.dump_passes is not None:
            settings = compilation.graph_settings(None)
            _dump_passes(Path(options.dump_passes), trained, applied, golden, settings)
    return open_artifact(destination, verify_hashes=False)


def _quantizer(
    options: ExportOptions,
    model: Model,
    spec: PreprocessSpec | None,
    target: Target,
    progress: Progress,
) -> Quantizer | None:
    if options.precision != "int8":
        return None
    assert options.calibration is not None
    require_vnni(options, target)
    return Quantizer(
        read_pictures(options.calibration, model, spec),
        Scheme(
            signed=target.signed,
            weight_bits=7 if options.reduce_range else 8,
            half=target.beside_int8 == "fp16",
        ),
        target.dialect,
        grids_of_results=target.grids_of_results,
        progress=progress,
    )


@dataclass(frozen=True, kw_only=True)
class _Compilation:
    """A model that is ready to be written, and what is known of it."""

    options: ExportOptions
    floats: str
    source: Source
    target: Target
    spec: PreprocessSpec | None
    labels: tuple[str, ...]
    assumed: tuple[str, ...]
    applied: tuple[Applied, ...]
    islands: tuple[str, ...]
    trained: Model
    deployed: Model
    difference: float
    golden: Golden
    scanner: Scanner
    judge: Judge | None
    calibration: dict[str, Any] | None
    folder: Path
    progress: Progress

    def settle(self, attempts: Iterable[Attempt]) -> None:
        """Write the first attempt that keeps the contract; none does: by force the first of all.

        Raises:
            VerificationError: none does, without force.
        """
        made: list[Attempt] = []
        first: Judgement | None = None
        failure: VerificationError | None = None
        for attempt in attempts:
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
            first = first or judgement
            if judgement is None or judgement.verdict == "cannot tell":
                break
        if self.options.force:
            if len(made) > 1 or failure is not None:  # its files have been written over
                manifest, _ = self._make(made[0], None)
            write_manifest(self.folder, manifest)
            return
        if first is None:
            assert failure is not None, "no attempt was made"
            raise failure
        raise refusal(first, self.options.precision, made[1].kept if len(made) > 1 else ())

    def _make(self, attempt: Attempt, first: Judgement | None) -> tuple[Manifest, Judgement | None]:
        """(its manifest, what the contract says); ``forced`` is what only force keeps.

        Args:
            first: the judgement of the first attempt, where this is another.
        """
        if not attempt.kept:
            self.progress("writing")
        golden = self._golden(attempt)
        manifest, written = self._write(attempt, golden)
        if not attempt.kept:
            self.progress("verifying")
        verification = self._verify(manifest, written, golden)
        judgement = self._judge(manifest, written)
        if judgement is not None:
            note_judgement(verification, judgement, attempt.kept, first)
        elif attempt.quantization is not None and self.options.verify != "none":
            verification["status"] = "forced"  # nothing tells what its integers cost
        files = describe_files(self.folder)
        return replace(manifest, files=files, verification=verification), judgement

    def graph_settings(self, attempt: Attempt | None) -> dict[str, Any]:
        """The keyword arguments of `emit_onnx`."""
        options, target = self.options, self.target
        preprocess = None if self.spec is None else self.spec.to_dict()
        quantization = None if attempt is None else attempt.quantization
        opset = choose_opset(
            self.floats if target.typed else "fp32",
            options.opset,
            quantized=quantization is not None,
        )
        return {
            "name": self.source.variant,
            "batch": options.static_batch,
            "opset": opset,
            "precision": self.floats,
            "islands": frozenset(self.islands),
            "quantization": quantization,
            "dialect": target.dialect,
            "metadata": metadata_of(preprocess, self.labels, self.source.variant),
            "producer_version": __version__,
        }

    def _write(self, attempt: Attempt, golden: Golden) -> tuple[Manifest, Written]:
        """The payload, labels and golden cases; the manifest is complete but for verification."""
        written = self.target.write(
            Order(
                model=attempt.model,
                folder=self.folder,
                graph=self.graph_settings(attempt),
                profile=self.options.profile,
                options=self.options,
                progress=self.progress,
            )
        )
        if self.labels:
            text = "\n".join(self.labels) + "\n"
            (self.folder / LABELS_FILE).write_text(text, encoding="utf-8")
        np.savez(self.folder / GOLDEN_FILE, **golden.arrays())  # type: ignore[arg-type]
        return self._manifest(attempt, written), written

    def _golden(self, attempt: Attempt) -> Golden:
        """The reference's answers; at int8 those of its integers, exactly computed."""
        if attempt.quantization is None:
            return self.golden
        outputs = attempt.model.forward(QuantizedOps(attempt.quantization), self.golden.inputs)
        return replace(self.golden, outputs=outputs)

    def _verify(self, manifest: Manifest, written: Written, golden: Golden) -> dict[str, Any]:
        verification = verify_artifact(
            self.options,
            replace(self.source, model=self.trained),
            self.deployed,
            self.scanner,
            self.target,
            manifest,
            self.folder,
            self.golden,
            golden,
            written.graph,
        )
        if self.difference > EXACT:
            verification["status"] = "forced"
        return verification

    def _judge(self, manifest: Manifest, written: Written) -> Judgement | None:
        """What is written, which verifying has left complete in its folder."""
        if self.judge is None:
            return None
        self.progress("judging")
        if not self.target.unrunnable():
            return self.judge.of_folder(self.folder, self.target)
        if written.graph is not None:
            return self.judge.of_graph(written.graph, manifest)
        if self.options.force:
            return None
        raise VerificationError(
            f"this machine runs neither the engine nor its graph, so that nothing tells what "
            f"{manifest.precision} costs; it is not written (leave out --eval, or add --force)"
        )

    def _manifest(self, attempt: Attempt, written: Written) -> Manifest:
        options, target = self.options, self.target
        model, batch = self.applied[-1].model, options.static_batch
        low, middle, high = options.profile
        return Manifest(
            family=model.family.name,
            variant=self.source.variant,
            config=_jsonable(model.config.to_dict()),
            source=self.source.origin,
            assumed=self.assumed,
            passes=self._passes(attempt),
            target=options.target,
            format=target.format,
            precision=options.precision,
            payload=target.payload,
            inputs=(input_spec(model, batch),),
            outputs=output_specs(model, batch),
            batch=BatchProfile(min=low, opt=middle, max=high, static=batch is not None),
            preprocess=self.spec,
            verification={},
            calibration=self.calibration,
            toolchain={**_toolchain(target), **written.toolchain},
            requirements={
                "backend": target.distribution,
                "backend_version": f">={target.min_version}",
                "cpu_features": required_features(options, target),
                "gpu_architecture": None,
                **written.requirements,
            },
        )

    def _passes(self, attempt: Attempt) -> tuple[dict[str, Any], ...]:
        passes: list[dict[str, Any]] = [
            {"name": a.name, "count": a.count, **({"macs_saved": a.macs_saved} if a.count else {})}
            for a in self.applied
        ]
        if self.islands:
            values = list(self.islands)
            passes.append({"name": "keep_float32", "count": len(values), "values": values})
        if attempt.quantization is not None:
            entry = attempt.quantization.to_dict()
            count = len(entry["layers"])
            passes.append({"name": "quantize", "count": count, "beside": self.floats, **entry})
        return tuple(passes)


def destination_of(options: ExportOptions, variant: str, target: str, precision: str) -> Path:
    """The artifact's folder."""
    return Path(options.output or f"{variant}-{target}-{precision}")


def plan_of(options: ExportOptions, model: Model, spec: PreprocessSpec | None) -> Model:
    """`model` with the inputs and outputs that are asked for."""
    model = model.with_plan(outputs=choose_outputs(options, model))
    if options.input == "float32":
        return model
    if spec is None:
        raise ConfigError("--input uint8 needs a model of three-channel images; use float32")
    return model.with_plan(pixels=(spec.mean, spec.std))


def _prove_passes(deployed: Model, golden: Golden, *, force: bool) -> float:
    """The folded model against the reference, in float64; two cases say as much as all.

    Returns:
        The largest relative difference, which exceeds 1e-12 only under `force`.
    """
    reference = {name: value[:2] for name, value in golden.outputs.items()}
    difference = relative_difference("folding", reference, deployed, golden.inputs[:2])
    if not force:
        require_exact("folding", difference)
    return difference


def _jsonable(value: Any) -> Any:
    """Tuples as lists, so that a manifest is equal to itself read back."""
    return json.loads(json.dumps(value))


def _toolchain(target: Target) -> dict[str, str]:
    versions = {"levit": __version__, "python": platform.python_version()}
    for name in ("numpy", "onnx", BACKENDS[target.format].module):
        # Asked of the module: onnxruntime comes from packages of several names.
        versions[name] = str(importlib.import_module(name).__version__)
    return versions


def _dump_passes(
    folder: Path,
    trained: Model,
    applied: list[Applied],
    golden: Golden,
    settings: Mapping[str, Any],
) -> None:
    """One graph per pass, in fp32, and a table of how often each fired and what it changed."""
    if settings["precision"] != "fp32":  # whose opset may be none of fp32's
        settings = {**settings, "precision": "fp32", "opset": None}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table = []
        for number, (name, count, model) in enumerate(
            [("as_trained", 0, trained), *((a.name, a.count, a.model) for a in applied)]
        ):
            file = folder / f"{number:02}_{name}.onnx"
            file.write_bytes(emit_onnx(model, **settings).SerializeToString(deterministic=True))
            difference = relative_difference(name, golden.outputs, model, golden.inputs)
            table.append(
                {"pass": name, "count": count, "relative_difference": difference, "file": file.name}
            )
        (folder / "passes.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written ({error.strerror})") from error
