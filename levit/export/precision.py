"""Precisions: the type of a graph's values, its range, and the opsets that know it.

int8 is none: a `Quantization` names the layers of integers, and the rest has one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from levit.errors import ExportError
from levit.models.ops import Array

__all__ = ["PRECISIONS", "Precision", "choose_opset", "rounded", "to_bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One precision of a graph.

    Attributes:
        dtype: of the values between the inputs and the outputs, as ONNX spells it.
        largest: the largest finite value.
        smallest: the smallest value that has all its digits.
        min_opset, default_opset, max_opset: of a graph in it.
        onnxruntime: the oldest ONNX Runtime that reads the default opset and all up to the newest.
    """

    dtype: str
    largest: float
    smallest: float
    min_opset: int
    default_opset: int
    max_opset: int
    onnxruntime: str


# HardSwish came with opset 14, and 21 is the newest that ONNX Runtime 1.20 reads. Convolution,
# GlobalAveragePool, HardSwish and HardSigmoid take bfloat16 from 22 on, which 1.21 reads.
PRECISIONS: Final[Mapping[str, Precision]] = {
    "fp32": Precision(
        dtype="float32", largest=float(np.finfo(np.float32).max), smallest=2.0**-126,
        min_opset=14, default_opset=17, max_opset=21, onnxruntime="1.20",
    ),
    "fp16": Precision(
        dtype="float16", largest=65504.0, smallest=2.0**-14,
        min_opset=14, default_opset=17, max_opset=21, onnxruntime="1.20",
    ),
    "bf16": Precision(
        dtype="bfloat16", largest=(2 - 2.0**-7) * 2.0**127, smallest=2.0**-126,
        min_opset=22, default_opset=22, max_opset=22, onnxruntime="1.21",
    ),
}  # fmt: skip


# The first opset whose QuantizeLinear takes float16 and bfloat16.
_SMALL_FLOATS_IN_INTEGERS: Final = 19


def choose_opset(precision: str, opset: int | None, *, quantized: bool = False) -> int:
    """The opset asked for, or the precision's default.

    Args:
        precision: of all that is no integer.
        quantized: there are integers too.

    Raises:
        ExportError: a graph of this precision cannot have it.
    """
    kind = PRECISIONS[precision]
    name = "int8" if quantized else precision
    if quantized and kind.dtype != "float32":
        least = max(kind.min_opset, _SMALL_FLOATS_IN_INTEGERS)
        kind = replace(kind, min_opset=least, default_opset=max(kind.default_opset, least))
    if opset is None:
        return kind.default_opset
    if kind.min_opset <= opset <= kind.max_opset:
        return opset
    if kind.min_opset == kind.max_opset:
        raise ExportError(f"opset must be {kind.min_opset} for {name}, not {opset}")
    raise ExportError(
        f"opset must be from {kind.min_opset} to {kind.max_opset} for {name}, not {opset}"
    )


def rounded(array: Array, dtype: str) -> Array:
    """`array` in `dtype`, each value rounded once, to the nearest or else the even one.

    Returns:
        float32, float16, or for ``bfloat16`` its bits as uint16.

    Raises:
        OverflowError: a value is not finite there.
    """
    with np.errstate(over="ignore", under="ignore"):
        if dtype == "bfloat16":
            result = to_bfloat16(array)
            finite = bool(((result & 0x7F80) != 0x7F80).all())
        else:
            result = array.astype(dtype)
            finite = bool(np.isfinite(result).all())
    if not finite:
        raise OverflowError
    return result


def to_bfloat16(array: Array) -> Array:
    """float64 or float32 → the bits of the nearest bfloat16, ties to even, as uint16.

    By way of float32, without rounding twice: where that is inexact, the one of its two
    neighbours whose last bit is set is taken ("round to odd"), so that no value becomes a tie
    that was none. NumPy has no such type, and onnx brings `ml_dtypes` only from 1.19 on.
    """
    exact = np.asarray(array, np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = exact.astype(np.float32)
        inexact = single.astype(np.float64) != exact
    even = (single.view(np.uint32) & 1) == 0
    towards = np.where(exact > single, np.float32(np.inf), np.float32(-np.inf))
    single = np.where(inexact & even, np.nextafter(single, towards), single)
    bits = single.view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # The carry must not turn a NaN into infinity.
    return np.where(np.isnan(exact), 0x7FC0, nearest).astype(np.uint16)
