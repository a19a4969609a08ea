import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from levit import __version__
from levit.errors import ExportError
from levit.export.interface import input_spec, output_specs
from levit.export.metadata import metadata_of
from levit.export.onnx.graph import emit_onnx
from levit.export.onnx.onnxruntime_ops import OnnxruntimeOps
from levit.export.options import ExportOptions
from levit.export.passes import run_passes
from levit.export.precision import PRECISIONS
from levit.export.targets import Order, Written
from levit.export.targets.onnx import prepare_onnx, write_onnx
from levit.models.levit.config import levit_config
from levit.models.ops import NumpyOps
from levit.models.random_weights import random_model

FP32 = PRECISIONS["fp32"]
STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Rounding, wherever it falls; a wrong weight or table shows above 1e-2.
FLOAT32 = 5e-5

ALLOWED = {
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Softmax", "HardSwish", "Sigmoid", "Reshape",
    "Transpose", "GlobalAveragePool",
}  # fmt: skip


def deploy(model):
    return prepare_onnx(run_passes(model)[-1].model, "fp32")


def session_of(proto):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(proto, x):
    session = session_of(proto)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: x}), strict=True))


def float32_error(model, x, expected):
    """What float32 costs this network on this input, whoever computes it."""
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
    single = model.forward(NumpyOps(np.float32), x)
    return max(relative_error(single[name], value) for name, value in expected.items())


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def assert_agrees(found, model, x):
    """`found` by ONNX Runtime is the float64 reference, as closely as float32 can be."""
    expected = model.forward(NumpyOps(), x)
    tolerance = max(FLOAT32, 3 * float32_error(model, x, expected))
    assert tolerance <= 3e-4, "a chaotic network"
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].dtype == np.float32
        error = relative_error(found[name], value)
        assert error <= tolerance, f"{name}: {error:.1e}, allowed {tolerance:.1e}"


def op_types(proto):
    return Counter(node.op_type for node in proto.graph.node)


def every_output(model):
    return model.with_plan(outputs=model.family.outputs(model.config))


# ---------------------------------------------------------------------------- the graph


def test_the_deployed_graph_uses_few_operators(small):
    proto = emit_onnx(deploy(small), name="small")
    assert set(op_types(proto)) <= ALLOWED
    assert all(node.domain == "" for node in proto.graph.node)


def test_the_deployed_graph_of_the_default_outputs_is_minimal(make_small):
    # 4 stem convolutions, 6 blocks of q, k, v, proj, up and down, of which the last down is pooled.
    config = make_small("tiny").config
    blocks = sum(stage.depth + (stage.downsample is not None) for stage in config.stages)
    counts = op_types(emit_onnx(deploy(make_small("tiny")), name="tiny"))
    assert counts["Conv"] == 4 + 6 * blocks - 1
    assert counts["Gemm"] == 2  # the pooled down, and one head for two
    assert counts["MatMul"] == 2 * blocks
    assert counts["Softmax"] == blocks
    assert counts["Transpose"] == 2 * blocks
    assert counts["Mul"] == 0
    assert counts["GlobalAveragePool"] == 2
    # One per bias table, attention residual (not in a downsampling block) and MLP residual.
    assert counts["Add"] == 3 * blocks - 2


def test_the_token_dataflow_needs_no_shape_arithmetic_either(small):
    proto = emit_onnx(run_passes(every_output(small))[-1].model, name="tokens")
    assert set(op_types(proto)) <= ALLOWED | {"Slice", "ReduceMean"}


@pytest.mark.parametrize("batch", [None, 3])
def test_every_initializer_is_used_and_every_name_is_single(small, batch):
    proto = emit_onnx(deploy(every_output(small)), name="small", batch=batch)
    used = {name for node in proto.graph.node for name in node.input}
    names = [tensor.name for tensor in proto.graph.initializer]
    assert set(names) <= used
    made = [name for node in proto.graph.node for name in node.output]
    assert len(made) == len(set(made))
    assert not set(made) & set(names)
    read = used | {output.name for output in proto.graph.output}
    assert set(made) <= read, "a node whose output nobody reads"


def test_names_do_not_depend_on_the_passes(make_small):
    model = make_small("tiny")
    as_trained = {t.name for t in emit_onnx(model, name="a").graph.initializer}
    deployed = {t.name for t in emit_onnx(deploy(model), name="a").graph.initializer}
    for name in ("stem.0.weight", "stages.1.downsample.attn.q.weight", "head.weight"):
        assert name in as_trained
        assert name in deployed


def test_weights_are_float32_and_indices_int64(small):
    proto = emit_onnx(deploy(every_output(small)), name="small")
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_the_checker_passes_with_shape_inference(small):
    proto = emit_onnx(deploy(every_output(small)), name="small")
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    assert len(inferred.graph.value_info) >= len(proto.graph.node) - len(proto.graph.output)
    for value in inferred.graph.value_info:
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value.name


