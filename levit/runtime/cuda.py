"""The CUDA runtime, by cuda-python: calls whose status is always read, and what GPU there is."""

from __future__ import annotations

import importlib
import os
import platform
from dataclasses import dataclass
from typing import Any

from levit.errors import BackendUnavailableError, brief

__all__ = ["Cuda", "Gpu", "host_system", "load_cuda"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU that is used: the first that CUDA shows (``CUDA_VISIBLE_DEVICES`` chooses it)."""

    name: str
    architecture: str

    @property
    def machine_class(self) -> str:
        """Kernels are chosen by architecture."""
        return f"cuda-{self.architecture}"


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

    def gpu(self) -> Gpu:
        """The GPU that is used.

        Raises:
            BackendUnavailableError: there is none, or no driver for it.
        """
        status, count = self.api.cudaGetDeviceCount()
        if status == self.api.cudaError_t.cudaErrorInsufficientDriver:
            # Which is what it also says where there is none.
            _, version = self.api.cudaDriverGetVersion()
            raise BackendUnavailableError(
                "no NVIDIA driver here" if not version else "the NVIDIA driver here is too old"
            )
        if status != self.api.cudaError_t.cudaSuccess:
            raise BackendUnavailableError(f"no usable GPU here ({self._explain(status)})")
        if not count:
            raise BackendUnavailableError("no GPU here")
        attribute = self.api.cudaDeviceAttr
        major, minor = (
            self.ok(self.api.cudaDeviceGetAttribute(which, 0))
            for which in (
                attribute.cudaDevAttrComputeCapabilityMajor,
                attribute.cudaDevAttrComputeCapabilityMinor,
            )
        )
        name = self.ok(self.api.cudaGetDeviceProperties(0)).name.decode(errors="replace")
        return Gpu(name=name, architecture=f"sm_{major}{minor}")

    def _explain(self, status: Any) -> str:
        _, text = self.api.cudaGetErrorString(status)
        return str(text.decode(errors="replace") if isinstance(text, bytes) else text)


def load_cuda(install: str) -> Cuda:
    """The CUDA runtime of this process.

    Args:
        install: the command that brings it, for the error.

    Raises:
        BackendUnavailableError: cuda-python is missing, or cannot be loaded.
    """
    try:
        api = importlib.import_module("cuda.bindings.runtime")
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(f"cuda-python is not installed: {install}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailableError(
            f"cuda-python cannot be loaded ({brief(error)}): {install}"
        ) from error
    return Cuda(api)


def host_system() -> str:
    """System and processor, which engines are bound to: ``linux-x86_64``."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    return f"{'windows' if os.name == 'nt' else platform.system().lower()}-{machine}"
