"""Which session runs which artifact format. A new backend is one file and one line here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from levit.artifact import Artifact
from levit.errors import BackendUnavailableError, brief
from levit.interruption import raise_if_interrupted
from levit.runtime.session import Session, SessionOptions

__all__ = ["BACKENDS", "Backend", "open_session"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to run an artifact.

    Attributes:
        name: what people call it.
        session: ``module:Class`` of its session, imported when first used.
        module: the import whose absence means that the backend is not installed.
        distribution: the package that holds it, for its version.
        install: the exact command that installs it.
    """

    name: str
    session: str
    module: str
    distribution: str
    install: str

    @property
    def installed(self) -> bool:
        """Whether the backend's package is on this machine."""
        return importlib.util.find_spec(self.module) is not None

    def load(self) -> Any:
        """Its module.

        Raises:
            BackendUnavailableError: it is missing, or its libraries are.
        """
        if not self.installed:
            raise BackendUnavailableError(f"{self.name} is not installed: {self.install}")
        try:
            return importlib.import_module(self.module)
        except (ImportError, OSError, RuntimeError) as error:
            raise_if_interrupted()  # in the middle of loading, which makes an error of it
            raise BackendUnavailableError(
                f"{self.name} cannot be loaded ({brief(error)}): {self.install}"
            ) from error


BACKENDS: Final[Mapping[str, Backend]] = {
    "onnx": Backend(
        name="ONNX Runtime",
        session="levit.runtime.sessions.ort:OrtSession",
        module="onnxruntime",
        distribution="onnxruntime",
        install="pip install onnxruntime",
    ),
    "tensorrt": Backend(
        name="TensorRT",
        session="levit.runtime.sessions.tensorrt:TensorrtSession",
        module="tensorrt",
        distribution="tensorrt",
        install="pip install 'levit[tensorrt]'",
    ),
    "tensorrt-rtx": Backend(
        name="TensorRT-RTX",
        session="levit.runtime.sessions.tensorrt:TensorrtSession",
        module="tensorrt_rtx_bindings",
        distribution="tensorrt-rtx-cu13-bindings",
        install="pip install 'levit[trt-rtx]'",
    ),
}


def open_session(artifact: Artifact, options: SessionOptions) -> Session:
    """Load an artifact into the backend that runs its format.

    Raises:
        BackendUnavailableError: this release has no such backend, it is not installed, or
            the device is not there.
    """
    format_name = artifact.manifest.format
    backend = BACKENDS.get(format_name)
    if backend is None:
        raise BackendUnavailableError(
            f"no backend for artifacts of format {format_name!r} in this release; "
            f"it runs: {', '.join(BACKENDS)}"
        )
    if not backend.installed:
        raise BackendUnavailableError(f"{backend.name} is not installed: {backend.install}")
    module_name, _, class_name = backend.session.partition(":")
    session_class = getattr(importlib.import_module(module_name), class_name)
    session: Session = session_class(artifact, options)
    return session
