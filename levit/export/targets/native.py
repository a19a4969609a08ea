"""The CPU engine of this package: a program and its arrays, in one file for every CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from levit import __version__
from levit.artifact import NATIVE_FILE
from levit.errors import ExportError
from levit.export.lowering import can_lower, lower, require_lowering
from levit.export.lowering.numbers import BFLOAT16, with_numbers
from levit.export.metadata import metadata_of
from levit.export.quantization.form import IntegerForm
from levit.export.targets.target import Order, Target, Way, Written
from levit.models.model import Model
from levit.native.library import load_library
from levit.native.program import FLOAT32
from levit.native.program_file import write_program
from levit.runtime.backends import BACKENDS

__all__ = ["NATIVE"]


def prepare_native(model: Model, precision: str) -> Model:
    """Products over tokens: a token is one row of memory, and so is a pixel between convolutions.

    Raises:
        ExportError: there are no kernels for such a network.
    """
    require_lowering(model)
    return model.with_plan(channels_first=False)


def write_native(order: Order) -> Written:
    """Write ``model.safetensors``: no code, and nothing of the CPU that runs it.

    Raises:
        ExportError: there are no kernels for such a network, or an opset is asked for.
    """
    if order.options.opset is not None:
        raise ExportError("target 'native' writes no ONNX: leave out --opset")
    floats = BFLOAT16 if order.floats == "bf16" else FLOAT32
    lowered = with_numbers(lower(order.model), floats, order.quantization)
    metadata = metadata_of(
        None if order.preprocess is None else order.preprocess.to_dict(),
        order.labels,
        order.variant,
        order.scores,
        order.options.profile,
        order.options.precision,
    )
    write_program(order.folder / NATIVE_FILE, lowered.program, lowered.arrays, metadata)
    return Written()


def _ways(model: Model, precision: str) -> Sequence[Way]:
    if not can_lower(model) or _unrunnable():
        return ()
    library = load_library()
    if precision == "bf16" and not library.multiplies(library.chosen_isa(), "bfloat16"):
        return ()
    return (Way(),)


def _unrunnable() -> str:
    """Why this machine cannot run the program; empty where it can."""
    found = BACKENDS["native"].obstacle("cpu")
    return "" if found is None else f"{found.reason}: {found.remedy}"


NATIVE: Final = Target(
    format="native",
    payload=NATIVE_FILE,
    precisions=("fp32", "bf16", "int8"),
    distribution="levit",
    min_version=__version__,
    prepare=prepare_native,
    write=write_native,
    ways=_ways,
    unrunnable=_unrunnable,
    integers=IntegerForm(integer_attention=True, keep_first=False, exact_everywhere=True),
)
