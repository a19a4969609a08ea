"""ONNX Runtime's CUDA provider.

ONNX Runtime goes on without the GPU where it cannot load the provider or has no kernel for a node:
here both are errors. float32 means float32: TF32 is off.

It has not been run on hardware yet: its tests bind the same buffers on the CPU provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented

from levit.artifact import Artifact
from levit.errors import BackendUnavailableError, InputError
from levit.runtime.backends import SessionOptions
from levit.runtime.gpus import look_for_gpu
from levit.runtime.obstacle import Obstacle
from levit.runtime.probes import CUDA_PROVIDER
from levit.runtime.sessions.ort import (
    check_network,
    network,
    session_settings,
    unreadable,
)
from levit.runtime.sessions.ort_binding import BoundSession, on_device_thread, telling

__all__ = ["OrtCudaSession", "require_first"]


class OrtCudaSession:
    """An ``onnxruntime.InferenceSession`` on the GPU; callers in several threads take turns.

    Batches go through buffers that stay on the GPU. A network with a fixed batch is captured as a
    CUDA graph when it is opened: hundreds of small kernels then start as one.
    """

    survives_fork = False
    takes_pixels = False
    runs_alone = False

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        gpu = look_for_gpu()
        if isinstance(gpu, Obstacle):
            raise gpu.error("the GPU")
        self._gpu = gpu
        with network(artifact) as contents:
            session = on_device_thread(lambda: _open(artifact, options, contents))
        check_network(artifact, session)
        bound = BoundSession(session, "cuda")
        _try(artifact, bound)
        self._bound: BoundSession | None = bound

    @property
    def machine_class(self) -> str:
        """The GPU's."""
        return self._gpu.machine_class

    def run(
        self, feeds: Mapping[str, NDArray[Any]], *, alone: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Run one batch: to the GPU, through the network and back."""
        return self._opened().run(feeds)

    def put(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Copy a batch to the GPU, where it stays: :meth:`answer` may be asked many times.

        With other threads about, `run` is the one to call: the batch that was put last counts.
        """
        self._opened().put(feeds)

    def answer(self) -> dict[str, NDArray[Any]]:
        """The outputs for the batch that is on the GPU, in the host's memory, by name."""
        return self._opened().answer()

    def close(self) -> None:
        """Release the session; runs that are under way in other threads end undisturbed."""
        bound, self._bound = self._bound, None
        if bound is not None:
            bound.close()

    def _opened(self) -> BoundSession:
        if self._bound is None:
            raise InputError("the session is closed")
        return self._bound


# Errors that ONNX Runtime logs come as exceptions too, and are told there.
_NOT_EVEN_ERRORS: Final = 4


def _open(
    artifact: Artifact, options: SessionOptions, contents: str | bytes
) -> onnxruntime.InferenceSession:
    """A session all of whose nodes run on the GPU.

    Raises:
        BackendUnavailableError: ONNX Runtime would not use the GPU, or not for every node.
        CorruptArtifactError: the network is none that ONNX Runtime can load.
    """
    settings = session_settings(options)
    settings.log_severity_level = _NOT_EVEN_ERRORS
    # A node that would run on the CPU fails here, instead of copying back and forth unseen. (The
    # shapes of our Reshapes are constants: no node is one that ONNX Runtime prefers on the CPU.)
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # The addresses of a graph must not change, so that its batch must not either.
    graph = "1" if artifact.manifest.batch.static else "0"
    provider = (CUDA_PROVIDER, {"use_tf32": "0", "enable_cuda_graph": graph})
    try:
        session = onnxruntime.InferenceSession(
            contents, settings, providers=[provider], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's own share no public base
        _check_on_cpu(artifact, options, contents)
        raise _refused(artifact, error) from error
    require_first(session.get_providers())
    session.disable_fallback()
    return session


def require_first(providers: Sequence[str]) -> None:
    """BackendUnavailableError unless CUDA is the first provider of a session."""
    if list(providers[:1]) != [CUDA_PROVIDER]:
        raise BackendUnavailableError(
            f"ONNX Runtime would open the model in {', '.join(providers) or 'no provider'}, "
            f"without {CUDA_PROVIDER}: see levit doctor, or use device 'cpu'"
        )


def _check_on_cpu(artifact: Artifact, options: SessionOptions, contents: str | bytes) -> None:
    """CorruptArtifactError if the GPU is not to blame: the network does not load anywhere."""
    settings = session_settings(options)
    settings.log_severity_level = _NOT_EVEN_ERRORS
    try:
        onnxruntime.InferenceSession(contents, settings, providers=["CPUExecutionProvider"])
    except NotImplemented:
        return  # bfloat16, say, for which the CPU has no kernels
    except Exception as error:
        raise unreadable(artifact, error) from error


def _try(artifact: Artifact, bound: BoundSession) -> None:
    """Run a batch of zeros: it captures the CUDA graph, and finds missing kernels and libraries.

    Raises:
        BackendUnavailableError: it does not run.
    """
    profile = artifact.manifest.batch
    feeds = {
        spec.name: np.zeros((profile.min, *map(int, spec.shape[1:])), spec.dtype)
        for spec in artifact.manifest.inputs
    }
    try:
        bound.run(feeds)
    except InputError as error:
        raise _refused(artifact, error.__cause__ or error) from error


def _refused(artifact: Artifact, error: BaseException) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"ONNX Runtime {onnxruntime.__version__} cannot run all of {artifact.path.name} on the GPU "
        f"({telling(error)}): see levit doctor, or use device 'cpu'"
    )
