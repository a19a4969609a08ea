"""The driver's library is put together from functions of its C interface, called through ctypes."""

import ctypes
from types import SimpleNamespace

import pytest

from levit.runtime.gpus import Gpu, first_gpu, look_for_gpu
from levit.runtime.obstacle import Obstacle

INT_P = ctypes.POINTER(ctypes.c_int)
SIZE_P = ctypes.POINTER(ctypes.c_size_t)
TEXT_P = ctypes.POINTER(ctypes.c_char_p)
BUFFER = ctypes.POINTER(ctypes.c_char)

WORDS = {
    3: b"initialization error",
    100: b"no CUDA-capable device is detected",
    803: b"system has unsupported display driver / cuda driver combination",
}


def function(*arguments):
    """A Python function as one of C: wrong arguments are refused, and an int comes back."""
    return ctypes.CFUNCTYPE(ctypes.c_int, *arguments)


def cuda(fails=None, code=0):
    """libcuda.so.1 of a machine with an H200, one of whose functions may answer with an error."""

    def answers(name, value):
        def give(place, *_):
            place[0] = value
            return code if name == fails else 0

        return give

    attributes = {75: 9, 76: 0}

    def attribute(place, which, device):
        place[0] = attributes[which]
        return code if fails == "cuDeviceGetAttribute" else 0

    def name(buffer, size, device):
        text = b"NVIDIA H200\0"
        assert size >= len(text)
        ctypes.memmove(buffer, text, len(text))
        return code if fails == "cuDeviceGetName" else 0

    def bus(buffer, size, device):
        text = b"0000:65:00.0\0"
        assert size >= len(text)
        ctypes.memmove(buffer, text, len(text))
        return code if fails == "cuDeviceGetPCIBusId" else 0

    def error_string(number, place):
        place[0] = WORDS.get(number)
        return 0

    return SimpleNamespace(
        cuInit=function(ctypes.c_uint)(lambda flags: code if fails == "cuInit" else 0),
        cuDriverGetVersion=function(INT_P)(answers("cuDriverGetVersion", 12080)),
        cuDeviceGet=function(INT_P, ctypes.c_int)(answers("cuDeviceGet", 0)),
        cuDeviceGetAttribute=function(INT_P, ctypes.c_int, ctypes.c_int)(attribute),
        cuDeviceGetName=function(BUFFER, ctypes.c_int, ctypes.c_int)(name),
        cuDeviceGetPCIBusId=function(BUFFER, ctypes.c_int, ctypes.c_int)(bus),
        cuDeviceTotalMem_v2=function(SIZE_P, ctypes.c_int)(
            answers("cuDeviceTotalMem_v2", 150_755_344_384)
        ),
        cuGetErrorString=function(ctypes.c_int, TEXT_P)(error_string),
    )


def nvml(version=b"570.86.15\0", init=0):
    def driver(buffer, size):
        assert size >= len(version)
        ctypes.memmove(buffer, version, len(version))
        return 0

    return SimpleNamespace(
        nvmlInit_v2=function()(lambda: init),
        nvmlSystemGetDriverVersion=function(BUFFER, ctypes.c_uint)(driver),
        nvmlShutdown=function()(lambda: 0),
    )


def machine(**libraries):
    """What loads libraries on a machine that has these alone."""
    by_name = {"cuda": "libcuda.so.1", "nvml": "libnvidia-ml.so.1"}
    here = {by_name[name]: library for name, library in libraries.items()}

    def load(name):
        if name not in here:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return here[name]

    return load


def test_what_the_driver_tells():
    gpu = look_for_gpu(machine(cuda=cuda(), nvml=nvml()))
    assert gpu == Gpu(
        name="NVIDIA H200",
        compute_capability=(9, 0),
        memory_bytes=150_755_344_384,
        cuda_version=(12, 8),
        driver_version="570.86.15",
        pci_bus_id="0000:65:00.0",
    )
    assert (gpu.architecture, gpu.machine_class) == ("sm_90", "cuda-sm_90")


@pytest.mark.parametrize("libraries", [{}, {"nvml": nvml(init=999)}])
def test_a_driver_that_does_not_tell_its_version(libraries):
    assert look_for_gpu(machine(cuda=cuda(), **libraries)).driver_version is None


def test_no_driver():
    found = look_for_gpu(machine())
    assert isinstance(found, Obstacle)
    assert found.reason == "no NVIDIA driver"
    assert "install" in found.remedy


def test_a_driver_without_a_gpu():
    found = look_for_gpu(machine(cuda=cuda("cuInit", 100)))
    assert found.reason == "the NVIDIA driver finds no GPU"


def test_a_child_of_a_process_that_had_used_the_gpu():
    found = look_for_gpu(machine(cuda=cuda("cuInit", 3)))
    assert "forked" in found.reason
    assert "spawn" in found.remedy


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("cuInit", 803, "error 803 of cuInit, system has unsupported display driver"),
        ("cuInit", 4711, "error 4711 of cuInit, it does not say why"),
        ("cuDriverGetVersion", 999, "cuDriverGetVersion"),
        ("cuDeviceGet", 999, "cuDeviceGet"),
        ("cuDeviceGetAttribute", 999, "cuDeviceGetAttribute"),
        ("cuDeviceGetName", 999, "cuDeviceGetName"),
        ("cuDeviceTotalMem_v2", 999, "cuDeviceTotalMem_v2"),
    ],
)
def test_a_driver_that_fails(name, code, said):
    found = look_for_gpu(machine(cuda=cuda(name, code)))
    assert said in found.reason


def test_a_library_that_lacks_a_function():
    library = cuda()
    del library.cuDeviceTotalMem_v2
    assert "too old" in look_for_gpu(machine(cuda=library)).reason


def test_this_machine():
    found = look_for_gpu()
    assert first_gpu() == (found if isinstance(found, Gpu) else None)
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert found.reason == "no NVIDIA driver"
