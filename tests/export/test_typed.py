"""Graphs in fp16 and bf16: their types, their Casts, their islands, their numbers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from levit.errors import ExportError
from levit.export.onnx.graph import emit_onnx
from levit.export.passes import passes_for, run_passes
from levit.export.precision import PRECISIONS
from levit.export.targets.onnx import prepare_onnx
from levit.models.ops import NumpyOps
from levit.runtime.onnx_file import check_onnx_file

STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# Rounding at every operation of a small random network, of which 120 were at most 0.016 and 0.07
# off. A wrong weight or table is found in fp32, where the same graph must agree to 1e-4.
TOLERANCE = {"fp16": 0.05, "bf16": 0.2}


def deploy(model, precision):
    folded = run_passes(model, passes_for(precision))[-1].model
    return prepare_onnx(folded, "fp32")


def every_output(model):
    return model.with_plan(outputs=model.family.outputs(model.config))


def types_of(proto):
    """Value name → element type, as shape inference finds it."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    graph = inferred.graph
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def run(proto, x):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: x}), strict=True))


def interpret(proto, x):
    """By onnx's own reference, which rounds to the type after every operation."""
    names = [output.name for output in proto.graph.output]
    with np.errstate(all="ignore"):  # its sigmoid computes both branches everywhere
        values = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: x})
    return dict(zip(names, values, strict=True))


def relative_error(found, expected):
    return max(np.abs(found[n] - v).max() / np.abs(v).max() for n, v in expected.items())


# ---------------------------------------------------------------------------- types


@pytest.mark.parametrize("precision", LOW)
def test_everything_between_the_borders_is_of_the_type(small, precision):
    model = every_output(small)
    proto = emit_onnx(deploy(model, precision), name="small", precision=precision)
    onnx.checker.check_model(proto, full_check=True)
    casts = [node for node in proto.graph.node if node.op_type == "Cast"]
    outputs = {output.name for output in proto.graph.output}
    assert [list(node.input) for node in casts[:1]] == [["image"]]
    assert {node.output[0] for node in casts[1:]} == outputs
    types = types_of(proto)
    borders = {"image", *outputs}
    kinds = {kind for name, kind in types.items() if name not in borders}
    assert kinds == {LOW[precision], TensorProto.INT64}
    assert {types[name] for name in borders} == {TensorProto.FLOAT}


@pytest.mark.parametrize("precision", LOW)
def test_it_is_the_graph_of_fp32_and_its_casts(small, precision):
    model = deploy(every_output(small), precision)
    counts = Counter(node.op_type for node in emit_onnx(model, name="a").graph.node)
    proto = emit_onnx(model, name="a", precision=precision)
    counts["Cast"] = 1 + len(proto.graph.output)
    assert Counter(node.op_type for node in proto.graph.node) == counts
    names = {tensor.name for tensor in proto.graph.initializer}
    assert names == {tensor.name for tensor in emit_onnx(model, name="a").graph.initializer}


@pytest.mark.parametrize("precision", LOW)
def test_pixels_are_normalised_in_float32_and_cast_once(make_small, precision):
    model = deploy(make_small("tiny").with_plan(pixels=STATISTICS), precision)
    assert not model.plan.pixels_folded
    proto = emit_onnx(model, name="uint8", precision=precision)
    first = proto.graph.node[:6]
    assert [n.op_type for n in first] == ["Transpose", "Cast", "Add", "Mul", "Cast", "Conv"]
    types = types_of(proto)
    assert [types[n.output[0]] for n in first] == [
        TensorProto.UINT8, *[TensorProto.FLOAT] * 3, *[LOW[precision]] * 2,
    ]  # fmt: skip
    assert Counter(node.op_type for node in proto.graph.node)["Cast"] == 3


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("form", ["as_trained", "tokens"])
def test_other_forms_of_the_model_are_valid_too(small, precision, form):
    model = every_output(small)
    if form == "tokens":
        model = run_passes(model)[-1].model
    proto = emit_onnx(model, name=form, precision=precision)
    assert set(types_of(proto).values()) <= {LOW[precision], TensorProto.FLOAT, TensorProto.INT64}


@pytest.mark.parametrize("precision", LOW)
def test_the_runtimes_scan_lets_it_pass(make_small, tmp_path, precision):
    proto = emit_onnx(deploy(make_small("tiny"), precision), name="a", precision=precision)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    check_onnx_file(path)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_weight_out_of_range_is_named(make_small, precision):
    model = deploy(make_small("tiny"), precision)
    stem = model.params.stem
    heavy = stem[0].weight / np.abs(stem[0].weight).max() * 2 * PRECISIONS[precision].largest
    stem = (replace(stem[0], weight=heavy), *stem[1:])
    model = replace(model, params=replace(model.params, stem=stem))
    dtype = PRECISIONS[precision].dtype
    with pytest.raises(ExportError, match=rf"^stem.0.weight: .* the range of {dtype}$"):
        emit_onnx(model, name="heavy", precision=precision)
    if precision == "fp16":
        emit_onnx(model, name="a", precision=precision, islands=frozenset({"stem.0.weight"}))


# ---------------------------------------------------------------------------- islands


ADD = "stages.0.blocks.0.attn/Add"


