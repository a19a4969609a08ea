"""ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from levit.artifact import Artifact
from levit.errors import BackendUnavailableError, CorruptArtifactError, InputError, brief
from levit.runtime.cpus import known_cpu_class
from levit.runtime.interface import Tensor, check_interface
from levit.runtime.onnx_file import check_onnx_file
from levit.runtime.session import SessionOptions

__all__ = ["OrtSession"]

_ERRORS_ONLY = 3

# How long an idle thread of a session keeps its CPU, in case there is more to do. Long enough for
# the gaps between the operations of one run; ONNX Runtime's own default takes the CPUs from the
# threads that decode images, and from whatever else runs (docs/decisions.md).
_SPIN_US = 20

# Sessions of this process, for the children it forks.
_live: weakref.WeakSet[OrtSession] = weakref.WeakSet()


def _keep_inherited_sessions() -> None:
    """In a forked child: never release what the parent opened.

    Its threads are not here, and ONNX Runtime's destructor waits for them for ever. One more
    reference that nobody gives back keeps the destructor from running, whatever the child
    does with the object.
    """
    for session in _live:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session._session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited_sessions)


class OrtSession:
    """An ``onnxruntime.InferenceSession`` on the CPU; it may be run from many threads."""

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        if options.device != "cpu":
            raise BackendUnavailableError(
                f"ONNX artifacts run on the CPU in this release, not on {options.device!r}: "
                f"use device='cpu'"
            )
        _check_version(artifact)
        if artifact.manifest.precision == "bf16" and options.device == "cpu":
            raise BackendUnavailableError(
                "ONNX Runtime has no bfloat16 kernels on the CPU: --target openvino has, a GPU "
                "has, and --verify none exports without running it"
            )
        check_onnx_file(artifact.payload)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _ERRORS_ONLY
        settings.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
        try:
            session = onnxruntime.InferenceSession(
                str(artifact.payload), settings, providers=["CPUExecutionProvider"]
            )
            inputs = [_tensor(node) for node in session.get_inputs()]
            outputs = [_tensor(node) for node in session.get_outputs()]
            metadata = session.get_modelmeta().custom_metadata_map
        except Exception as error:  # ONNX Runtime's own share no public base; names may be no text
            raise CorruptArtifactError(
                f"{artifact.payload}: ONNX Runtime {onnxruntime.__version__} cannot load it "
                f"({brief(error)})"
            ) from error
        check_interface(artifact, inputs, outputs, metadata)
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [name for name, _, _ in outputs]
        _live.add(self)

    @property
    def machine_class(self) -> str:
        """The CPU's."""
        return known_cpu_class()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch through the network."""
        session = self._session
        if session is None:
            raise InputError("the session is closed")
        try:
            values = session.run(self._outputs, dict(feeds))
        except Exception as error:
            raise InputError(f"ONNX Runtime refused the batch ({brief(error)})") from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Release the session; runs that are under way in other threads end undisturbed."""
        self._session = None


def _tensor(node: Any) -> Tensor:
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}.get(node.type, node.type)
    return node.name, dtype, tuple(node.shape)


def _check_version(artifact: Artifact) -> None:
    """Raise where the artifact asks for a newer ONNX Runtime than there is."""
    needed = str(artifact.manifest.requirements.get("backend_version", "")).removeprefix(">=")
    present = onnxruntime.__version__
    if _numbers(present) < _numbers(needed):
        raise BackendUnavailableError(
            f"{artifact.path.name} needs ONNX Runtime {needed} or newer, here is {present}: "
            f"pip install -U onnxruntime"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
