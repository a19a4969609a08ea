"""Sessions, the seam to a backend, and the table of backends by artifact format and device.

A new backend is one file and one entry here; what it needs beyond being installed is one function
in ``probes``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from levit.artifact import Artifact
from levit.errors import BackendUnavailableError, CorruptArtifactError
from levit.native.library import INSTALL
from levit.runtime.obstacle import Obstacle

__all__ = ["BACKENDS", "Backend", "Place", "Session", "SessionOptions", "open_session"]


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Options of a session.

    Attributes:
        device: ``cpu`` or ``gpu``.
        threads: CPU threads of the backend.
        mode: ``latency`` answers one batch as soon as it can; ``throughput`` has several under
            way at once, where the backend knows how.
        cache: a folder for networks that a backend would otherwise compile at every opening;
            None for none.
        allow_host_code: load engines that carry code for the CPU beside that for the GPU.
    """

    device: str = "cpu"
    threads: int = 1
    mode: str = "latency"
    cache: Path | None = None
    allow_host_code: bool = False


class Session(Protocol):
    """A loaded network. ``run`` may be called from many threads at once."""

    @property
    def machine_class(self) -> str:
        """Class that kernels are chosen by here: `cpu_class`, or a GPU's; empty if unknown.

        On a class that an artifact has not seen, it proves itself before it answers.
        """
        ...

    @property
    def survives_fork(self) -> bool:
        """True where it answers in a forked child of the process that has opened it."""
        ...

    @property
    def takes_pixels(self) -> bool:
        """True where it also runs (N, H, W, C) uint8 pixels in place of their numbers.

        The answers are the same to the last bit.
        """
        ...

    @property
    def runs_alone(self) -> bool:
        """True where threads that call it can compute alone, each on its own batch."""
        ...

    def run(
        self, feeds: Mapping[str, NDArray[Any]], *, alone: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Run one batch: inputs by name → outputs by name.

        Args:
            alone: on the calling thread alone, where the session can.
        """
        ...

    def close(self) -> None:
        """Release what the backend holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """A backend on one device.

    Attributes:
        session: ``module:Class`` of its session, imported when first used.
        install: the exact command that installs it.
        probe: ``module:function`` that answers None or the `Obstacle` that stands in the way
            of a backend that is installed.
    """

    session: str
    install: str
    probe: str


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A library that runs artifacts of one format.

    Attributes:
        name: name in messages.
        module: the import whose absence means that the backend is not installed.
        distributions: the packages that may hold it, for its version.
        places: a `Place` for each device, ``cpu`` or ``gpu``.
    """

    name: str
    module: str
    distributions: tuple[str, ...]
    places: Mapping[str, Place]

    @property
    def installed(self) -> bool:
        """True where the backend's package is on this machine."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str | None:
        """Version of the installed package; None where there is none."""
        if not self.installed:
            return None
        import importlib.metadata  # takes 10 ms, of which opening an artifact has no use

        for name in self.distributions:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return "present"

    def obstacle(self, device: str) -> Obstacle | None:
        """Find the reason why it cannot be used on a device of this machine; None where it can.

        Imports the backend, if it is installed; loads no network.
        """
        place = self.places.get(device)
        if place is None:
            others = " or ".join(repr(name) for name in self.places)
            return Obstacle(reason=f"it does not run on {device!r}", remedy=f"use device {others}")
        if not self.installed:
            return Obstacle(reason="not installed", remedy=place.install)
        found: Obstacle | None = _named(place.probe)()
        return found


class _OwnEngine(Backend):
    """levit's own: its library is in this package where that was installed with a compiler."""

    @property
    def version(self) -> str | None:
        return None if self.obstacle("cpu") else str(_named("levit:__version__"))


BACKENDS: Final[Mapping[str, Backend]] = {
    "onnx": Backend(
        name="ONNX Runtime",
        module="onnxruntime",
        distributions=("onnxruntime", "onnxruntime-gpu"),
        places={
            "cpu": Place(
                session="levit.runtime.sessions.ort:OrtSession",
                install="pip install onnxruntime",
                probe="levit.runtime.probes:onnxruntime_cpu",
            ),
            "gpu": Place(
                session="levit.runtime.sessions.ort_cuda:OrtCudaSession",
                install="pip install 'onnxruntime-gpu[cuda,cudnn]'",
                probe="levit.runtime.probes:onnxruntime_cuda",
            ),
        },
    ),
    "openvino": Backend(
        name="OpenVINO",
        module="openvino",
        distributions=("openvino",),
        places={
            "cpu": Place(
                session="levit.runtime.sessions.openvino:OpenVinoSession",
                install="pip install 'levit[openvino]'",
                probe="levit.runtime.probes:openvino_cpu",
            ),
        },
    ),
    "native": _OwnEngine(
        name="levit native",
        module="levit.native",
        distributions=("levit",),
        places={
            "cpu": Place(
                session="levit.runtime.sessions.native:NativeSession",
                install=INSTALL,
                probe="levit.runtime.probes:native_cpu",
            ),
        },
    ),
    "tensorrt": Backend(
        name="TensorRT",
        module="tensorrt",
        distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        places={
            "gpu": Place(
                session="levit.runtime.sessions.tensorrt:TensorrtSession",
                install="pip install 'levit[tensorrt]'",
                probe="levit.runtime.tensorrt_modules:tensorrt_gpu",
            ),
        },
    ),
    "tensorrt-rtx": Backend(
        name="TensorRT-RTX",
        module="tensorrt_rtx_bindings",
        distributions=("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
        places={
            "gpu": Place(
                session="levit.runtime.sessions.tensorrt:TensorrtSession",
                install="pip install 'levit[trt-rtx]'",
                probe="levit.runtime.tensorrt_modules:rtx_gpu",
            ),
        },
    ),
}


def open_session(artifact: Artifact, options: SessionOptions) -> Session:
    """Load an artifact into the backend that runs its format.

    Raises:
        BackendUnavailableError: this release has no such backend, or it cannot be used on the
            device.
        CorruptArtifactError: it was made for another backend than its format's.
    """
    format_name = artifact.manifest.format
    backend = BACKENDS.get(format_name)
    if backend is None:
        raise BackendUnavailableError(
            f"no backend for artifacts of format {format_name!r} in this release; "
            f"it runs: {', '.join(BACKENDS)}"
        )
    made_for = artifact.manifest.requirements.get("backend")
    others = [other for name, other in BACKENDS.items() if name != format_name]
    if any(made_for in other.distributions for other in others):
        raise CorruptArtifactError(
            f"{artifact.path}: its format is {format_name!r}, but it was made for {made_for}; copy "
            f"it again, or export again"
        )
    obstacle = backend.obstacle(options.device)
    if obstacle is not None:
        built_for = artifact.manifest.requirements.get("gpu_architecture")
        made = f" (for which {artifact.path.name} was built: {built_for})" if built_for else ""
        raise obstacle.error(f"{backend.name} on {options.device!r}{made}")
    session: Session = _named(backend.places[options.device].session)(artifact, options)
    return session


def _named(name: str) -> Any:
    """Import ``module:attribute``."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
