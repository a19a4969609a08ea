"""The CUDA runtime, by cuda-python: calls whose status is always read."""

from __future__ import annotations

import os
import platform
from typing import Any

from levit.errors import BackendUnavailableError

__all__ = ["Cuda", "host_system"]


class Cuda:
    """``cuda.bindings.runtime`` with errors raised.

    Attributes:
        api: the module. Its functions answer with a status and values: pass that to :meth:`ok`.
    """

    def __init__(self, api: Any) -> None:
        self.api = api

    def ok(self, answer: tuple[Any, ...]) -> Any:
        """The value of a call that went well, or None where it has none.

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


def host_system() -> str:
    """System and processor, which engines are bound to: ``linux-x86_64``."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    return f"{'windows' if os.name == 'nt' else platform.system().lower()}-{machine}"
