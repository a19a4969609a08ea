"""ONNX for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from levit.artifact import GRAPH_FILE
from levit.export.onnx.onnxruntime_ops import OnnxruntimeOps
from levit.export.precision import PRECISIONS
from levit.export.quantization.form import IntegerForm
from levit.export.targets.graph import GraphForm, versions_of
from levit.export.targets.target import Order, Target, Way, Written
from levit.models.model import Model

__all__ = ["ONNX", "prepare_onnx", "write_onnx"]

_FORM: Final = GraphForm(dialect=OnnxruntimeOps)


def prepare_onnx(model: Model, precision: str) -> Model:
    """Linears over tokens become 1×1 convolutions over the grid.

    ONNX Runtime keeps a chain of convolutions in its blocked layout and takes bias,
    activation and residual into them; the attention products read (B, H, D, N) as it comes,
    so that nothing is transposed. Measured in docs/decisions.md. At int8 they are products over
    tokens, whose integers give floats: a convolution of integers gives integers.
    """
    return model.with_plan(channels_first=precision != "int8")


def write_onnx(order: Order, form: GraphForm = _FORM) -> Written:
    """Write ``model.onnx``."""
    proto = form.emit(order)
    (order.folder / GRAPH_FILE).write_bytes(proto.SerializeToString(deterministic=True))
    oldest = PRECISIONS[order.floats].onnxruntime
    return Written(
        requirements={"backend_version": f">={oldest}"}, toolchain=versions_of("onnxruntime")
    )


def _ways(model: Model, precision: str) -> Sequence[Way]:
    if precision == "bf16":  # which it has no kernels for on a CPU
        return ()
    if precision == "int8":
        return (Way(),)
    # The dialects differ in Linears over tokens alone.
    tokens = (
        Way(prepare=_over_tokens),
        Way(dialect="standard", prepare=_over_tokens, write=partial(write_onnx, form=GraphForm())),
    )
    return (*tokens, Way(form="channels first")) if model.family.has_grid else tokens


def _over_tokens(model: Model, precision: str) -> Model:
    return model.with_plan(channels_first=False)


ONNX: Final = Target(
    format="onnx",
    payload=GRAPH_FILE,
    precisions=("fp32", "fp16", "bf16", "int8"),
    distribution="onnxruntime",
    min_version="1.20",
    prepare=prepare_onnx,
    write=write_onnx,
    integers=IntegerForm(integer_results=True),
    ways=_ways,
)
