"""A model → an ONNX file's contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx
from onnx import TensorProto, helper

from levit.artifact import TensorSpec
from levit.errors import ExportError
from levit.export.grids import Quantization
from levit.export.interface import input_spec, output_specs
from levit.export.onnx.ops import OnnxOps, Value
from levit.export.precision import choose_opset
from levit.models.model import Model

__all__ = ["emit_onnx"]

_ELEM_TYPES: Final = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


def emit_onnx(
    model: Model,
    *,
    name: str,
    batch: int | None = None,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
    producer_version: str = "",
    precision: str = "fp32",
    islands: frozenset[str] = frozenset(),
    quantization: Quantization | None = None,
    dialect: type[OnnxOps] = OnnxOps,
) -> onnx.ModelProto:
    """Apply `model` to `OnnxOps` and wrap the nodes up; the same bytes for the same model.

    Args:
        name: of the graph.
        batch: a fixed batch size, or None for a dynamic one.
        opset: None for the precision's default.
        precision: of the values between the inputs and the outputs, which are float32, as far as
            they are not integers.
        islands: names of values (as `OnnxOps` gives them) that are float32 at any precision.
        quantization: of the layers that are int8, whose weights lie on its grids.
        dialect: writes operations in the form that a target reads.
        metadata: stands in the file, for those who have it without its manifest.

    Raises:
        ExportError: the opset is out of range, or the result is no valid ONNX.
    """
    opset = choose_opset(precision, opset, quantized=quantization is not None)
    source = input_spec(model, batch)
    targets = output_specs(model, batch)
    ops = dialect(opset, precision, islands, quantization)
    image = Value(source.name, (1, *map(int, source.shape[1:])), source.dtype)
    values = {key: ops.as_float32(value) for key, value in model.forward(ops, image).items()}
    _name_outputs(ops, values)
    graph = helper.make_graph(
        ops.nodes,
        name,
        [_value_info(source)],
        [_value_info(target) for target in targets],
        initializer=list(ops.initializers.values()),
    )
    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(
        graph,
        opset_imports=opsets,
        # The oldest that the opset allows: the more runtimes read it.
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="levit",
        producer_version=producer_version,
    )
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the emitted graph is not valid ONNX ({error})") from error
    return proto


def _name_outputs(ops: OnnxOps, values: Mapping[str, Value]) -> None:
    """Rename the values that are outputs to the outputs' names."""
    renamed = {value.name: output for output, value in values.items()}
    for node in ops.nodes:
        for names in (node.input, node.output):
            for i, old in enumerate(names):
                if old in renamed:
                    names[i] = renamed[old]


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _ELEM_TYPES[spec.dtype], list(spec.shape))
