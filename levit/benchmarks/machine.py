"""Fingerprints of machines: enough to refuse a comparison, or to look for a cause.

Results get published, so nothing here names a host, a user or a folder. A value that the system
does not tell (no /proc, no /sys, a container that hides them) is None.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import levit
from levit.benchmarks.gpu import gpu_fingerprint
from levit.benchmarks.system import load_averages, physical_cores, read_text, total_memory_bytes
from levit.runtime.cpus import (
    available_cpus,
    cpu_class,
    cpu_features,
    cpu_model,
    cpu_quota,
    cpu_told,
)

__all__ = ["changes", "differences", "fingerprint", "identity"]

_SYS = Path("/sys")

# Distributions that compute something here, each with its other names: the first found counts.
_DISTRIBUTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "numpy": (),
    "pillow": ("pillow-simd",),
    "onnx": (),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino"),
    **dict.fromkeys(("openvino", "torch", "timm", "nncf"), ()),
}

# Variables that move threads, allocators or kernels. Some share a prefix with credentials.
_VARIABLES: Final = re.compile(
    r"(OMP|KMP|GOMP|OPENBLAS|GOTO|MKL|BLIS|ORT|ONEDNN|DNNL|OV|TBB|TORCHINDUCTOR|MALLOC)_[A-Z0-9_]+"
    r"|LD_PRELOAD|GLIBC_TUNABLES|PYTHONMALLOC|NVIDIA_TF32_OVERRIDE"
    r"|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|MODULE_LOADING|LAUNCH_BLOCKING)"
)
_PRIVATE: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|USER|HOST|URL")

# Words → the value of a fingerprint that must be the same in two runs. Versions, kernel and
# environment are not here: people compare runs to see what those change.
_IDENTITY: Final[Mapping[str, tuple[str, str]]] = {
    "operating system": ("system", "name"),
    "architecture": ("cpu", "architecture"),
    "CPU": ("cpu", "model"),
    "CPU revision": ("cpu", "revision"),
    "CPU features": ("cpu", "features"),
    "CPUs online": ("cpu", "online"),
    "CPUs allowed": ("cpu", "allowed"),
    "CPU quota": ("cpu", "quota"),
    "SMT": ("cpu", "smt"),
    "frequency governor": ("cpu", "governor"),
    "highest frequency in MHz": ("cpu", "highest_mhz"),
    "frequency boost": ("cpu", "boost"),
    "hypervisor": ("cpu", "hypervisor"),
    "transparent huge pages": ("memory", "transparent_huge_pages"),
    "GPU": ("gpu", "name"),
    "GPU memory in MiB": ("gpu", "memory_mib"),
    "GPU's highest SM clock in MHz": ("gpu", "highest_sm_mhz"),
    "GPU power limit in W": ("gpu", "power_limit_w"),
}

# Groups of the fingerprint that may explain a difference.
_CIRCUMSTANCES: Final = ("versions", "revision", "environment", "system")


def fingerprint(device: str) -> dict[str, Any]:
    """Describe this machine as it is now, in values that JSON keeps.

    Args:
        device: ``cpu`` or ``gpu``; the GPU is only asked about in the second case.

    Returns:
        Groups ``cpu`` (frequencies in MHz, quota in CPUs), ``memory`` (bytes), ``gpu`` (None for
        a run on the CPU), ``load`` (averages over 1, 5, 15 minutes), ``system``, ``versions``,
        ``revision`` and ``environment``.
    """
    enabled = read_text(_SYS / "kernel/mm/transparent_hugepage/enabled") or ""
    huge_pages = re.search(r"\[(\w+)\]", enabled)
    return {
        "cpu": _cpu(),
        "memory": {
            "total_bytes": total_memory_bytes(),
            "transparent_huge_pages": huge_pages[1] if huge_pages else None,
        },
        "gpu": gpu_fingerprint() if device == "gpu" else None,
        "load": load_averages(),
        "system": _system(),
        "versions": _versions(),
        "revision": _revision(Path(levit.__file__).resolve().parent),
        "environment": _environment(os.environ),
    }


def identity(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a fingerprint that two runs must share to be compared, by its words."""
    return {
        name: (fingerprint.get(group) or {}).get(key) for name, (group, key) in _IDENTITY.items()
    }


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return a line for each value in which the identities of two fingerprints differ."""
    first, second = identity(a), identity(b)
    return [
        _difference(name, first[name], second[name])
        for name in first
        if first[name] != second[name]
    ]


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return a line for each version, revision, variable or system part that changed from a to b.

    They do not keep two runs from being compared, and may explain a difference.
    """
    lines = []
    for group in _CIRCUMSTANCES:
        first, second = (fingerprint.get(group) or {} for fingerprint in (a, b))
        for key in sorted({*first, *second}):
            if first.get(key) != second.get(key):
                name = key if group != "revision" else f"levit's {key}"
                lines.append(_difference(name, first.get(key), second.get(key)))
    return lines


