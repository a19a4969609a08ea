"""A session of ONNX Runtime behind buffers on a device, and the thread that drives it.

One thread of the process does all that is done on the GPU, whatever thread and whatever session
asks. ONNX Runtime keeps the CUDA graph of a session, cuBLAS's handle and cuDNN's by the thread that
runs it: a session that many threads run would capture a graph in each of them, and its graphs may
not be run side by side. While a graph is captured no thread may allocate memory on the device. And
a binding has one set of buffers. The GPU takes the batches in turn anyway; handing one over costs
about 17 µs (a thread pool of Python's, on a Zen 5).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from levit.errors import InputError, brief
from levit.runtime.ownership import owned

__all__ = ["BoundSession", "on_device_thread", "telling"]

_DTYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
}


# Batch sizes whose buffers stay on the device. A folder of images comes in two: full batches and
# the last one.
_BATCHES: Final = 4

# Where the words of these messages of ONNX Runtime begin that are for its users; hundreds of
# characters of C++ stand before.
_TELLING: Final = re.compile(
    r"((CUDA|CUDNN|CUDNN_FE|CUBLAS|CURAND) failure .*?|cuDNN is .*?|Failed to allocate .*?"
    r"|(?<= was false\. ).*?)( ;|$)"
)

T = TypeVar("T")


# By process: a forked child has none of its parent's threads. The thread itself comes with its
# first work.
_threads: Final[dict[int, ThreadPoolExecutor]] = {}


def on_device_thread(work: Callable[[], T]) -> T:
    """Call `work` in the thread that drives the device; return or raise what it does."""
    pid = os.getpid()
    if pid not in _threads:
        # Callers that come at once all get the one that is set first.
        _threads.setdefault(pid, ThreadPoolExecutor(1, "levit-device"))
    return _threads[pid].submit(work).result()


class BoundSession:
    """A session behind buffers on a device; any thread may call.

    Args:
        session: its network's inputs and outputs have the batch first and fixed sizes after it.
        device: ONNX Runtime's name: ``cuda``, or ``cpu``, where the same can be tested.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._device = device
        batch = session.get_inputs()[0].shape[0]
        self._fixed = batch if isinstance(batch, int) else None
        self._bindings: OrderedDict[int, _Binding] = OrderedDict()
        self._let_go = owned(self, session)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a batch, host → device → network → host: outputs by name.

        Raises:
            InputError: an array is not what the network takes.
        """

        def work() -> dict[str, NDArray[Any]]:
            self._put(feeds)
            return self._answer()

        return on_device_thread(lambda: _in_our_words(work))

    def put(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Copy a batch to the device, where it stays: :meth:`answer` may be asked many times.

        Raises:
            InputError: an array is not what the network takes.
        """
        on_device_thread(lambda: _in_our_words(lambda: self._put(feeds)))

    def answer(self) -> dict[str, NDArray[Any]]:
        """Compute the outputs for the batch that was put last, in the host's memory, by name."""
        return on_device_thread(lambda: _in_our_words(self._answer))

    def close(self) -> None:
        """Release the session and its buffers, after the calls that came before.

        In the device's thread too: memory that is given back would spoil a capture.
        """
        with contextlib.suppress(RuntimeError):  # the interpreter ends, and its threads have
            on_device_thread(self._release)

    def _release(self) -> None:
        self._bindings.clear()
        self._session = None
        self._let_go()

    def _put(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        if self._session is None:
            raise InputError("the session is closed")
        # A graph is replayed whatever is bound: a batch of another size must not get that far.
        batch = self._fixed or len(next(iter(feeds.values())))
        binding = self._bindings.pop(batch, None)
        if binding is None:
            while len(self._bindings) >= _BATCHES:
                self._bindings.popitem(last=False)
            binding = _Binding(self._session, batch, self._device)
        # Whatever has come of it: the last one is the one that answers.
        self._bindings[batch] = binding
        binding.put(feeds)

    def _answer(self) -> dict[str, NDArray[Any]]:
        if not self._bindings:
            raise InputError("no batch is on the device: put one there first")
        return next(reversed(self._bindings.values())).run()


def telling(error: BaseException) -> str:
    """Shorten an error of ONNX Runtime to a part of one line."""
    found = _TELLING.search(" ".join(str(error).split()))
    return found.group(1)[:160] if found else brief(error)


def _in_our_words(work: Callable[[], T]) -> T:
    try:
        return work()
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's own share no public base
        raise InputError(f"ONNX Runtime refused the batch ({telling(error)})") from error


class _Binding:
    """Inputs and outputs of a session for one batch size, at addresses that do not change.

    Args:
        session: whose inputs and outputs have the batch first and fixed sizes after it.
        batch: number of images.
        device: ONNX Runtime's name: ``cuda``, or ``cpu``.
    """

    def __init__(self, session: onnxruntime.InferenceSession, batch: int, device: str) -> None:
        self._session = session
        self._inputs = {n.name: _buffer(n, batch, device) for n in session.get_inputs()}
        self._outputs = {n.name: _buffer(n, batch, device) for n in session.get_outputs()}
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        owned(self, session, self._binding, self._inputs, self._outputs)
        # On a device an answer comes back as a copy; here it is the buffer of the next one too.
        self._copies = device == "cpu"

    def put(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Copy a batch to the device; it has arrived when this returns.

        Raises:
            InputError: an array is not what the network takes.
        """
        if feeds.keys() != self._inputs.keys():
            raise InputError(f"the network takes {', '.join(self._inputs)}, not {', '.join(feeds)}")
        for name, array in feeds.items():
            value = self._inputs[name]
            if list(array.shape) != value.shape() or array.dtype != _DTYPES[value.data_type()]:
                raise InputError(
                    f"the network's input {name} is {value.shape()} {value.data_type()}, "
                    f"not {list(array.shape)} {array.dtype}"
                )
            value.update_inplace(np.ascontiguousarray(array))

    def run(self) -> dict[str, NDArray[Any]]:
        """Run the batch that was put there last: outputs by name, on the host."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        values = {name: value.numpy() for name, value in self._outputs.items()}
        return {n: v.copy() for n, v in values.items()} if self._copies else values


def _buffer(node: Any, batch: int, device: str) -> onnxruntime.OrtValue:
    shape = [batch, *node.shape[1:]]
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, _DTYPES[node.type], device, 0)
