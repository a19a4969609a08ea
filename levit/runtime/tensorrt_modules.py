"""TensorRT's two modules: how each is called, loaded, and asked whether it can be used here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from levit.errors import brief
from levit.interruption import raise_if_interrupted
from levit.runtime.gpus import Gpu, look_for_gpu
from levit.runtime.obstacle import Obstacle

__all__ = ["MODULES", "TensorrtModule", "rtx_gpu", "tensorrt_gpu"]

_CUDA: Final = "cuda.bindings.runtime"


@dataclass(frozen=True, kw_only=True)
class TensorrtModule:
    """TensorRT or TensorRT-RTX.

    Attributes:
        name: name in messages.
        module: its import.
        install: the exact command that installs it, with what our session needs.
    """

    name: str
    module: str
    install: str

    def load(self) -> Any:
        """Import the module.

        Raises:
            BackendUnavailableError: it is missing, or its libraries are.
        """
        return self._import(self.module, self.name)

    def load_cuda(self) -> Any:
        """Import ``cuda.bindings.runtime``.

        Raises:
            BackendUnavailableError: cuda-python is missing, or cannot be loaded.
        """
        return self._import(_CUDA, "cuda-python")

    def gpu(self) -> Gpu:
        """Find the GPU that CUDA takes first.

        Raises:
            BackendUnavailableError: there is none.
        """
        found = look_for_gpu()
        if isinstance(found, Obstacle):
            raise found.error(f"{self.name} needs a GPU")
        return found

    def obstacle(self) -> Obstacle | None:
        """Find what keeps it from running engines here."""
        found = look_for_gpu()
        if isinstance(found, Obstacle):
            return found
        return self._import_obstacle(self.module) or self._import_obstacle(_CUDA)

    def _import(self, module: str, name: str) -> Any:
        found = self._import_obstacle(module)
        if found is not None:
            raise found.error(name)
        return importlib.import_module(module)

    def _import_obstacle(self, module: str) -> Obstacle | None:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            return Obstacle(reason=f"{module} is not installed", remedy=self.install)
        except Exception as error:  # what libraries that are missing make is anybody's guess
            raise_if_interrupted()  # in the middle of loading, which makes an error of it
            return Obstacle(reason=f"cannot be loaded ({brief(error)})", remedy=self.install)
        return None


# By the format of what they build and run.
MODULES: Final[Mapping[str, TensorrtModule]] = {
    "tensorrt": TensorrtModule(
        name="TensorRT", module="tensorrt", install="pip install 'levit[tensorrt]'"
    ),
    "tensorrt-rtx": TensorrtModule(
        name="TensorRT-RTX",
        module="tensorrt_rtx_bindings",
        install="pip install 'levit[trt-rtx]'",
    ),
}


def tensorrt_gpu() -> Obstacle | None:
    """Probe TensorRT."""
    return MODULES["tensorrt"].obstacle()


def rtx_gpu() -> Obstacle | None:
    """Probe TensorRT-RTX."""
    return MODULES["tensorrt-rtx"].obstacle()
