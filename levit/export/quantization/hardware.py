"""What int8 asks of a CPU: x86 without VNNI adds two products of 8 bits in 16, and saturates."""

from __future__ import annotations

import platform

from levit.errors import ExportError
from levit.export.options import ExportOptions
from levit.export.targets.target import Target
from levit.runtime.cpus import cpu_features, cpu_precisions

__all__ = ["must_reduce_range", "require_vnni", "required_features"]

_X86 = ("x86_64", "AMD64", "amd64")


def required_features(options: ExportOptions, target: Target) -> list[str]:
    """The manifest's ``cpu_features``: any one of these, where the CPU is an x86."""
    if options.precision != "int8" or options.reduce_range or target.device != "cpu":
        return []
    return ["avx512_vnni", "avx_vnni", "amx_int8"]


def must_reduce_range() -> bool:
    """Whether this CPU saturates products of 8 bits."""
    return platform.machine() in _X86 and not cpu_precisions(cpu_features())["int8"]


def require_vnni(options: ExportOptions, target: Target) -> None:
    """Raise `ExportError` where this CPU would saturate what the artifact multiplies.

    Not where it is not to run here.
    """
    if not required_features(options, target) or options.verify == "none":
        return
    if must_reduce_range():
        raise ExportError(
            "this CPU has no VNNI, without which products of 8 bits saturate: add --reduce-range "
            "(weights of 7 bits, which every CPU multiplies exactly), or export where it will run"
        )
