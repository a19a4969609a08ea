"""Our ONNX artifact on an NVIDIA GPU, in ONNX Runtime's CUDA provider.

ONNX Runtime goes on without the GPU where it cannot load the provider (libcublas missing, say) or
has no kernel for a node; here both are errors. float32 means float32: TF32 is off.

It has not been run on hardware yet: its tests bind the same buffers on the CPU provider.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.artifact import open_artifact
from levit.benchmarks.engines import ImageRunner, Job, Runner
from levit.benchmarks.gpu import require_gpu
from levit.errors import BackendUnavailableError, InputError, brief
from levit.images import load_image

__all__ = ["BoundSession", "open_image_runner", "open_runner", "require_first"]

_ERRORS_ONLY: Final = 3
_DTYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


def open_runner(job: Job) -> Runner:
    """Logits of a batch; the answer is in the host's memory when it returns.

    As in the paper, the time is that of a batch which is on the GPU already: a batch is copied
    there when it is another array than in the call before.

    Raises:
        BackendUnavailableError: there is no GPU, or ONNX Runtime would not use it.
    """
    return BoundSession(_open_session(job), "cuda").run


def open_image_runner(job: Job) -> ImageRunner:
    """JPEG bytes → top-1: decoded and resized as `Predictor` does, then copied and inferred."""
    from levit.runtime.predictor import Predictor

    bound = BoundSession(_open_session(job), "cuda")
    predictor = Predictor(str(_folder(job)), "cpu", job.threads, workers=0, prove=False)
    clock = time.perf_counter_ns

    def run(data: bytes) -> tuple[int, Mapping[str, int]]:
        start = clock()
        picture = load_image(data)
        decoded = clock()
        batch = predictor.preprocess([picture])
        resized = clock()
        top1 = int(bound.run(batch).argmax())
        end = clock()
        return top1, {
            "decode": decoded - start,
            "resize": resized - decoded,
            "infer": end - resized,
        }

    return run


class BoundSession:
    """A session with one input and one output bound to buffers on a device.

    The buffers are made for the shape of the first batch, and again when the shape changes.
    """

    def __init__(self, session: Any, device: str) -> None:
        """Args: an ``onnxruntime.InferenceSession``; ``cuda`` or ``cpu``, where the buffers lie."""
        self._session = session
        self._device = device
        (given,) = session.get_inputs()
        self._input = given
        outputs = session.get_outputs()
        self._output = next((node for node in outputs if node.name == "logits"), outputs[0])
        self._shape: tuple[int, ...] = ()
        self._batch: NDArray[Any] | None = None

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """(B, …) of the model's input type → (B, classes) on the host, after all work is done.

        Raises:
            InputError: the batch is not what the model takes.
        """
        if batch.shape != self._shape:
            self._bind(batch)
        if batch is not self._batch:
            self._given.update_inplace(np.ascontiguousarray(batch))
            # Held, so that no other array can come to lie at its place and pass for it.
            self._batch = batch
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        answer: NDArray[Any] = self._made.numpy()
        # From a device it is a copy; on the CPU it is the buffer that the next call writes.
        return answer.copy() if self._device == "cpu" else answer

    def _bind(self, batch: NDArray[Any]) -> None:
        from onnxruntime import OrtValue

        if batch.dtype != _DTYPES.get(self._input.type):
            raise InputError(
                f"the model's input is {self._input.type}, the batch is {batch.dtype}: convert it"
            )
        rest: Sequence[Any] = self._output.shape[1:]
        if not all(isinstance(size, int) for size in rest):
            raise InputError(
                f"the size of output {self._output.name!r} is not known before it runs "
                f"({', '.join(map(str, self._output.shape))}): export it with a fixed size"
            )
        self._batch, self._shape = None, ()
        self._given = OrtValue.ortvalue_from_shape_and_type(
            list(batch.shape), batch.dtype.type, self._device, 0
        )
        self._made = OrtValue.ortvalue_from_shape_and_type(
            [len(batch), *rest], _DTYPES[self._output.type], self._device, 0
        )
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._input.name, self._given)
        self._binding.bind_ortvalue_output(self._output.name, self._made)
        self._shape = batch.shape


def require_first(providers: Sequence[str], wanted: str) -> None:
    """BackendUnavailableError unless a session's first provider is the wanted one."""
    if list(providers[:1]) != [wanted]:
        raise BackendUnavailableError(
            f"ONNX Runtime would open the model in {', '.join(providers) or 'no provider'}, "
            f"without {wanted}: CUDA's libraries are missing or of another version; "
            "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )


def _folder(job: Job) -> Path:
    return job.files / job.artifact


def _open_session(job: Job) -> Any:
    require_gpu()
    import onnxruntime

    # CUDA's libraries, where pip has installed them, are not on the loader's path. What it prints
    # of those it misses must not get between a worker's answers.
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
    payload = open_artifact(_folder(job)).payload
    try:
        session = _session(payload, job.threads, all_on_gpu=True)
    except Exception as error:  # ONNX Runtime's own share no public base
        # The same words for a model that lacks a kernel and for a provider that was not loaded.
        require_first(_providers_of(payload, job.threads), "CUDAExecutionProvider")
        raise BackendUnavailableError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run all of {payload.name} on the GPU "
            f"({brief(error)}): use --device cpu"
        ) from error
    require_first(session.get_providers(), "CUDAExecutionProvider")
    session.disable_fallback()
    return session


def _providers_of(payload: Path, threads: int) -> list[str]:
    """Those of a session that may use the CPU; none where not even that opens."""
    try:
        return list(_session(payload, threads, all_on_gpu=False).get_providers())
    except Exception:
        return []


def _session(payload: Path, threads: int, *, all_on_gpu: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    if all_on_gpu:
        # A node that would run on the CPU fails here, instead of copying back and forth unseen.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers = [("CUDAExecutionProvider", {"use_tf32": "0"})]
    return onnxruntime.InferenceSession(
        str(payload), options, providers=providers, enable_fallback=0
    )