def test_the_same_model_gives_the_same_bytes(levit, small_configs, make_small, seed):
    first = emit_onnx(deploy(make_small("tiny")), name="tiny")
    again = emit_onnx(deploy(random_model(levit, small_configs["tiny"], seed)), name="tiny")
    other = emit_onnx(deploy(random_model(levit, small_configs["tiny"], seed + 1)), name="tiny")
    text = first.SerializeToString(deterministic=True)
    assert text == again.SerializeToString(deterministic=True)
    assert text != other.SerializeToString(deterministic=True)


def test_metadata_and_producer_stand_in_the_file(make_small):
    metadata = metadata_of({"crop_pct": 0.9, "mean": [0.5]}, ("Katze", "Hündin"), "levit_tiny")
    proto = emit_onnx(
        deploy(make_small("tiny")), name="tiny", metadata=metadata, producer_version="1.2.3"
    )
    found = session_of(proto).get_modelmeta()
    assert found.custom_metadata_map["levit.variant"] == "levit_tiny"
    assert json.loads(found.custom_metadata_map["levit.preprocess"]) == {
        "crop_pct": 0.9,
        "mean": [0.5],
    }
    assert json.loads(found.custom_metadata_map["levit.labels"]) == ["Katze", "Hündin"]
    assert (proto.producer_name, proto.producer_version) == ("levit", "1.2.3")
    assert found.graph_name == "tiny"


def test_metadata_leaves_out_what_is_not_known():
    assert metadata_of(None, (), "levit_custom") == {"levit.variant": "levit_custom"}