@pytest.mark.parametrize("precision", LOW)
def test_an_island_and_those_around_it_are_float32(make_small, precision):
    model = deploy(make_small("tiny"), precision)
    plain = emit_onnx(model, name="a", precision=precision)
    proto = emit_onnx(model, name="a", precision=precision, islands=frozenset({ADD}))
    types = types_of(proto)
    assert types[ADD] == TensorProto.FLOAT
    made = next(n for n in proto.graph.node if ADD in n.output)
    read = [n for n in proto.graph.node if ADD in n.input]
    assert [node.op_type for node in read] == ["Softmax"]
    for node in (made, *read):
        assert {types[name] for name in node.input} == {TensorProto.FLOAT}, node.name
    # The scores up, the probabilities back down; the bias table is written as it is read.
    assert len(proto.graph.node) == len(plain.graph.node) + 2
    others = {n: t for n, t in types_of(plain).items() if n in types}
    differing = {name for name, kind in others.items() if types[name] != kind}
    assert differing == {
        ADD,
        "stages.0.blocks.0.attn/Softmax",
        "stages.0.blocks.0.attn.attention_bias",
    }


def test_a_weight_may_be_an_island(make_small):
    model = deploy(make_small("tiny"), "fp16")
    weight = "stages.1.blocks.0.attn.k.weight"
    proto = emit_onnx(model, name="a", precision="fp16", islands=frozenset({weight}))
    types = types_of(proto)
    assert types[weight] == TensorProto.FLOAT
    reader = next(node for node in proto.graph.node if weight in node.input)
    assert {types[name] for name in (*reader.input, *reader.output)} == {TensorProto.FLOAT}


def test_a_value_is_cast_once_for_all_its_readers(make_small):
    model = deploy(make_small("tiny"), "fp16")
    names = {n.output[0] for n in emit_onnx(model, name="a").graph.node}
    stream = next(n for n in sorted(names) if n.startswith("stages.0.blocks.1/Add"))
    proto = emit_onnx(model, name="a", precision="fp16", islands=frozenset({stream}))
    casts = [tuple(node.input) for node in proto.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))


@pytest.mark.parametrize("precision", LOW)
def test_all_values_as_islands_are_the_graph_of_fp32(make_small, draw_for, precision):
    model = make_small("tiny")
    x = draw_for(model)
    deployed = deploy(model, precision)
    single = emit_onnx(deployed, name="a", opset=PRECISIONS["fp32"].default_opset)
    names = {n.name for n in single.graph.node} | {t.name for t in single.graph.initializer}
    # Names of outputs are the world's: inside, the head's value is the node's.
    proto = emit_onnx(deployed, name="a", precision=precision, islands=frozenset(names))
    assert "Cast" not in {node.op_type for node in proto.graph.node}
    expected = model.forward(NumpyOps(), x)
    assert relative_error(interpret(proto, x), expected) <= 1e-4


def test_an_output_may_be_an_island(make_small, draw_for):
    model = every_output(make_small("tiny"))
    x = draw_for(model)
    deployed = deploy(model, "fp16")
    names = frozenset(node.name for node in emit_onnx(deployed, name="a").graph.node)
    proto = emit_onnx(deployed, name="a", precision="fp16", islands=names)
    assert relative_error(run(proto, x), model.forward(NumpyOps(), x)) <= 1e-4


# ---------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
def test_fp16_agrees_in_onnx_runtime(small, draw_for, pixels):
    model = every_output(small)
    if pixels:
        statistics = tuple((values * 2)[: model.config.in_channels] for values in STATISTICS)
        model = model.with_plan(pixels=statistics)
    x = draw_for(model, 3)
    found = run(emit_onnx(deploy(model, "fp16"), name="small", precision="fp16"), x)
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    assert relative_error(found, model.forward(NumpyOps(), x)) <= TOLERANCE["fp16"]


# Here every operation rounds. In bfloat16 a small network that this run has drawn may then be a
# little beyond the tolerance of artifacts (0.21 once in ten draws).
ROUNDED = {**TOLERANCE, "bf16": 2 * TOLERANCE["bf16"]}


@pytest.mark.parametrize("precision", LOW)
def test_both_agree_where_every_operation_is_rounded(small, draw_for, precision):
    model = every_output(small)
    x = draw_for(model)
    proto = emit_onnx(deploy(model, precision), name="small", precision=precision)
    assert relative_error(interpret(proto, x), model.forward(NumpyOps(), x)) <= ROUNDED[precision]


def test_fp16_is_nearer_than_bf16_and_neither_is_fp32(make_small, draw_for):
    model = make_small("tiny")
    x = draw_for(model)
    expected = model.forward(NumpyOps(), x)
    errors = {}
    for precision in PRECISIONS:
        proto = emit_onnx(deploy(model, precision), name="a", precision=precision)
        errors[precision] = relative_error(interpret(proto, x), expected)
    assert 10 * errors["fp32"] < errors["fp16"] < errors["bf16"]


@pytest.mark.parametrize("opset", [14, 17, 18, 21])
def test_fp16_runs_in_old_and_new_opsets(make_small, draw_for, opset):
    model = every_output(make_small("silu_stride_8"))
    x = draw_for(model)
    tokens = run_passes(model)[-1].model
    proto = emit_onnx(tokens, name="a", precision="fp16", opset=opset)
    assert relative_error(run(proto, x), model.forward(NumpyOps(), x)) <= TOLERANCE["fp16"]
