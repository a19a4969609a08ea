"""OpenVINO on the CPU."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.artifact import OPENVINO_WEIGHTS_FILE, Artifact
from levit.errors import (
    ArtifactError,
    BackendUnavailableError,
    CorruptArtifactError,
    InputError,
    brief,
)
from levit.runtime.backends import SessionOptions
from levit.runtime.compatibility import (
    Tensor,
    check_interface,
    require_cpu_features,
    require_version,
)
from levit.runtime.cpus import (
    cpu_features,
    cpu_precisions,
    is_bf16_fast,
    known_cpu_class,
    require_threads,
)
from levit.runtime.openvino_file import METADATA, check_openvino_file
from levit.runtime.openvino_module import import_openvino, openvino_core
from levit.runtime.ownership import owned

__all__ = ["OpenVinoSession"]

openvino = import_openvino()

# Types of the arithmetic. OpenVINO's own choice is bfloat16 wherever the CPU has it, and so
# it is where it is asked for float16: an artifact of fp16 keeps its weights so and computes in
# float32, to which every CPU is exact.
_ARITHMETIC: Final = {"fp32": "f32", "fp16": "f32", "bf16": "bf16"}
_DTYPES: Final = {"f32": "float32", "u8": "uint8"}
# A batch that comes so often, and nothing else between, gets a network of its own; each holds the
# weights again, in the order in which its kernels read them.
_REPEATS: Final = 4
_MOST_FIXED: Final = 4
# Seconds that a caller waits before it asks whether its requests have failed.
_PATIENCE_S: Final = 10.0

# Sessions whose requests may be under way when the interpreter goes.
_live: weakref.WeakSet[OpenVinoSession] = weakref.WeakSet()


@atexit.register
def _end_requests() -> None:
    """Settle all requests before the interpreter goes, which OpenVINO's threads ask for."""
    for session in list(_live):
        for network in list((session._networks or {}).values()):
            network.settle()


