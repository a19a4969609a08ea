"""Memory for one tensor: on the GPU, and page-locked beside it on the host."""

from __future__ import annotations

import contextlib
import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.runtime.cuda import Cuda

__all__ = ["DeviceBuffer"]


class DeviceBuffer:
    """Both sides of a tensor, allocated once for the largest batch.

    Copies from page-locked memory need no second copy by the driver, and can be captured in a
    CUDA graph.

    Args:
        shape: of the largest batch.

    Attributes:
        host: the tensor on the host.
        address: of `host`.
        device: the address on the GPU.
        shape: as given.
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
        """Bytes of the first `rows`."""
        return rows * self._row_bytes

    def free(self) -> None:
        """Give both back; `host` must not be touched again."""
        self._undo.close()
