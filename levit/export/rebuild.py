"""An engine for this machine, of the graph that travels with one for another."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from levit.artifact import (
    ENGINE_FILE,
    GRAPH_FILE,
    Artifact,
    describe_files,
    open_artifact,
    write_manifest,
)
from levit.errors import CorruptArtifactError, ExportError
from levit.export.options import PathLike
from levit.export.progress import Progress, silent
from levit.export.staging import check_destination, staged_folder
from levit.export.targets import TARGETS
from levit.export.targets.engine import EngineSettings
from levit.export.targets.tensorrt import BUILDERS, Builder
from levit.export.verify_artifact import run_here
from levit.runtime.onnx_file import check_onnx_file
from levit.runtime.sessions.engine_fit import EngineNeeds, engine_needs

__all__ = ["rebuild"]


def rebuild(
    path: PathLike,
    *,
    output: PathLike | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Build the engine of an artifact anew, for what is here; all else stays as it was.

    ::

        rebuild("levit_128-trt-fp16", output="levit_128-trt-fp16-here")

    Args:
        path: the artifact's folder.
        output: another folder for the result; by default it takes the artifact's place.
        force: replace an artifact at `output`.
        progress: told each step.

    Raises:
        LevitError: whatever is wrong; the artifact is as it was then.
    """
    artifact = open_artifact(path)
    manifest = artifact.manifest
    builder = BUILDERS.get(manifest.target)
    if builder is None or manifest.format != builder.format:
        raise ExportError(
            f"{artifact.path}: of target {manifest.target!r}, which holds nothing to rebuild "
            f"(only {', '.join(BUILDERS)} do); export again"
        )
    if manifest.payload != ENGINE_FILE:
        raise CorruptArtifactError(
            f"{artifact.path}: its payload is {manifest.payload!r}, not {ENGINE_FILE}; export again"
        )
    needs = engine_needs(artifact)
    with artifact.hold(GRAPH_FILE) as file:
        check_onnx_file(file.name, file.mapped())
        graph = file.read()
    builder.require(manifest.precision)
    destination = artifact.path if output is None else Path(os.path.normpath(output))
    replaces = force or output is None
    check_destination(destination, force=replaces)
    with staged_folder(destination, force=replaces) as folder:
        progress("writing")
        for name in manifest.files.keys() - {ENGINE_FILE, GRAPH_FILE}:
            shutil.copyfile(artifact.path / name, folder / name)
        written = builder.write_graph(folder, graph, _settings(builder, needs), progress)
        manifest = replace(
            manifest,
            requirements={**manifest.requirements, **written.requirements},
            toolchain={**manifest.toolchain, **written.toolchain},
        )
        progress("verifying")
        before: dict[str, Any] = {
            name: value
            for name, value in manifest.verification.items()
            if name not in ("gpu_class", "unverified_because")
        }
        forced = before["status"] == "forced"
        nothing = {"max_relative_error": None, "max_abs_error": None, "top1_agreement": None}
        unverified = {**before, **nothing, "status": "forced" if forced else "unverified"}
        verification = run_here(
            TARGETS[manifest.target], manifest, folder, unverified, force=forced
        )
        write_manifest(
            folder, replace(manifest, files=describe_files(folder), verification=verification)
        )
    return open_artifact(destination, verify_hashes=False)


def _settings(builder: Builder, needs: EngineNeeds) -> EngineSettings:
    """The settings that the engine was built with, and the GPU that is here."""
    architectures = needs.chosen
    if builder.ahead_of_time and not builder.unrunnable():
        here = builder.module.gpu().architecture
        if not needs.takes_architecture(here):
            architectures = (*architectures, here)
    return EngineSettings(
        profile=needs.profile,
        version_compatible="version" in needs.compatibility,
        hardware_compatible="hardware" in needs.compatibility,
        architectures=architectures,
    )
