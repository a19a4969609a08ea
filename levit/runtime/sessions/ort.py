"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from levit.artifact import Artifact
from levit.errors import BackendUnavailableError, CorruptArtifactError, InputError
from levit.runtime.session import SessionOptions

__all__ = ["OrtSession"]

_ERRORS_ONLY = 3


class OrtSession:
    """An ``onnxruntime.InferenceSession`` on the CPU; it may be run from many threads."""

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        if options.device != "cpu":
            raise BackendUnavailableError(
                f"ONNX artifacts run on the CPU in this release, not on {options.device!r}: "
                f"use device='cpu'"
            )
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _ERRORS_ONLY
        try:
            self._session: onnxruntime.InferenceSession | None = onnxruntime.InferenceSession(
                str(artifact.payload), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise CorruptArtifactError(
                f"{artifact.payload}: ONNX Runtime {onnxruntime.__version__} cannot load it "
                f"({_first_line(error)})"
            ) from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch through the network."""
        session = self._session
        if session is None:
            raise InputError("the session is closed")
        try:
            values = session.run(self._outputs, dict(feeds))
        except Exception as error:
            raise InputError(f"ONNX Runtime refused the batch ({_first_line(error)})") from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Release the session; runs that are under way in other threads end undisturbed."""
        self._session = None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
