"""Probes of installed backends, whether they can be used here: one a backend and device.

Each answers None, or the `Obstacle` in the way; it imports its backend itself, and loads no
network.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from levit.errors import BackendUnavailableError, ConfigError, brief
from levit.native.library import load_library
from levit.runtime.gpus import Gpu, look_for_gpu
from levit.runtime.obstacle import Obstacle
from levit.runtime.openvino_module import openvino_core

__all__ = [
    "CUDA_PROVIDER",
    "imports",
    "native_cpu",
    "onnxruntime_cpu",
    "onnxruntime_cuda",
    "openvino_cpu",
]

CUDA_PROVIDER: Final = "CUDAExecutionProvider"

# Needed by its convolutions, which load it only when they run.
_CUDNN: Final = "libcudnn.so.9"

# With CUDA's libraries, which the package alone does not bring.
_INSTALL_CUDA: Final = "pip install 'onnxruntime-gpu[cuda,cudnn]'"

# Both put their files into one folder, so that the one that came last is the one that is there.
_ONNXRUNTIMES: Final = ("onnxruntime", "onnxruntime-gpu")


def imports(module: str) -> Obstacle | None:
    """Find the obstacle to importing a backend's package."""
    try:
        importlib.import_module(module)
    except Exception as error:  # what a broken package raises is anybody's guess
        return Obstacle(
            reason=f"cannot be imported ({brief(error)})", remedy="install it again, with pip"
        )
    return None


def onnxruntime_cpu() -> Obstacle | None:
    """Probe ONNX Runtime on the CPU."""
    return imports("onnxruntime")


def onnxruntime_cuda() -> Obstacle | None:
    """Probe ONNX Runtime's CUDA provider; loads all of CUDA's libraries, if there is a GPU."""
    gpu = look_for_gpu()
    if isinstance(gpu, Obstacle):
        return replace(gpu, remedy=f"{gpu.remedy}, or use device 'cpu'")
    broken = imports("onnxruntime")
    if broken is not None:
        return broken
    import onnxruntime

    return (
        provider_obstacle(onnxruntime.get_available_providers(), _distributions())
        or driver_obstacle(gpu, getattr(onnxruntime, "cuda_version", ""))
        or cuda_libraries_obstacle()
    )


def openvino_cpu() -> Obstacle | None:
    """Probe OpenVINO's CPU plugin."""
    try:
        openvino_core()  # which plugins there are takes it 20 ms to find out
    except Exception as error:  # RuntimeError, ImportError, and what a broken package raises
        return Obstacle(
            reason=f"cannot be imported ({brief(error)})",
            remedy="pip install --force-reinstall openvino",
        )
    return None


def native_cpu() -> Obstacle | None:
    """Probe levit's own engine."""
    try:
        load_library().chosen_isa()
    except BackendUnavailableError as error:
        reason, _, remedy = str(error).rpartition(": ")  # it says both
        return Obstacle(reason=reason, remedy=remedy)
    except ConfigError as error:
        return Obstacle(reason=str(error), remedy="unset it")
    return None


def provider_obstacle(providers: Sequence[str], distributions: Sequence[str]) -> Obstacle | None:
    """Find what keeps an ONNX Runtime with these `providers` from CUDA.

    Args:
        providers: providers that it was built with.
        distributions: the packages of ONNX Runtime that are installed.
    """
    if CUDA_PROVIDER in providers:
        return None
    if len(distributions) > 1:
        return Obstacle(
            reason=f"{' and '.join(distributions)} are installed over each other",
            remedy=f"pip uninstall {' '.join(distributions)} && {_INSTALL_CUDA}",
        )
    return Obstacle(
        reason="the installed onnxruntime has no CUDA provider",
        remedy=f"pip uninstall onnxruntime && {_INSTALL_CUDA}",
    )


def driver_obstacle(gpu: Gpu, cuda_version: str) -> Obstacle | None:
    """Find what keeps an ONNX Runtime that was built for `cuda_version` from a GPU's driver.

    A driver serves every release of its own major version of CUDA and all before it.
    """
    major = cuda_version.partition(".")[0]
    if not major.isdecimal() or int(major) <= gpu.cuda_version[0]:
        return None
    served = "{}.{}".format(*gpu.cuda_version)
    return Obstacle(
        reason=f"the installed onnxruntime needs CUDA {major}, the driver is for CUDA {served}",
        remedy="install a newer NVIDIA driver",
    )


def cuda_libraries_obstacle() -> Obstacle | None:
    """Find what keeps ONNX Runtime's CUDA provider from being loaded.

    ONNX Runtime would go on without it, and write several lines of what it misses to stderr.
    """
    import onnxruntime

    error = _loading_error(Path(onnxruntime.__file__).parent / "capi")
    if error is not None and hasattr(onnxruntime, "preload_dlls"):
        # Libraries that pip has installed are not on the loader's path. What it prints is `error`.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
        error = _loading_error(Path(onnxruntime.__file__).parent / "capi")
    if error is None:
        return None
    return Obstacle(
        reason=f"CUDA's libraries are missing ({brief(error)})",
        remedy=_INSTALL_CUDA,
    )


def _loading_error(folder: Path) -> OSError | None:
    try:
        # As ONNX Runtime does: the first one holds symbols of the second.
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
        ctypes.CDLL(_CUDNN)
    except OSError as error:
        return error
    return None


def _distributions() -> list[str]:
    import importlib.metadata

    found = []
    for name in _ONNXRUNTIMES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found
