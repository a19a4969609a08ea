"""The whole path on one screen: checkpoint → model → passes → target → verified artifact."""

from __future__ import annotations

import importlib
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
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
from levit.errors import ArtifactError, ConfigError
from levit.export.fitting import Scanner, find_islands, fit_range
from levit.export.onnx_graph import emit_onnx, input_spec, metadata_of, output_specs
from levit.export.options import ExportOptions
from levit.export.passes import (
    EXACT,
    Applied,
    passes_for,
    relative_difference,
    require_exact,
    run_passes,
)
from levit.export.precision import choose_opset
from levit.export.settings import choose_labels, choose_outputs, choose_preprocess
from levit.export.sources import Source, load_source
from levit.export.targets import Order, Target, Written, find_target
from levit.export.targets.target import Progress
from levit.export.verify import Golden, golden_cases
from levit.export.verify_artifact import verify_artifact
from levit.models.model import Model
from levit.preprocess import PreprocessSpec
from levit.runtime.backends import BACKENDS
from levit.staging import check_destination, staged_folder

__all__ = ["export"]


def export(
    options: ExportOptions, *, model: Any = None, progress: Progress = lambda step: None
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
    target = find_target(options.target, options.precision)
    if options.output is not None:  # before any work
        check_destination(Path(options.output), force=options.force)
    progress("reading weights")
    source = load_source(options, model)
    destination = Path(options.output or f"{source.variant}-{options.target}-{options.precision}")
    spec, assumed = choose_preprocess(options, source)
    labels, unnamed = choose_labels(options, source)
    trained = _planned(options, source.model, spec)
    with staged_folder(destination, force=options.force) as folder:
        progress("folding")
        applied = run_passes(trained, passes_for(options.precision))
        progress("evaluating the reference")
        golden = golden_cases(trained, spec)
        scanner = Scanner(golden.inputs, spec, target.dialect)
        applied += fit_range(applied[-1].model, options.precision, scanner)
        difference = _prove_passes(applied[-1].model, golden, force=options.force)
        deployed = target.prepare(applied[-1].model, options)
        islands = find_islands(deployed, options.precision, scanner)
        progress("writing")
        settings = _graph_settings(options, source, target, spec, labels, islands)
        written = target.write(
            Order(
                model=deployed,
                folder=folder,
                graph=settings,
                profile=options.profile,
                options=options,
                progress=progress,
            )
        )
        if labels:
            (folder / LABELS_FILE).write_text("\n".join(labels) + "\n", encoding="utf-8")
        np.savez(folder / GOLDEN_FILE, **golden.arrays())  # type: ignore[arg-type]
        manifest = _manifest(
            options,
            source,
            target,
            written,
            applied,
            islands,
            spec,
            (*source.assumed, *assumed, *unnamed),
        )
        progress("verifying")
        evaluated = replace(source, model=trained)
        verification = verify_artifact(
            options,
            evaluated,
            deployed,
            scanner,
            target,
            manifest,
            folder,
            golden,
            written.graph,
        )
        if difference > EXACT:
            verification["status"] = "forced"
        write_manifest(
            folder,
            replace(manifest, files=describe_files(folder), verification=verification),
        )
        if options.dump_passes is not None:
            _dump_passes(Path(options.dump_passes), trained, applied, golden, settings)
    return open_artifact(destination, verify_hashes=False)


def _planned(options: ExportOptions, model: Model, spec: PreprocessSpec | None) -> Model:
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


def _graph_settings(
    options: ExportOptions,
    source: Source,
    target: Target,
    spec: PreprocessSpec | None,
    labels: tuple[str, ...],
    islands: tuple[str, ...],
) -> dict[str, Any]:
    preprocess = None if spec is None else spec.to_dict()
    return {
        "name": source.variant,
        "batch": options.static_batch,
        "opset": choose_opset(options.precision if target.typed else "fp32", options.opset),
        "precision": options.precision,
        "islands": frozenset(islands),
        "dialect": target.dialect,
        "metadata": metadata_of(preprocess, labels, source.variant),
        "producer_version": __version__,
    }


def _manifest(
    options: ExportOptions,
    source: Source,
    target: Target,
    written: Written,
    applied: list[Applied],
    islands: tuple[str, ...],
    spec: PreprocessSpec | None,
    assumed: tuple[str, ...],
) -> Manifest:
    model, batch = applied[-1].model, options.static_batch
    low, middle, high = options.profile
    passes: list[dict[str, Any]] = [
        {"name": a.name, "count": a.count, **({"macs_saved": a.macs_saved} if a.count else {})}
        for a in applied
    ]
    if islands:
        passes.append({"name": "keep_float32", "count": len(islands), "values": list(islands)})
    return Manifest(
        family=model.family.name,
        variant=source.variant,
        config=_jsonable(model.config.to_dict()),
        source=source.origin,
        assumed=assumed,
        passes=tuple(passes),
        target=options.target,
        format=target.format,
        precision=options.precision,
        payload=target.payload,
        inputs=(input_spec(model, batch),),
        outputs=output_specs(model, batch),
        batch=BatchProfile(min=low, opt=middle, max=high, static=batch is not None),
        preprocess=spec,
        verification={},
        toolchain={**_toolchain(target), **written.toolchain},
        requirements={
            "backend": target.distribution,
            "backend_version": f">={target.min_version}",
            "cpu_features": [],
            "gpu_architecture": None,
            **written.requirements,
        },
    )


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
