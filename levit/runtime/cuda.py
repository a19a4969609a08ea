"""The CUDA runtime, by cuda-python: calls whose status is always read, and memory."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.errors import BackendUnavailableError

__all__ = ["Cuda", "DeviceBuffer", "host_system"]


class Cuda:
    """``cuda.bindings.runtime`` with errors raised.

    Attributes:
        api: the module. Its functions answer with a status and values: pass that to :meth:`ok`.
    """

    def __init__(self, api: Any) -> None:
        self.api = api

    def ok(self, answer: tuple[Any, ...]) -> Any:
        """Return the value of a call that went well, or None where it has none.

        Raises:
            BackendUnavailableError: it did not.
        """
        status, *values = answer
        if status != self.api.cudaError_t.cudaSuccess:
            raise BackendUnavailableError(
                f"the GPU failed: {self._explain(status)}; see what uses it with nvidia-smi, and "
                f"open the artifact anew"
            )
        return values[0] if values else None

    def _explain(self, status: Any) -> str:
        _, text = self.api.cudaGetErrorString(status)
        return str(text.decode(errors="replace") if isinstance(text, bytes) else text)


class DeviceBuffer:
    """Memory for one tensor on the GPU and, page-locked, on the host; for the largest batch.

    Copies from page-locked memory need no second copy by the driver, and can be captured in a
    CUDA graph.

    Args:
        shape: shape of the largest batch.

    Attributes:
        host: the tensor on the host.
        address: the address of `host`.
        device: the address on the GPU.
        shape: shape of the largest batch.
    """

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        api = cuda.api
        self.shape = shape
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        size = self.size_of(shape[0])
        with contextlib.ExitStack() as undo:
            self.device = int(cuda.ok(api.cudaMalloc(size)))
            undo.callback(lambda: cuda.ok(api.cudaFree(self.device)))
            self.address = int(cuda.ok(api.cudaHostAlloc(size, api.cudaHostAllocDefault)))
            undo.callback(lambda: cuda.ok(api.cudaFreeHost(self.address)))
            memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.address))
            self.host: NDArray[Any] = memory.view(dtype).reshape(shape)
            self.host[...] = 0
            self._undo = undo.pop_all()

    def size_of(self, rows: int) -> int:
        """Return the bytes of the first `rows`."""
        return rows * self._row_bytes

    def free(self) -> None:
        """Free both; `host` must not be touched again."""
        self._undo.close()


def host_system() -> str:
    """Name the system and the processor, which engines are bound to: ``linux-x86_64``."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    return f"{'windows' if os.name == 'nt' else platform.system().lower()}-{machine}"
