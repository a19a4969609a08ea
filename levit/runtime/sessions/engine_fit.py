"""Fit of a TensorRT engine to this machine, by its manifest and before it is loaded.

TensorRT itself has no such question; it tries, and says no in its own words or none.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from levit.artifact import GRAPH_FILE, Artifact
from levit.errors import BackendUnavailableError, CorruptArtifactError
from levit.runtime.cuda import host_system
from levit.runtime.gpus import Gpu

__all__ = ["EngineNeeds", "check_fit", "engine_needs", "rebuild_hint"]


@dataclass(frozen=True, kw_only=True)
class EngineNeeds:
    """Requirements of an engine, from its manifest.

    Attributes:
        version: the TensorRT that built it.
        architectures: ``sm_90``, several of them, or one with ``+`` for all from it on.
        compatibility: asked for at the build: ``version`` (later releases load it too),
            ``hardware`` (every GPU from Ampere on), ``architectures`` (by name).
        system: operating system and processor, as `host_system` names them.
        profile: (min, opt, max) of the batch.
    """

    version: str
    architectures: tuple[str, ...]
    compatibility: tuple[str, ...]
    system: str
    profile: tuple[int, int, int]

    @property
    def chosen(self) -> tuple[str, ...]:
        """Architectures that were asked for by name, ahead of time; else none."""
        return self.architectures if "architectures" in self.compatibility else ()

    def takes_version(self, present: str) -> bool:
        """Tell whether TensorRT `present` loads it."""
        if "version" not in self.compatibility:
            return present == self.version
        built, here = _numbers(self.version), _numbers(present)
        return built[:1] == here[:1] and built <= here

    def takes_architecture(self, present: str) -> bool:
        """Tell whether it runs on a GPU of architecture `present`."""
        return any(
            _number(present) >= _number(name.removesuffix("+"))
            if name.endswith("+")
            else present == name
            for name in self.architectures
        )


def engine_needs(artifact: Artifact) -> EngineNeeds:
    """Read the requirements of an engine.

    Raises:
        CorruptArtifactError: they are not what `levit export` writes, or not of this engine.
    """
    values, manifest = artifact.manifest.requirements, artifact.manifest
    try:
        profile: Mapping[str, Any] = values["profile"]
        needs = EngineNeeds(
            version=str(values["backend_version"]).removeprefix("=="),
            architectures=tuple(str(values["gpu_architecture"]).split(",")),
            compatibility=tuple(map(str, values["compatibility"])),
            system=str(values["os"]),
            profile=(int(profile["min"]), int(profile["opt"]), int(profile["max"])),
        )
        for name in needs.architectures:
            _number(name.removesuffix("+"))
        batch = manifest.batch
        if needs.profile != (batch.min, batch.opt, batch.max):
            raise ValueError(f"its batch is not the profile {needs.profile}")
        if manifest.files[GRAPH_FILE]["sha256"] != values["onnx_sha256"]:
            raise ValueError(f"{GRAPH_FILE} is not what the engine was built from")
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(
            f"{artifact.path}: its requirements are damaged ({error}); export again"
        ) from error
    return needs


def check_fit(artifact: Artifact, needs: EngineNeeds, backend: str, version: str, gpu: Gpu) -> None:
    """Raise where the engine was built for another backend, GPU or system than are here.

    Args:
        backend: name of the backend.
        version: its version here.

    Raises:
        BackendUnavailableError: names both sides, and how to rebuild.
    """
    differences = []
    if not needs.takes_version(version):
        differences.append((f"{backend} {needs.version}", f"{backend} {version}"))
    if not needs.takes_architecture(gpu.architecture):
        differences.append((" or ".join(needs.architectures), f"{gpu.architecture} ({gpu.name})"))
    if needs.system != host_system():
        differences.append((needs.system, host_system()))
    if differences:
        built, here = (", ".join(side) for side in zip(*differences, strict=True))
        raise BackendUnavailableError(
            f"{artifact.path.name} was built for {built}; here is {here}: {rebuild_hint(artifact)}"
        )


def rebuild_hint(artifact: Artifact) -> str:
    """Write the command that builds an engine for this machine from the graph beside it."""
    return f"rebuild it here with: levit export --rebuild {shlex.quote(str(artifact.path))}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _number(architecture: str) -> int:
    prefix, _, number = architecture.partition("_")
    if prefix != "sm" or not number.isdecimal():
        raise ValueError(f"{architecture!r} is no GPU architecture")
    return int(number)