def test_write_onnx_writes_what_emit_onnx_makes(make_small, tmp_path):
    model = deploy(make_small("tiny"))
    options = ExportOptions(model="levit_digits", opset=18)
    order = Order(model=model, variant="tiny", folder=tmp_path, floats="fp32", options=options)
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    assert write_onnx(order) == Written(
        requirements={"backend_version": ">=1.20"}, toolchain=versions
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    expected = emit_onnx(
        model,
        name="tiny",
        opset=18,
        metadata={
            "levit.variant": "tiny",
            "levit.batch": "1:8:64",
            "levit.precision": "fp32",
        },
        producer_version=__version__,
        dialect=OnnxruntimeOps,
    ).SerializeToString(deterministic=True)
    assert (tmp_path / "model.onnx").read_bytes() == expected


# ---------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
def test_every_output_agrees_with_the_reference(small, draw_for, pixels):
    model = every_output(small)
    if pixels:
        statistics = tuple((values * 2)[: model.config.in_channels] for values in STATISTICS)
        model = model.with_plan(pixels=statistics)
    x = draw_for(model, 3)
    assert_agrees(run(emit_onnx(deploy(model), name="small"), x), model, x)


def test_default_outputs_agree_with_the_reference(small, draw_for):
    x = draw_for(small, 3)
    assert_agrees(run(emit_onnx(deploy(small), name="small"), x), small, x)


@pytest.mark.parametrize(
    "outputs",
    [
        ("logits",),
        ("embedding",),
        ("features",),
        ("logits_head",),
        ("logits_dist",),
        ("logits_dist", "logits"),
        ("embedding", "logits"),
        ("features", "embedding"),
        ("logits_dist", "features", "logits_head", "embedding", "logits"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("name", ["tiny", "conv"])
def test_any_choice_and_order_of_outputs(name, make_small, draw_for, outputs):
    model = make_small(name).with_plan(outputs=outputs)
    x = draw_for(model)
    proto = emit_onnx(deploy(model), name="chosen")
    assert_agrees(run(proto, x), model, x)
    assert [spec.name for spec in output_specs(model, None)] == list(outputs)


def test_features_have_the_layout_of_the_twin(make_small, draw):
    x = draw(make_small("tiny").config)[1]
    linear = make_small("tiny").with_plan(outputs=("features",))
    twin = replace(linear, config=replace(linear.config, conv=True))
    tokens = run(emit_onnx(deploy(linear), name="linear"), x)["features"]
    grid = run(emit_onnx(deploy(twin), name="conv"), x)["features"]
    assert tokens.shape == (2, 4, 64)
    assert grid.shape == (2, 64, 2, 2)
    np.testing.assert_allclose(np.moveaxis(grid.reshape(2, 64, 4), 1, 2), tokens, atol=1e-5)


@pytest.mark.parametrize("channels_first", [False, True], ids=["tokens", "channels_first"])
def test_the_model_as_trained_agrees_too(small, draw_for, channels_first):
    model = every_output(small).with_plan(channels_first=channels_first)
    x = draw_for(model)
    proto = emit_onnx(model, name="as_trained")
    assert op_types(proto)["Gather"] > 0
    assert_agrees(run(proto, x), model, x)


def test_the_token_dataflow_agrees_too(small, draw_for):
    model = every_output(small)
    x = draw_for(model)
    proto = emit_onnx(run_passes(model)[-1].model, name="tokens")
    assert_agrees(run(proto, x), model, x)


def test_a_changed_weight_shows(make_small, draw_for):
    # The comparison above is worth something: one table exchanged for another is seen.
    model = make_small("tiny")
    x = draw_for(model)
    proto = emit_onnx(deploy(model), name="tiny")
    attention = model.params.stages[0].blocks[0].attn
    bias = replace(attention.bias, values=attention.bias.values[::-1])
    block = replace(model.params.stages[0].blocks[0], attn=replace(attention, bias=bias))
    stage = replace(model.params.stages[0], blocks=(block, *model.params.stages[0].blocks[1:]))
    params = replace(model.params, stages=(stage, *model.params.stages[1:]))
    with pytest.raises(AssertionError, match="logits: "):
        assert_agrees(run(proto, x), replace(model, params=params), x)


# ---------------------------------------------------------------------------- uint8 pixels


def test_pixels_agree_with_the_float32_path_up_to_the_border(make_small, draw):
    model = make_small("tiny")
    pixels, _ = draw(model.config, 3)
    pixels[:, 0] = 255 - pixels[:, 0]  # the border differs from what lies beside it
    pixels[:, :, -1] = 255 - pixels[:, :, -1]
    mean, std = (np.reshape(v, (-1, 1, 1)) for v in STATISTICS)
    tensors = ((np.moveaxis(pixels, -1, 1) / 255.0 - mean) / std).astype(np.float32)
    single = run(emit_onnx(deploy(model), name="float32"), tensors)["logits"]
    found = run(emit_onnx(deploy(model.with_plan(pixels=STATISTICS)), name="uint8"), pixels)
    expected = model.forward(NumpyOps(), tensors.astype(np.float64))["logits"]
    tolerance = max(FLOAT32, 3 * relative_error(single, expected))
    assert relative_error(found["logits"], expected) <= tolerance


def test_border_pixels_weigh_the_same_in_both_paths(make_small, draw):
    model = make_small("tiny")
    pixels, _ = draw(model.config, 1)
    changed = pixels.copy()
    changed[:, 0] = 255 - changed[:, 0]
    both = np.concatenate([pixels, changed])
    mean, std = (np.reshape(v, (-1, 1, 1)) for v in STATISTICS)
    tensors = (np.moveaxis(both, -1, 1) / 255.0 - mean) / std
    exact = model.forward(NumpyOps(), tensors)["logits"]
    proto = emit_onnx(deploy(model.with_plan(pixels=STATISTICS)), name="uint8")
    found = run(proto, both)["logits"]
    influence = exact[1] - exact[0]
    assert np.abs(influence).max() > 1e-3 * np.abs(exact).max()
    allowed = max(FLOAT32, 3 * float32_error(model, tensors, {"logits": exact}))
    error = np.abs((found[1] - found[0]) - influence).max() / np.abs(exact).max()
    assert error <= 2 * allowed


def test_pixels_are_moved_while_they_are_bytes(make_small):
    proto = emit_onnx(deploy(make_small("tiny").with_plan(pixels=STATISTICS)), name="uint8")
    assert [node.op_type for node in proto.graph.node[:4]] == ["Transpose", "Cast", "Add", "Conv"]
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert set(op_types(proto)) <= ALLOWED | {"Cast"}


# ---------------------------------------------------------------------------- batch


@pytest.mark.parametrize("pixels", [None, STATISTICS], ids=["float32", "uint8"])
def test_a_dynamic_batch_takes_any_number_and_keeps_samples_apart(make_small, draw_for, pixels):
    model = every_output(make_small("tiny")).with_plan(pixels=pixels)
    x = draw_for(model, 5)
    session = session_of(emit_onnx(deploy(model), name="dynamic"))
    names = [output.name for output in session.get_outputs()]
    assert session.get_inputs()[0].shape[0] == "batch"
    assert all(output.shape[0] == "batch" for output in session.get_outputs())
    for count in (1, 2, 5):
        found = session.run(None, {session.get_inputs()[0].name: x[:count]})
        assert_agrees(dict(zip(names, found, strict=True)), model, x[:count])


@pytest.mark.parametrize("batch", [1, 4])
def test_a_static_batch_takes_its_number_and_no_other(small, draw_for, batch):
    model = every_output(small)
    x = draw_for(model, batch)
    proto = emit_onnx(deploy(model), name="static", batch=batch)
    session = session_of(proto)
    assert session.get_inputs()[0].shape == [batch, model.config.in_channels, *x.shape[2:]]
    assert all(output.shape[0] == batch for output in session.get_outputs())
    assert_agrees(run(proto, x), model, x)
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(None, {"image": np.concatenate([x, x])})


@pytest.mark.parametrize("pixels", [False, True])
def test_specs_are_what_the_graph_declares(small, pixels):
    model = every_output(small)
    if pixels:
        channels = model.config.in_channels
        model = model.with_plan(pixels=((0.5,) * channels, (0.25,) * channels))
    session = session_of(emit_onnx(deploy(model), name="specs"))
    kinds = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
    declared = [*session.get_inputs(), *session.get_outputs()]
    specs = [input_spec(model, None), *output_specs(model, None)]
    assert [(v.name, kinds[v.type], tuple(v.shape)) for v in declared] == [
        (spec.name, spec.dtype, spec.shape) for spec in specs
    ]
    assert specs[0].layout == ("NHWC" if pixels else "NCHW")
    assert all(len(spec.layout) == len(spec.shape) for spec in specs)


# ---------------------------------------------------------------------------- opsets


@pytest.mark.parametrize("opset", range(FP32.min_opset, FP32.max_opset + 1))
@pytest.mark.parametrize("form", ["as_trained", "tokens", "deployed"])
def test_every_opset_runs_and_agrees(opset, form, make_small, draw_for):
    model = every_output(make_small("tiny"))
    prepared = {
        "as_trained": lambda: model,
        "tokens": lambda: run_passes(model)[-1].model,
        "deployed": lambda: deploy(model),
    }[form]()
    x = draw_for(model)
    proto = emit_onnx(prepared, name="tiny", opset=opset)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    assert_agrees(run(proto, x), model, x)


@pytest.mark.parametrize("opset", [FP32.min_opset, FP32.default_opset, FP32.max_opset])
def test_pixels_and_silu_run_in_old_and_new_opsets(opset, make_small, draw_for):
    model = every_output(make_small("silu_stride_8")).with_plan(pixels=STATISTICS)
    x = draw_for(model)
    proto = emit_onnx(deploy(model), name="silu", opset=opset)
    assert_agrees(run(proto, x), model, x)


def test_the_range_of_opsets_is_14_to_21():
    assert (FP32.min_opset, FP32.default_opset, FP32.max_opset) == (14, 17, 21)


@pytest.mark.parametrize("opset", [0, 13, 22])
def test_other_opsets_are_refused(opset, make_small):
    with pytest.raises(ExportError, match=f"from 14 to 21 for fp32, not {opset}"):
        emit_onnx(deploy(make_small("tiny")), name="tiny", opset=opset)


def test_the_ir_version_is_the_oldest_that_the_opset_allows(make_small):
    model = deploy(make_small("tiny"))
    assert emit_onnx(model, name="old", opset=14).ir_version == 7
    assert emit_onnx(model, name="default").ir_version == 8


# ---------------------------------------------------------------------------- unusual grids


@pytest.mark.parametrize(
    "arguments",
    [
        # Grids of one token: nothing is left to pool, a Reshape may become a no-op.
        dict(widths=(32, 48), key_dim=16, heads=(2, 3), depths=(1, 1), image_size=(16, 16)),
        dict(widths=(32, 48), key_dim=16, heads=(1, 1), depths=(1, 1), image_size=(16, 48)),
        # A stage that only downsamples.
        dict(widths=(32, 48, 64), key_dim=16, heads=(2, 2, 2), depths=(1, 0, 1),
             image_size=(80, 80)),
        dict(widths=(32, 48), key_dim=16, heads=(2, 3), depths=(1, 0), image_size=(80, 48)),
        # Values as wide as keys, an MLP wider than usual.
        dict(widths=(32,), key_dim=16, heads=(2,), depths=(1,), image_size=(32, 32),
             attention_ratio=1.0, mlp_ratio=3.0),
        dict(widths=(32,), key_dim=16, heads=(2,), depths=(1,), image_size=(32, 32),
             num_classes=1, distilled=False),
    ],
    ids=["one_token", "one_head", "empty_stage", "ends_in_downsampling", "ratios", "one_class"],
)  # fmt: skip
@pytest.mark.parametrize("conv", [False, True])
def test_unusual_networks(arguments, conv, levit, draw_for, seed):
    arguments = {"num_classes": 5, **arguments}
    model = every_output(random_model(levit, levit_config(**arguments, conv=conv), seed))
    x = draw_for(model, 3)
    for prepared in (model, run_passes(model)[-1].model, deploy(model)):
        assert_agrees(run(emit_onnx(prepared, name="unusual"), x), model, x)
