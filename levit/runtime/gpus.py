"""The NVIDIA GPU that CUDA takes first, as the driver's own library tells it.

Through ctypes, so that nothing needs to be installed to ask, and in the driver's order of devices:
``CUDA_VISIBLE_DEVICES`` holds here as it does for the backends.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from levit.runtime.obstacle import Obstacle

__all__ = ["Gpu", "first_gpu", "look_for_gpu"]

# cuda.h: CUdevice_attribute, CUresult.
_MAJOR: Final = 75
_MINOR: Final = 76
_NOT_INITIALIZED: Final = 3
_NO_DEVICE: Final = 100

_NAME_LENGTH: Final = 96
_BUS_LENGTH: Final = 32

Load = Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: its maker's name of it.
        compute_capability: (major, minor), which kernels are built for.
        memory_bytes: its memory.
        cuda_version: (major, minor), the newest that its driver serves.
        driver_version: the driver's own; None where the driver does not tell it.
        pci_bus_id: its place, as nvidia-smi takes it: ``0000:65:00.0``.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    cuda_version: tuple[int, int]
    driver_version: str | None
    pci_bus_id: str | None = None

    @property
    def architecture(self) -> str:
        """Compute capability as compilers write it: ``sm_90``."""
        return "sm_{}{}".format(*self.compute_capability)

    @property
    def machine_class(self) -> str:
        """Class that kernels are chosen by: ``cuda-sm_90``."""
        return f"cuda-{self.architecture}"


def first_gpu() -> Gpu | None:
    """Find the GPU that CUDA takes first; None where there is none."""
    found = look_for_gpu()
    return found if isinstance(found, Gpu) else None


def look_for_gpu(load: Load = ctypes.CDLL) -> Gpu | Obstacle:
    """Find the GPU that CUDA takes first, or the obstacle in the way.

    Args:
        load: a library's name → its functions, OSError where there is no such library.
    """
    try:
        library = load("libcuda.so.1")
    except OSError:
        return Obstacle(
            reason="no NVIDIA driver",
            remedy="install NVIDIA's driver (a container needs --gpus all)",
        )
    try:
        return _ask(library, load)
    except _Refused as refused:
        if refused.code == _NO_DEVICE:
            return Obstacle(
                reason="the NVIDIA driver finds no GPU",
                remedy="look at nvidia-smi and CUDA_VISIBLE_DEVICES",
            )
        if refused.code == _NOT_INITIALIZED:
            return Obstacle(
                reason="this process was forked from one that had used the GPU",
                remedy="start it with 'spawn'",
            )
        return Obstacle(
            reason=f"the NVIDIA driver does not work ({refused})",
            remedy="look at nvidia-smi",
        )
    except AttributeError as error:  # no such function
        return Obstacle(
            reason=f"the NVIDIA driver is too old ({error})",
            remedy="install a newer one",
        )


class _Refused(Exception):  # noqa: N818  # never leaves this module
    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def _ask(library: Any, load: Load) -> Gpu:
    call = partial(_call, library)
    call("cuInit", ctypes.c_uint(0))
    version, device, major, minor = (ctypes.c_int() for _ in range(4))
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
    call("cuDeviceGetAttribute", ctypes.byref(major), ctypes.c_int(_MAJOR), device)
    call("cuDeviceGetAttribute", ctypes.byref(minor), ctypes.c_int(_MINOR), device)
    name = ctypes.create_string_buffer(_NAME_LENGTH)
    call("cuDeviceGetName", name, ctypes.c_int(_NAME_LENGTH), device)
    bus = ctypes.create_string_buffer(_BUS_LENGTH)
    call("cuDeviceGetPCIBusId", bus, ctypes.c_int(_BUS_LENGTH), device)
    memory = ctypes.c_size_t()
    call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=(major.value, minor.value),
        memory_bytes=memory.value,
        # 1000 · major + 10 · minor
        cuda_version=(version.value // 1000, version.value % 1000 // 10),
        driver_version=_driver_version(load),
        pci_bus_id=bus.value.decode(errors="replace"),
    )


def _call(library: Any, name: str, *arguments: Any) -> None:
    code = getattr(library, name)(*arguments)
    if code:
        words = ctypes.c_char_p()
        library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(words))
        text = (words.value or b"it does not say why").decode(errors="replace")
        raise _Refused(code, f"error {code} of {name}, {text}")


def _driver_version(load: Load) -> str | None:
    """Read the GPU's name as nvidia-smi shows it, from the library that nvidia-smi asks."""
    try:
        library = load("libnvidia-ml.so.1")
        if library.nvmlInit_v2():
            return None
        try:
            text = ctypes.create_string_buffer(_NAME_LENGTH)
            failed = library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(_NAME_LENGTH))
            return None if failed else text.value.decode(errors="replace")
        finally:
            library.nvmlShutdown()
    except (OSError, AttributeError):
        return None