class OpenVinoSession:
    """An IR compiled for this CPU; it may be run from many threads.

    A dynamic artifact is compiled for any batch, and again for those that are asked for most, each
    when it is first asked for: one image, what the runtime batches by, and a few that come again
    and again. With a fixed size OpenVINO plans memory and fuses better (docs/decisions.md).
    """

    survives_fork = False
    takes_pixels = False
    runs_alone = False

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        manifest = artifact.manifest
        require_version(artifact, "OpenVINO", openvino.__version__, "pip install -U openvino")
        require_cpu_features(artifact)
        self._settings = _settings(artifact, options)
        files = _files(artifact)
        require_threads(options.threads)
        try:
            self._core = openvino_core()
            model = self._core.read_model(*files)
            del files
            inputs = [_tensor(port) for port in model.inputs]
            outputs = [_tensor(port) for port in model.outputs]
            metadata = {
                name: str(model.get_rt_info(place).value)
                for name, place in METADATA.items()
                if model.has_rt_info(place)
            }
        except Exception as error:  # OpenVINO raises RuntimeError and what its bindings make of it
            raise CorruptArtifactError(
                f"{artifact.payload}: OpenVINO {openvino.__version__} cannot load it "
                f"({brief(error)})"
            ) from error
        check_interface(artifact, inputs, outputs, metadata)
        self._model = model
        self._input = inputs[0][0]
        self._row = tuple(int(n) for n in inputs[0][2][1:])
        self._dtype = inputs[0][1]
        self._outputs = tuple(name for name, _, _ in outputs)
        self._mode = options.mode
        batch = manifest.batch
        self._static = batch.static
        self._fixed = {batch.max} if batch.static else {1, batch.opt}
        self._last, self._repeats = 0, 0
        self._networks: dict[int, Any] | None = {}
        self._compiling = threading.Lock()
        self._release = owned(self, self._networks, model)
        _live.add(self)
        # The one that is surely needed, so that what cannot be compiled is said here.
        self._network(batch.max if batch.static else 1)

    @property
    def machine_class(self) -> str:
        """Class of the CPU."""
        return known_cpu_class()

    def run(
        self, feeds: Mapping[str, NDArray[Any]], *, alone: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Run one batch; in throughput mode in pieces, one for each stream."""
        batch = feeds[self._input]
        # OpenVINO's queue never gives back a request that it could not fill.
        fits = not self._static or len(batch) in self._fixed
        if not fits or batch.shape[1:] != self._row or batch.dtype != self._dtype:
            count = ", ".join(map(str, self._fixed)) if self._static else "N"
            raise InputError(
                f"the network takes ({count}, {', '.join(map(str, self._row))}) {self._dtype}, not "
                f"{batch.shape} {batch.dtype}"
            )
        try:
            parts = self._parts(batch)
        except RecursionError:  # the caller's own depth
            raise
        except RuntimeError as error:
            raise InputError(f"OpenVINO refused the batch ({brief(error)})") from error
        return {
            name: parts[0][i] if len(parts) == 1 else np.concatenate([part[i] for part in parts])
            for i, name in enumerate(self._outputs)
        }

    def _parts(self, batch: NDArray[Any]) -> list[list[NDArray[Any]]]:
        """Compute the outputs in their order, one piece of the batch after the other."""
        if self._mode == "latency":
            return [self._network(len(batch)).infer(batch)]
        pieces = [batch]
        if not self._static and len(batch) > 1:
            pieces = np.array_split(batch, min(len(batch), self._network(1).width))
        call = _Call(pieces)
        networks = [self._network(len(piece)) for piece in pieces]
        for place, network in enumerate(networks):
            network.start(call, place)
        call.wait(networks)
        return call.parts

    def close(self) -> None:
        """Release the networks; runs that are under way in other threads end undisturbed."""
        self._networks = None
        self._release()

    def _network(self, batch: int) -> Any:
        """Find the network for this many images, compiled when it is first asked for."""
        networks = self._networks
        if networks is None:
            raise InputError("the session is closed")
        key = batch if self._is_fixed(batch) else 0
        network = networks.get(key)
        if network is not None:
            return network
        with self._compiling:
            if key not in networks:
                networks[key] = self._compile(key)
            return networks[key]

    def _is_fixed(self, batch: int) -> bool:
        """Tell whether this many images have a network of their own, or have earned one by now."""
        if batch in self._fixed:
            return True
        # Two threads may count one call for another: it is a matter of speed only.
        self._repeats = self._repeats + 1 if batch == self._last else 1
        self._last = batch
        if self._repeats >= _REPEATS and len(self._fixed) < _MOST_FIXED:
            self._fixed.add(batch)
        return batch in self._fixed

    def _compile(self, batch: int) -> _Network:
        """Compile for a fixed batch, or for any if that is 0."""
        model = self._model
        try:
            if batch and not self._static:
                model = model.clone()
                model.reshape([batch, *self._row])
            compiled = self._core.compile_model(model, "CPU", self._settings)
        except Exception as error:
            raise BackendUnavailableError(
                f"OpenVINO {openvino.__version__} cannot compile this artifact here "
                f"({brief(error)}); export it again with this release"
            ) from error
        kind = _SharedNetwork if self._mode == "latency" else _QueuedNetwork
        return kind(compiled, len(self._outputs))


class _Network:
    """A compiled network."""

    def __init__(self, compiled: Any, outputs: int) -> None:
        self.compiled = compiled
        self._outputs = outputs

    def settle(self) -> None:
        """Wait until nothing is under way any more."""


class _SharedNetwork(_Network):
    """A request that callers take in turns: each has every thread."""

    def __init__(self, compiled: Any, outputs: int) -> None:
        super().__init__(compiled, outputs)
        self._request = compiled.create_infer_request()
        self._turn = threading.Lock()

    def infer(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Compute the outputs in their order."""
        with self._turn:
            self._request.infer({0: batch}, share_inputs=True, share_outputs=True)
            return _taken(self._request, self._outputs)


class _QueuedNetwork(_Network):
    """A queue of requests, several of which are under way at once."""

    def __init__(self, compiled: Any, outputs: int) -> None:
        super().__init__(compiled, outputs)
        self._pid = os.getpid()
        self._queue = openvino.AsyncInferQueue(compiled)
        # Not a method: the queue and its owner would hold each other, out of the collector's sight,
        # and neither would ever be freed.
        self._queue.set_callback(partial(_finish, outputs))
        # Between finding an idle request and taking it, the queue lets other threads in.
        self._starting = threading.Lock()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was never made
            self.settle()

    def settle(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child: nothing is under way here
        # An answer is told before its request has ended, and the queue does not wait for that.
        for request in self._queue:
            with contextlib.suppress(RuntimeError):  # it failed, and has said so
                request.wait()

    @property
    def width(self) -> int:
        """Requests that run at the same time."""
        return len(self._queue)

    def start(self, call: _Call, place: int) -> None:
        """Begin one piece of a call; wait while all requests are busy."""
        batch = call.pieces[place]
        with self._starting:
            self._queue.start_async({0: batch}, userdata=(call, place), share_inputs=True)

    def raise_failure(self) -> None:
        """Wait until nothing is under way, and raise the error, if there was one."""
        with self._starting:
            self._queue.wait_all()


class _Call:
    """A call of `run` in pieces, whose answers come together here.

    A request reads its piece where it lies, and holds the call: the caller may be gone before it
    has ended, at Ctrl-C.
    """

    def __init__(self, pieces: Sequence[NDArray[Any]]) -> None:
        self.pieces: list[NDArray[Any] | None] = list(pieces)
        self.parts: list[list[NDArray[Any]]] = [[] for _ in pieces]
        self._left = len(pieces)
        self._error: BaseException | None = None
        self._counting = threading.Lock()
        self._done = threading.Event()

    def answer(self, place: int, values: list[NDArray[Any]]) -> None:
        """Keep one piece's outputs. Called by OpenVINO's threads."""
        self.parts[place] = values
        with self._counting:
            self._left -= 1
            if self._left == 0:
                self._done.set()
        self.pieces[place] = None

    def fail(self, error: BaseException) -> None:
        """Keep an error for the caller's thread."""
        self._error = error
        self._done.set()

    def wait(self, networks: Iterable[_QueuedNetwork]) -> None:
        """Wait until every piece has its answer; raise where one never will."""
        # A request that fails answers nobody, so that waiting alone would never end.
        while not self._done.wait(_PATIENCE_S):
            for network in networks:
                network.raise_failure()
        if self._error is not None:
            raise self._error


def _taken(request: Any, outputs: int) -> list[NDArray[Any]]:
    """Copy the outputs: the next batch writes to the request's own tensors."""
    return [request.get_output_tensor(i).data.copy() for i in range(outputs)]


def _finish(outputs: int, request: Any, userdata: tuple[_Call, int]) -> None:
    call, place = userdata
    try:
        values = _taken(request, outputs)
    except BaseException as error:  # raised here, it would end the process
        call.fail(error)
    else:
        call.answer(place, values)


def _files(artifact: Artifact) -> tuple[bytes, bytes]:
    """Read the graph and its weights, which OpenVINO copies."""
    graph = artifact.read(artifact.manifest.payload)
    weights = artifact.read(OPENVINO_WEIGHTS_FILE)
    check_openvino_file(artifact, graph, weights)
    return graph, weights


def _settings(artifact: Artifact, options: SessionOptions) -> dict[str, Any]:
    precision = artifact.manifest.precision
    if precision == "bf16" and not cpu_precisions(cpu_features())["bf16"]:
        raise BackendUnavailableError(
            f"{artifact.path.name} computes in bfloat16, for which this CPU has no instructions "
            f"(avx512_bf16, amx_bf16 or Arm's bf16): export it with --precision fp32"
        )
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": options.mode.upper(),
        "INFERENCE_PRECISION_HINT": _arithmetic(precision),
        "INFERENCE_NUM_THREADS": options.threads,
        # Threads that are bound to CPUs are bound to the same ones in every process.
        "ENABLE_CPU_PINNING": False,
    }
    if options.mode == "latency":
        settings["NUM_STREAMS"] = 1
    if options.cache is not None:
        settings["CACHE_DIR"] = str(_writable(options.cache))
    return settings


def _arithmetic(precision: str) -> str:
    """Choose the type of the arithmetic; at int8, bfloat16 for the rest where that is fast."""
    if precision == "int8":
        return "bf16" if is_bf16_fast() else "f32"
    return _ARITHMETIC[precision]


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        accessible = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise ArtifactError(
            f"{folder}: the cache cannot be made ({error.strerror}); choose another folder"
        ) from error
    if not accessible:
        raise ArtifactError(f"{folder}: the cache cannot be written; choose another folder")
    return folder


def _tensor(port: Any) -> Tensor:
    shape = tuple("batch" if axis.is_dynamic else axis.get_length() for axis in port.partial_shape)
    name = port.element_type.to_string()
    return port.any_name, _DTYPES.get(name, name), shape
