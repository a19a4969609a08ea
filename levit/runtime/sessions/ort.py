"""ONNX Runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from levit.artifact import Artifact
from levit.errors import BackendUnavailableError, CorruptArtifactError, InputError, brief
from levit.runtime.backends import SessionOptions
from levit.runtime.compatibility import (
    Tensor,
    check_interface,
    require_cpu_features,
    require_version,
)
from levit.runtime.cpus import known_cpu_class, require_threads
from levit.runtime.onnx_file import check_onnx_file
from levit.runtime.ownership import owned

__all__ = [
    "OrtSession",
    "check_network",
    "network",
    "session_settings",
    "unreadable",
]

# Its log goes to stderr past us, with the names of nodes as a file has them, control characters
# and all. The exceptions say the same, and pass through our errors.
_NOTHING = 4

# Time for which an idle thread of a session keeps its CPU, in case there is more to do. Long
# enough for the gaps between the operations of one run; ONNX Runtime's own default takes the
# CPUs from the threads that decode images, and from whatever else runs (docs/decisions.md).
_SPIN_US = 20


def session_settings(options: SessionOptions) -> onnxruntime.SessionOptions:
    """Base of ONNX Runtime's sessions on any device."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _NOTHING
    settings.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    return settings


@contextlib.contextmanager
def network(artifact: Artifact) -> Iterator[str | bytes]:
    """Give the artifact's network as this ONNX Runtime may load it: a path, or its bytes.

    Raises:
        BackendUnavailableError: the artifact needs a newer ONNX Runtime.
        CorruptArtifactError: the network's file is none of levit's, or has changed.
    """
    require_version(artifact, "ONNX Runtime", onnxruntime.__version__, "pip install -U onnxruntime")
    require_cpu_features(artifact)
    with artifact.hold(artifact.manifest.payload) as file:
        check_onnx_file(file.name, file.mapped())
        # ONNX Runtime copies bytes once more before it reads them.
        yield file.path or file.read()


def check_network(artifact: Artifact, session: onnxruntime.InferenceSession) -> None:
    """Make sure that a session's network is the one that the artifact describes.

    Raises:
        CorruptArtifactError: it is another.
    """
    try:
        inputs = [_tensor(node) for node in session.get_inputs()]
        outputs = [_tensor(node) for node in session.get_outputs()]
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception as error:
        raise unreadable(artifact, error) from error  # names may be no text
    check_interface(artifact, inputs, outputs, metadata)


def unreadable(artifact: Artifact, error: BaseException) -> CorruptArtifactError:
    """Make the error of a network that ONNX Runtime cannot load."""
    return CorruptArtifactError(
        f"{artifact.payload}: ONNX Runtime {onnxruntime.__version__} cannot load it "
        f"({brief(error)})"
    )


class OrtSession:
    """An ``onnxruntime.InferenceSession`` on the CPU; it may be run from many threads."""

    survives_fork = False
    takes_pixels = False
    runs_alone = False

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        if artifact.manifest.precision == "bf16":
            raise BackendUnavailableError(
                "ONNX Runtime has no bfloat16 kernels on the CPU: export with --target openvino, "
                "or with --verify none to run it on another device"
            )
        require_threads(options.threads - 1)  # beside the caller's own
        with network(artifact) as contents:
            try:
                session = onnxruntime.InferenceSession(
                    contents,
                    session_settings(options),
                    providers=["CPUExecutionProvider"],
                    enable_fallback=0,  # which tries the same again, and prints
                )
            except Exception as error:  # ONNX Runtime's own share no public base
                raise unreadable(artifact, error) from error
        check_network(artifact, session)
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [output.name for output in artifact.manifest.outputs]
        self._release = owned(self, session)

    @property
    def machine_class(self) -> str:
        """The CPU's."""
        return known_cpu_class()

    def run(
        self, feeds: Mapping[str, NDArray[Any]], *, alone: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Run one batch through the network."""
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
        self._release()


def _tensor(node: Any) -> Tensor:
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}.get(node.type, node.type)
    return node.name, dtype, tuple(node.shape)
