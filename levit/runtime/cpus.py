"""CPUs: how many this process may really use, and their instruction sets.

A container's quota is not in ``os.cpu_count()``; threads sized to the host instead make
inference several times slower (onnxruntime#29510).
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from levit.errors import ResourceError

__all__ = [
    "VNNI",
    "available_cpus",
    "cpu_cgroups",
    "cpu_class",
    "cpu_features",
    "cpu_model",
    "cpu_precisions",
    "cpu_quota",
    "cpu_told",
    "default_threads",
    "is_bf16_fast",
    "is_x86",
    "known_cpu_class",
    "require_threads",
]

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PROC = Path("/proc")

# Instruction sets that choose between a backend's kernels, and so between roundings.
_X86_FEATURES = """
    avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx_vnni
    avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 amx_fp16
"""
_ARM_FEATURES = "asimd asimdhp asimddp sve sve2 i8mm bf16 sme"
_KERNEL_FEATURES = frozenset(f"{_X86_FEATURES} {_ARM_FEATURES}".split())

# On x86 without one of these, kernels add two products of 8 bits in 16, and saturate.
VNNI: Final = ("avx512_vnni", "avx_vnni", "amx_int8")

# Any of these multiplies and adds numbers of a precision. Without one, a backend that is given such
# numbers converts them to float32 and back.
_PRECISIONS: Final[Mapping[str, frozenset[str]]] = {
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "fp16": frozenset({"avx512_fp16", "amx_fp16", "asimdhp"}),
    "int8": frozenset({*VNNI, "asimddp", "i8mm"}),
}


def default_threads() -> int:
    """Count the threads of a backend that is told nothing: `available_cpus`, or fewer.

    ``OMP_NUM_THREADS`` bounds them, which Ray, Slurm and joblib set for each of the processes that
    share a machine. Of a list, for levels of nesting, the first number counts; what is no number
    is left to OpenMP to complain about.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    bound = int(first) if first.isascii() and first.isdigit() and len(first) < 9 else 0
    return min(available_cpus(), bound) if bound > 0 else available_cpus()


def available_cpus() -> int:
    """Count the CPUs that this process may use: the affinity mask, capped by the cgroup's quota.

    A fractional quota is rounded down (but never below one): a thread more than the quota
    is one that the kernel stops in the middle of a product that the others wait for.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        count = os.cpu_count() or 1
    quotas = [count, *(max(1, math.floor(quota)) for quota in _cgroup_quotas())]
    return max(1, min(quotas))


def require_threads(count: int) -> None:
    """Make sure that the system has so many threads to give, by starting and ending them.

    ONNX Runtime waits for ever for those that it has, where it gets some of its threads and not
    all (1.32). Takes 0.1 ms a thread.

    Raises:
        ResourceError: it has not.
    """
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, daemon=True) for _ in range(count)]
    try:
        for started, thread in enumerate(threads):
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:
                raise ResourceError(
                    f"the system gives no {count} threads, but {started}: ask for fewer, or raise "
                    f"its limit (ulimit -u, or pids of the cgroup)"
                ) from error
    finally:
        done.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def cpu_quota() -> float | None:
    """Find the smallest cgroup quota that holds for this process, in CPUs; None without one."""
    return min(_cgroup_quotas(), default=None)


def _cgroup_quotas() -> Iterator[float]:
    """Read every CPU quota on the way from this process's cgroup up to the root, in CPUs."""
    for folder in cpu_cgroups():
        yield from _quota_in(folder)


def cpu_cgroups() -> Iterator[Path]:
    """List the folders of this process's cgroups, from its own up to the root."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = _CGROUP_ROOT if not controllers else _CGROUP_ROOT / "cpu"
        folder = base / path.lstrip("/")
        # Inside a container the path may be the host's: the mount's root then is ours.
        for level in (folder, *folder.parents):
            yield level
            if level == base:
                break


def _quota_in(folder: Path) -> Iterator[float]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
        return
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        if quota_us > 0:
            yield quota_us / period_us
    except (OSError, ValueError, ZeroDivisionError):
        return


def cpu_features() -> tuple[str, ...]:
    """List the instruction sets of this CPU that matter to kernels, sorted."""
    told = cpu_told("flags") or cpu_told("Features")
    return tuple(sorted(_KERNEL_FEATURES.intersection(told.split())))


def cpu_precisions(features: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Map each precision to the instruction sets among `features` that compute in it.

    None for a precision means that the CPU only converts it; float32 needs none.
    """
    return {
        name: tuple(sorted(wanted.intersection(features))) for name, wanted in _PRECISIONS.items()
    }


def is_bf16_fast() -> bool:
    """Tell whether products in bfloat16 take less time than in float32 here.

    Of Intel's, AMX has sixteen times as many in a cycle; avx512_bf16 alone had 0.6 times as many as
    float32 on an Emerald Rapids (docs/decisions.md). AMD's has twice as many.
    """
    features = cpu_features()
    if not cpu_precisions(features)["bf16"]:
        return False
    return "amx_bf16" in features or cpu_told("vendor_id") != "GenuineIntel"


def is_x86() -> bool:
    """Tell whether this is an x86 of 64 bits."""
    return platform.machine().lower() in ("x86_64", "amd64")


def cpu_model() -> str:
    """Read the CPU's name, as the system gives it."""
    return cpu_told("model name") or platform.processor() or platform.machine()


def cpu_class() -> str:
    """Name the architecture and instruction sets that kernels are chosen by, in a short word.

    Two machines of one class with known features run the same kernels; on a class that an
    artifact has not seen, or where the system does not tell its features, the runtime
    compares its golden cases first.
    """
    digest = hashlib.sha256(" ".join(cpu_features()).encode()).hexdigest()[:8]
    return f"{platform.system()}-{platform.machine()}-{digest}".lower()


def known_cpu_class() -> str:
    """`cpu_class`, or nothing where the system does not tell the CPU's features."""
    return cpu_class() if cpu_features() else ""


def cpu_told(key: str) -> str:
    """Read a line of the system's description of the CPU; empty where there is none."""
    for line in _cpuinfo():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _cpuinfo() -> list[str]:
    try:
        # The first processor's block says it all; thousands of cores make a long file.
        return (_PROC / "cpuinfo").read_text(errors="replace").split("\n\n", 1)[0].splitlines()
    except OSError:
        return []
