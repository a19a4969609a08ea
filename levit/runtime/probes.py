"""Whether a backend that is installed can be used here: one function per backend and device.

Each answers None, or what stands in the way; it imports its backend itself, and loads no network.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Final

from levit.errors import brief
from levit.runtime.gpus import look_for_gpu
from levit.runtime.obstacle import Obstacle

__all__ = ["CUDA_PROVIDER", "imports", "onnxruntime_cpu", "onnxruntime_cuda"]

CUDA_PROVIDER: Final = "CUDAExecutionProvider"

# Both put their files into one folder, so that the one that came last is the one that is there.
_ONNXRUNTIMES: Final = ("onnxruntime", "onnxruntime-gpu")


def imports(module: str) -> Obstacle | None:
    """Whether a backend's package can be imported."""
    try:
        importlib.import_module(module)
    except Exception as error:  # what a broken package raises is anybody's guess
        return Obstacle(
            reason=f"cannot be imported ({brief(error)})", remedy="install it again, with pip"
        )
    return None


def onnxruntime_cpu() -> Obstacle | None:
    """ONNX Runtime on the CPU."""
    return imports("onnxruntime")


def onnxruntime_cuda() -> Obstacle | None:
    """ONNX Runtime's CUDA provider. Whether CUDA's libraries are there shows when it is loaded."""
    found = look_for_gpu()
    if isinstance(found, Obstacle):
        return found
    broken = imports("onnxruntime")
    if broken is not None:
        return broken
    import onnxruntime

    return provider_obstacle(onnxruntime.get_available_providers(), _distributions())


def provider_obstacle(providers: Sequence[str], distributions: Sequence[str]) -> Obstacle | None:
    """What keeps an ONNX Runtime with these `providers` from CUDA.

    Args:
        providers: that it was built with.
        distributions: the packages of ONNX Runtime that are installed.
    """
    if CUDA_PROVIDER in providers:
        return None
    if len(distributions) > 1:
        return Obstacle(
            reason=f"{' and '.join(distributions)} are installed over each other",
            remedy=f"pip uninstall {' '.join(distributions)} && pip install onnxruntime-gpu",
        )
    return Obstacle(
        reason="the installed onnxruntime has no CUDA provider",
        remedy="pip uninstall onnxruntime && pip install onnxruntime-gpu",
    )


def _distributions() -> list[str]:
    found = []
    for name in _ONNXRUNTIMES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found
