"""A small program stands in for nvidia-smi, and answers as it does."""

import os
import stat
import sys

import pytest

from levit.benchmarks import gpu
from levit.errors import BackendUnavailableError
from levit.runtime.gpus import Gpu
from levit.runtime.obstacle import Obstacle

# As --format=csv,noheader,nounits writes them.
SAMPLE = "1980, 2619, 31, 118.37, 0\n"
# A laptop without power sensor; utilisation of a GPU that is split into instances.
GAPS = "300, 405, 51, [N/A], [Not Supported]\n"
FINGERPRINT = "NVIDIA H200, 570.86.15, 9.0, Enabled, 143771, 1980, 3201, 700.00, 2\n"

on_posix = pytest.mark.skipif(os.name != "posix", reason="the program is a script with #!")


GPU = Gpu(
    name="NVIDIA H200",
    compute_capability=(9, 0),
    memory_bytes=150_755_344_384,
    cuda_version=(12, 8),
    driver_version="570.86.15",
    pci_bus_id="0000:65:00.0",
)


@pytest.fixture(autouse=True)
def found(monkeypatch):
    """The GPU that the runtime finds."""
    monkeypatch.setattr(gpu, "look_for_gpu", lambda: GPU)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """(stdout, exit status) → a program of that name, first on the path."""

    def make(text, status=0):
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f"#!{sys.executable}\nimport sys\nopen({str(tmp_path / 'asked')!r}, 'w')"
            f".write(' '.join(sys.argv[1:]))\nsys.stdout.write({text!r})\nsys.exit({status})\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "asked"

    return make


@on_posix
def test_a_sample(nvidia_smi):
    asked = nvidia_smi(SAMPLE)
    assert gpu.sample() == {
        "sm_mhz": 1980,
        "memory_mhz": 2619,
        "temperature_c": 31,
        "power_w": 118.37,
        "utilization_percent": 0,
    }
    assert asked.read_text() == (
        "--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw,utilization.gpu "
        "--format=csv,noheader,nounits --id=0000:65:00.0"
    )


@on_posix
def test_what_a_gpu_does_not_tell_is_none(nvidia_smi):
    nvidia_smi(GAPS)
    told = gpu.sample()
    assert (told["power_w"], told["utilization_percent"]) == (None, None)
    assert told["temperature_c"] == 51


@on_posix
def test_the_fingerprint(nvidia_smi):
    nvidia_smi(FINGERPRINT)
    assert gpu.gpu_fingerprint() == {
        "name": "NVIDIA H200",
        "driver": "570.86.15",
        "compute_capability": "9.0",
        "persistence_mode": "Enabled",
        "memory_mib": 143771,
        "highest_sm_mhz": 1980,
        "highest_memory_mhz": 3201,
        "power_limit_w": 700,
        "count": 2,
    }


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("1980", 1980),
        ("71.20", 71.2),
        ("1980 MHz", 1980),
        ("[N/A]", None),
        ("N/A", None),
        ("[Not Supported]", None),
        ("[Unknown Error]", None),
        ("[GPU requires reset]", None),
        ("", None),
    ],
)
def test_numbers_with_and_without(cell, expected):
    assert gpu.number(cell) == expected


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        # Without its kernel module, on a machine whose GPU fell off, and in a container.
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make "
            "sure that the latest NVIDIA driver is installed and running.\n\n",
            9,
            "couldn't communicate with the NVIDIA driver",
        ),
        ("No devices were found\n", 6, "No devices were found"),
        ("No devices were found\n", 0, "No devices were found"),
        ("", 0, "nvidia-smi says nothing"),
        ('Field "power.draw" is not a valid field to query.\n', 2, "not a valid field"),
        ("1980, 2619\n", 0, "not 5 values"),
    ],
)
@on_posix
def test_no_gpu_that_answers(nvidia_smi, text, status, said):
    nvidia_smi(text, status)
    with pytest.raises(BackendUnavailableError, match=said) as caught:
        gpu.sample()
    assert "\n" not in str(caught.value)


@on_posix
def test_a_program_that_is_none(nvidia_smi, tmp_path):
    nvidia_smi("")
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF nothing")
    with pytest.raises(BackendUnavailableError, match="nvidia-smi cannot be asked"):
        gpu.sample()


def test_a_driver_without_its_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (gpu.sample, gpu.gpu_fingerprint):
        with pytest.raises(BackendUnavailableError, match=r"there is no nvidia-smi.*--device cpu"):
            ask()


def test_no_driver_at_all(monkeypatch):
    monkeypatch.setattr(gpu, "look_for_gpu", lambda: Obstacle(reason="no driver", remedy="buy"))
    for ask in (gpu.require_gpu, gpu.sample, gpu.gpu_fingerprint):
        with pytest.raises(BackendUnavailableError, match=r"\(no driver\): buy, or .*--device cpu"):
            ask()