def _difference(name: str, first: Any, second: Any) -> str:
    if isinstance(first, list) and isinstance(second, list):
        only = [
            f"{' '.join(map(str, lacking))} only in the {which}"
            for which, has, other in (("first", first, second), ("second", second, first))
            if (lacking := [item for item in has if item not in other])
        ]
        return f"{name}: {', '.join(only) or 'in another order'}"
    return f"{name}: {_shown(first)} in the first, {_shown(second)} in the second"


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cpu() -> dict[str, Any]:
    flags = cpu_told("flags")
    mask = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    frequency = _SYS / "devices/system/cpu/cpu0/cpufreq"
    current_mhz = _number(read_text(frequency / "scaling_cur_freq"), 1000)
    if current_mhz is None:
        current_mhz = _number(cpu_told("cpu MHz"), 1)
    smt, boost, no_turbo = (
        None if (text := read_text(_SYS / "devices/system/cpu" / name)) is None else text == "1"
        for name in ("smt/active", "cpufreq/boost", "intel_pstate/no_turbo")
    )
    return {
        "model": cpu_model(),
        "revision": _cpu_revision(),
        "class": cpu_class(),
        "features": list(cpu_features()),
        "architecture": platform.machine(),
        "online": os.cpu_count(),
        "cores": physical_cores(),
        "allowed": os.cpu_count() if mask is None else len(mask),
        "usable": available_cpus(),
        "mask": mask,
        "quota": cpu_quota(),
        "smt": smt,
        "governor": read_text(frequency / "scaling_governor"),
        "driver": read_text(frequency / "scaling_driver"),
        "current_mhz": current_mhz,
        "highest_mhz": _number(read_text(frequency / "scaling_max_freq"), 1000),
        "boost": not no_turbo if boost is None and no_turbo is not None else boost,
        "hypervisor": "hypervisor" in flags.split() if flags else None,
        "caches": _caches(),
    }


def _cpu_revision() -> str | None:
    """Numbers that tell a Zen 4 from a Zen 5, where a virtual machine shortens the name."""
    names = ("cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant")
    told = {name.split()[-1]: cpu_told(name) for name in names}
    return " ".join(f"{word} {number}" for word, number in told.items() if number) or None


def _caches() -> dict[str, str]:
    """Name (L1d, L2…) → size of the first CPU's caches, as the kernel writes it."""
    letters = {"Data": "d", "Instruction": "i", "Unified": ""}
    caches = {}
    for folder in sorted((_SYS / "devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (read_text(folder / name) for name in ("level", "type", "size"))
        if level and size:
            caches[f"L{level}{letters.get(kind or '', '')}"] = size
    return caches


def _system() -> dict[str, Any]:
    vendor, product = (
        read_text(_SYS / f"class/dmi/id/{name}") for name in ("sys_vendor", "product_name")
    )
    return {
        "name": platform.system(),
        "distribution": _distribution(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        # The name that a cloud gives it: "Amazon EC2 c7a.large".
        "platform": " ".join(filter(None, (vendor, product))) or None,
    }


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return " ".join(filter(None, (platform.mac_ver()[0], platform.win32_ver()[0]))) or None


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"levit": levit.__version__}
    for name, others in _DISTRIBUTIONS.items():
        versions[name] = None
        for candidate in (*reversed(others), name):  # the first found is written last
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                version = importlib.metadata.version(candidate)
                versions[name] = version if candidate == name else f"{version} ({candidate})"
    return versions


def _revision(package: Path) -> dict[str, Any] | None:
    """Commit of the checkout that the package runs from, and whether its code was changed since.

    None for an installed package, also where its environment lies inside some repository.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--", ".")
    if commit is None or changed is None:
        return None
    return {"commit": commit, "changed": bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that change speed; paths in their values are cut to the last part."""
    return {
        name: re.sub(r"[^:;,=]*[/\\]", "", value)
        for name, value in sorted(variables.items())
        if _VARIABLES.fullmatch(name) and not _PRIVATE.search(name)
    }


def _number(text: str | None, divisor: int) -> float | None:
    try:
        return None if text is None else float(text) / divisor
    except ValueError:
        return None
