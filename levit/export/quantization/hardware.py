"""Demands of int8 on a CPU: x86 without VNNI adds two products of 8 bits in 16, and saturates."""

from __future__ import annotations

from levit.errors import ExportError
from levit.export.options import ExportOptions
from levit.export.quantization.form import IntegerForm
from levit.runtime.cpus import VNNI, cpu_features, is_x86

__all__ = ["must_reduce_range", "require_vnni", "required_features"]


def required_features(options: ExportOptions, device: str, integers: IntegerForm) -> list[str]:
    """The manifest's ``cpu_features``: any one of these, where the CPU is an x86."""
    if options.precision != "int8" or options.reduce_range or device != "cpu":
        return []
    if integers.exact_everywhere:
        return []
    return list(VNNI)


def must_reduce_range() -> bool:
    """True where this CPU saturates products of 8 bits."""
    return is_x86() and set(VNNI).isdisjoint(cpu_features())


def require_vnni(options: ExportOptions, device: str, integers: IntegerForm) -> None:
    """Raise `ExportError` where this CPU would saturate what the artifact multiplies.

    Not where it is not to run here.
    """
    if not required_features(options, device, integers) or options.verify == "none":
        return
    if must_reduce_range():
        raise ExportError(
            "this CPU has no VNNI, without which products of 8 bits saturate: add --reduce-range "
            "(weights of 7 bits, which every CPU multiplies exactly), or export where it will run"
        )
