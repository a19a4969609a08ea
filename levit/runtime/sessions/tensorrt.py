"""TensorRT and TensorRT-RTX: an engine on the first GPU."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.artifact import GRAPH_FILE, Artifact
from levit.errors import BackendUnavailableError, CorruptArtifactError, InputError
from levit.runtime.backends import SessionOptions
from levit.runtime.compatibility import Tensor, check_interface
from levit.runtime.cuda import Cuda, DeviceBuffer
from levit.runtime.onnx_file import onnx_metadata
from levit.runtime.ownership import keep
from levit.runtime.sessions.engine_fit import check_fit, engine_needs, rebuild_hint
from levit.runtime.tensorrt_log import error_log
from levit.runtime.tensorrt_modules import MODULES

__all__ = ["TensorrtSession"]

# Sessions of this process, for the children it forks.
_live: weakref.WeakSet[TensorrtSession] = weakref.WeakSet()


def _keep_inherited_sessions() -> None:
    """Forget the parent's sessions in a forked child, where CUDA cannot free their memory."""
    for session in list(_live):
        session._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited_sessions)


class TensorrtSession:
    """An engine with one execution context and one stream; runs of several threads take turns.

    A context of its own for every thread would hold the activations of the largest batch once more
    each, and the GPU computes one batch at a time anyway: what there is to gain is the time of a
    copy.
    """

    survives_fork = False
    takes_pixels = False
    runs_alone = False

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        module = MODULES[artifact.manifest.format]
        needs = engine_needs(artifact)
        trt = module.load()
        self._cuda: Final = Cuda(module.load_cuda())
        self._gpu: Final = module.gpu()
        check_fit(artifact, needs, module.name, str(trt.__version__), self._gpu)
        if "version" in needs.compatibility and not options.allow_host_code:
            raise BackendUnavailableError(
                f"{artifact.path.name} is version-compatible, and so carries code for the CPU that "
                f"runs with your rights: pass allow_host_code=True (--allow-host-code) if you "
                f"trust where it comes from"
            )
        self._lock: Final = threading.Lock()
        self._min, _, self._max = needs.profile
        self._static: Final = artifact.manifest.batch.static
        log = error_log(trt)
        self._objects: dict[str, Any] = _load_engine(
            trt, log, artifact, host_code="version" in needs.compatibility
        )
        self._buffers: dict[str, DeviceBuffer] = {}
        self._shape: tuple[int, ...] = ()
        self._graph: Any = None
        # Resources to free, the last first.
        self._held = contextlib.ExitStack()
        self._finalizer = weakref.finalize(
            self, _free_quietly, os.getpid(), self._held, self._objects
        )
        self._finalizer.atexit = False  # CUDA may be gone by then; the driver frees it all
        try:
            self._prepare(trt, artifact)
        except BaseException:
            self._finalizer()
            raise
        _live.add(self)

    @property
    def machine_class(self) -> str:
        """The GPU's."""
        return self._gpu.machine_class

    def run(
        self, feeds: Mapping[str, NDArray[Any]], *, alone: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Run one batch through the network."""
        ((name, batch),) = feeds.items()
        count = len(batch)
        if not 1 <= count <= self._max or (self._static and count != self._max):
            raise InputError(f"the engine takes {self._min} to {self._max} images, not {count}")
        with self._lock:
            if not self._objects:
                raise InputError("the session is closed")
            self._buffers[name].host[:count] = batch
            api = self._cuda.api
            try:
                if self._graph is not None:
                    self._cuda.ok(api.cudaGraphLaunch(self._graph, self._stream))
                else:
                    # Below the profile's least: rows of an earlier batch fill it up.
                    self._enqueue(max(count, self._min))
            finally:
                # After a failure and Ctrl-C too: what is under way still reads and writes buffers.
                self._cuda.ok(api.cudaStreamSynchronize(self._stream))
            return {output: self._buffers[output].host[:count].copy() for output in self._outputs}

    def close(self) -> None:
        """Free what is on the GPU, once runs that are under way have ended."""
        with self._lock:
            if (detached := self._finalizer.detach()) is not None:
                _free(*detached[2])

    # ------------------------------------------------------------------ inside

    def _prepare(self, trt: Any, artifact: Artifact) -> None:
        """Buffers, a stream, a context; for a static batch the whole run as one CUDA graph."""
        engine = self._objects["engine"]
        inputs, outputs = _tensors(trt, engine)
        with artifact.hold(GRAPH_FILE) as file:
            metadata = onnx_metadata(file.name, file.mapped())
        check_interface(artifact, inputs, outputs, metadata)
        (self._input, _, _), *_ = inputs
        self._outputs = [name for name, _, _ in outputs]
        if not self._static:
            shapes = engine.get_tensor_profile_shape(self._input, 0)
            if [next(iter(shape)) for shape in shapes[::2]] != [self._min, self._max]:
                raise CorruptArtifactError(
                    f"{artifact.path}: the engine's profile is not the manifest's; export again"
                )
        api, ok = self._cuda.api, self._cuda.ok
        self._stream = ok(api.cudaStreamCreateWithFlags(api.cudaStreamNonBlocking))
        self._held.callback(_checked, self._cuda, api.cudaStreamDestroy, self._stream)
        context = engine.create_execution_context()
        if context is None:
            raise BackendUnavailableError(
                f"{artifact.path.name}: no room on {self._gpu.name} for a batch of {self._max}: "
                f"free some of its memory, or export it again with a smaller --batch"
            )
        self._objects["context"] = context
        for name, dtype, shape in (*inputs, *outputs):
            buffer = DeviceBuffer(self._cuda, (self._max, *map(int, shape[1:])), np.dtype(dtype))
            self._held.callback(buffer.free)
            self._buffers[name] = buffer
            if not context.set_tensor_address(name, buffer.device):
                raise BackendUnavailableError(
                    f"{artifact.path.name}: the engine refuses memory for {name!r}; "
                    f"{rebuild_hint(artifact)}"
                )
        if self._static and getattr(context, "is_stream_capturable", _yes)(int(self._stream)):
            self._capture()

    def _enqueue(self, count: int) -> None:
        """Copy in, run, copy out: `count` images, on the stream."""
        api, ok = self._cuda.api, self._cuda.ok
        context = self._objects["context"]
        source = self._buffers[self._input]
        shape = (count, *source.shape[1:])
        if shape != self._shape:
            if not context.set_input_shape(self._input, shape):
                raise InputError(f"the engine refuses a batch of shape {shape}")
            self._shape = shape
        kinds = api.cudaMemcpyKind
        ok(
            api.cudaMemcpyAsync(
                source.device,
                source.address,
                source.size_of(count),
                kinds.cudaMemcpyHostToDevice,
                self._stream,
            )
        )
        if not context.execute_async_v3(int(self._stream)):
            raise BackendUnavailableError("the GPU failed to run the engine; open it anew")
        for name in self._outputs:
            target = self._buffers[name]
            ok(
                api.cudaMemcpyAsync(
                    target.address,
                    target.device,
                    target.size_of(count),
                    kinds.cudaMemcpyDeviceToHost,
                    self._stream,
                )
            )

    def _capture(self) -> None:
        """Capture copies and kernels as one launch: their shapes and addresses never change."""
        api, ok = self._cuda.api, self._cuda.ok
        self._enqueue(self._max)  # what is allocated or compiled at first use
        ok(api.cudaStreamSynchronize(self._stream))
        mode = api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        ok(api.cudaStreamBeginCapture(self._stream, mode))
        try:
            self._enqueue(self._max)
        finally:
            graph = ok(api.cudaStreamEndCapture(self._stream))
        try:
            self._graph = ok(api.cudaGraphInstantiate(graph, 0))
        finally:
            ok(api.cudaGraphDestroy(graph))
        self._held.callback(_checked, self._cuda, api.cudaGraphExecDestroy, self._graph)

    def _disown(self) -> None:
        """Free nothing, whatever happens to this object from here on."""
        self._finalizer()
        self._objects = {}
        self._lock = threading.Lock()  # type: ignore[misc]


def _load_engine(trt: Any, log: Any, artifact: Artifact, *, host_code: bool) -> dict[str, Any]:
    """The engine and what it needs to live, in the order in which they were made."""
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # what its bindings make of a null pointer
        raise BackendUnavailableError(f"TensorRT cannot start{log.told()}") from error
    if host_code:
        runtime.engine_host_code_allowed = True
    with artifact.hold(artifact.manifest.payload) as file:
        engine = runtime.deserialize_cuda_engine(file.read())
    if engine is None:
        raise BackendUnavailableError(
            f"{artifact.payload}: {trt.__name__} {trt.__version__} cannot load it{log.told()}; "
            f"{rebuild_hint(artifact)}"
        )
    return {"log": log, "runtime": runtime, "engine": engine}


def _tensors(trt: Any, engine: Any) -> tuple[list[Tensor], list[Tensor]]:
    """(inputs, outputs) of the engine."""
    dtypes = {trt.DataType.FLOAT: "float32", trt.DataType.UINT8: "uint8"}
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        dtype = engine.get_tensor_dtype(name)
        shape = tuple("batch" if size == -1 else size for size in engine.get_tensor_shape(name))
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append((name, dtypes.get(dtype, str(dtype)), shape))
    return inputs, outputs


def _yes(stream: int) -> bool:
    """TensorRT can always capture; only RTX, which compiles as it goes, is asked."""
    return True


def _checked(cuda: Any, call: Any, handle: Any) -> None:
    cuda.ok(call(handle))


def _free_quietly(pid: int, held: contextlib.ExitStack, objects: dict[str, Any]) -> None:
    """Free as `_free` does, and swallow errors: another may be on its way already."""
    with contextlib.suppress(BackendUnavailableError):
        _free(pid, held, objects)


def _free(pid: int, held: contextlib.ExitStack, objects: dict[str, Any]) -> None:
    """The context before the memory that it reads, the engine before its runtime."""
    if os.getpid() != pid:  # CUDA cannot free a parent's memory
        held.pop_all()
        for inherited in objects.values():
            keep(inherited)
    while objects:
        objects.popitem()
    held.close()
