"""A whole model in int8: exact equalisation, graphs that compute what the reference says."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from levit.errors import CalibrationError
from levit.export.grids import Scheme
from levit.export.onnx.graph import emit_onnx
from levit.export.onnx.onnxruntime_ops import OnnxruntimeOps
from levit.export.onnx.openvino_ops import OpenvinoOps
from levit.export.onnx.ops import OnnxOps, Value
from levit.export.onnx.tensorrt_ops import TensorrtOps
from levit.export.passes import EXACT, passes_for, relative_difference, run_passes
from levit.export.passes.shared import scaled_columns
from levit.export.quantization.attention import with_attention_grids
from levit.export.quantization.compiler import Quantizer
from levit.export.quantization.equalize import equalize_norms, equalize_stream, with_stream
from levit.export.quantization.observe import observe, rescaled
from levit.export.quantization.pictures import Pictures
from levit.export.quantization.quantize import mixed, quantize, with_result_grids
from levit.export.quantization.reference import QuantizedOps
from levit.export.quantization.sensitivity import rank_layers, signal_to_noise
from levit.export.ranges import Taps
from levit.models.layers import Affine, layers_of, transform
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig

SCHEME = Scheme()


def folded(model):
    return run_passes(model, passes_for("int8"))[-1].model


def inputs(model, count, seed):
    config = model.config
    rng = np.random.default_rng(seed)
    return standardized(smooth_pictures(rng, count, config.image_size, config.in_channels))


def changed(model, change):
    """The model with ``change(path, layer)`` in place of each convolution and Linear."""
    return replace(model, params=transform(model.params, Affine, change)[0])


def watched(model, x):
    taps = Taps(model)
    names = {v.name for layer in taps.layers.values() for v in (layer.input, layer.output)}
    taps = Taps(model, names=names)
    return observe(taps, (x[i : i + 1] for i in range(len(x))), len(x))


def run(proto, x, *, optimised=True):
    settings = onnxruntime.SessionOptions()
    if not optimised:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    (answer,) = session.run(["logits"], {session.get_inputs()[0].name: x})
    return answer


@pytest.fixture(scope="module")
def deit(seed):
    config = TransformerConfig(
        image_size=(64, 64), patch_size=16, num_classes=10, width=48, depth=3, heads=3, mlp_width=96
    )
    return random_model(FAMILIES["deit"], config, seed)


# ---------------------------------------------------------------------------- names


def test_layers_have_the_names_of_the_graph(make_small):
    model = folded(make_small("tiny"))
    names = list(layers_of(model.params, Affine))
    assert names[0] == "stem.0"
    assert "stages.0.blocks.1.attn.q" in names
    assert "stages.1.downsample.mlp.down" in names
    assert names == list(dict.fromkeys(names))
    for dialect, channels_first in ((OnnxruntimeOps, False), (OnnxOps, True), (TensorrtOps, False)):
        ops = dialect(17)
        image = Value("image", (1, *model.input_shape))
        model.with_plan(channels_first=channels_first).forward(ops, image)
        assert list(ops.layers) == [name for name in ops.layers if name in names]
        assert set(ops.layers) == set(names)


def test_a_transformer_has_them_too(deit):
    names = layers_of(folded(deit).params, Affine)
    assert {"embed", "blocks.0.attn.q", "blocks.2.mlp.down", "head"} <= set(names)


def test_layers_can_be_changed_one_by_one(make_small):
    model = folded(make_small("tiny"))
    name = "stages.0.blocks.0.mlp.up"

    def double(found, layer):
        return replace(layer, weight=layer.weight * 2) if found == name else layer

    before, after = (
        layers_of(model.params, Affine),
        layers_of(changed(model, double).params, Affine),
    )
    others = [n for n in before if not np.array_equal(before[n].weight, after[n].weight)]
    assert others == [name]


# ---------------------------------------------------------------------------- equalisation


def lopsided(model, rng, stages=None):
    """The same network with the channels of its stream far from each other."""
    params = model.params
    for s in range(stages or len(params.stages)):
        width = len(params.stages[s].blocks[0].mlp.down.weight)
        params = with_stream(params, s, np.exp2(rng.uniform(-4, 4, width)))
    return replace(model, params=params)


@pytest.mark.slow
def test_equalising_the_stream_is_exact_and_helps(make_small, rng):
    model = lopsided(folded(make_small("tiny")), rng)
    x = inputs(model, 16, 1)
    reference = model.forward(NumpyOps(), x)
    found = equalize_stream(model, watched(model, x), SCHEME)
    equalized, count = found.model, found.count
    assert count == len(model.params.stages)
    assert relative_difference("equalising", reference, equalized, x) <= EXACT
    noise = []
    for candidate in (model, equalized):
        quantized, description = quantize(candidate, watched(candidate, x), SCHEME)
        answers = quantized.forward(QuantizedOps(description), x)["logits"]
        noise.append(signal_to_noise(reference["logits"], answers))
    assert noise[1] > noise[0] + 3


def test_a_stage_whose_tokens_are_an_output_stays(make_small, rng):
    model = make_small("tiny").with_plan(outputs=("logits", "features"))
    model = lopsided(folded(model), rng, len(model.params.stages) - 1)
    x = inputs(model, 12, 1)
    reference = model.forward(NumpyOps(), x)
    found = equalize_stream(model, watched(model, x), SCHEME)
    equalized, count = found.model, found.count
    assert count == len(model.params.stages) - 1
    assert relative_difference("equalising", reference, equalized, x) <= EXACT


def lopsided_norms(model, rng):
    """The same network, whose norms give channels that are far from each other."""

    def change(block):
        factor = np.exp2(rng.uniform(-4, 4, len(block.mlp.down.weight)))
        up = scaled_columns(block.mlp.up, 1 / factor)
        norm = replace(block.norm2, weight=factor)
        return replace(block, norm2=norm, mlp=replace(block.mlp, up=up))

    blocks = tuple(change(block) for block in model.params.blocks)
    return replace(model, params=replace(model.params, blocks=blocks))


def test_equalising_norms_is_exact(deit, rng):
    model = lopsided_norms(folded(deit), rng)
    x = inputs(model, 12, 2)
    reference = model.forward(NumpyOps(), x)
    observed = watched(model, x)
    assert equalize_stream(model, observed, SCHEME).model is model
    found = equalize_norms(model, observed, SCHEME)
    equalized, count = found.model, found.count
    assert count >= len(model.params.blocks)
    assert relative_difference("equalising", reference, equalized, x) <= EXACT


def test_equalising_is_kept_where_it_helps(make_small, rng):
    model = folded(make_small("tiny"))
    x = inputs(model, 24, 9)
    applied = quantizer(x).equalize(lopsided(model, rng), SCHEME)
    assert (applied.name, applied.count) == ("equalize_stream", len(model.params.stages))


def assert_same_observations(found, expected, tolerance=1e-5):
    assert list(found) == list(expected)
    for name, one in expected.items():
        assert (found[name].source, found[name].made) == (one.source, one.made)
        for key in ("low", "high", "rows", "result_low", "result_high"):
            a, b = getattr(found[name], key), getattr(one, key)
            assert (a is None) == (b is None)
            if b is not None:
                assert a.shape == b.shape, (name, key)
                np.testing.assert_allclose(a, b, atol=tolerance * max(1e-9, np.abs(b).max()))


@pytest.mark.parametrize("name", ["tiny", "deit"])
def test_observations_of_an_equalised_model_need_no_run(make_small, deit, rng, name):
    model = folded(deit if name == "deit" else make_small(name))
    model = lopsided_norms(model, rng) if name == "deit" else lopsided(model, rng)
    equalize = equalize_norms if name == "deit" else equalize_stream
    x = inputs(model, 12, 2)
    before = watched(model, x)
    found = equalize(model, before, SCHEME)
    assert found.count
    after = watched(found.model, x)
    changed_rows = [n for n in after if not np.allclose(after[n].rows, before[n].rows, rtol=1e-3)]
    assert changed_rows
    derived = rescaled(before, found.inputs, found.results)
    assert_same_observations(derived, after)
    halves = ({n: one.half for n, one in each.items()} for each in (derived, after))
    assert_same_observations(*halves)


def test_observations_of_a_half_are_those_of_every_other_picture(make_small):
    model = folded(make_small("tiny"))
    x = inputs(model, 19, 2)  # more than are run together, and an odd number of them
    observed = watched(model, x)
    alone = watched(model, x[::2])
    for name, one in alone.items():
        half = observed[name].half
        assert half.half is None
        for key in ("low", "high", "result_low", "result_high"):
            a, b = getattr(half, key), getattr(one, key)
            assert (a is None) == (b is None)
            if b is not None:
                np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
        all_rows = observed[name].rows.reshape(19, -1, half.rows.shape[-1])
        rows = half.rows.reshape(10, -1, half.rows.shape[-1])
        step = -(-all_rows.shape[1] // rows.shape[1])
        np.testing.assert_array_equal(rows, all_rows[::2, ::step])
        assert half.rows.min() >= half.low.min() - 1e-5
        assert half.rows.max() <= half.high.max() + 1e-5


def test_each_equalisation_is_for_its_family(make_small):
    model = folded(make_small("one_stage"))
    assert equalize_norms(model, {}, SCHEME).model is model
    unfolded = make_small("tiny")
    assert equalize_stream(unfolded, {}, SCHEME).model is unfolded


# ---------------------------------------------------------------------------- graphs

FORMS = {
    "onnxruntime": (OnnxruntimeOps, SCHEME, False, True),
    "openvino": (OpenvinoOps, SCHEME, False, False),
    "channels first": (OnnxOps, SCHEME, True, False),
    "tensorrt": (TensorrtOps, Scheme(signed=True), False, False),
    "among float16": (TensorrtOps, Scheme(signed=True, half=True), False, False),
    "seven bits": (OnnxruntimeOps, Scheme(weight_bits=7), False, True),
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("conv_wide", "silu_stride_8", "deit")),
    ],
)
def test_a_graph_computes_what_the_reference_says(make_small, deit, form, name):
    dialect, scheme, channels_first, with_results = FORMS[form]
    model = folded(deit if name == "deit" else make_small(name))
    model = model.with_plan(channels_first=channels_first)
    x = inputs(model, 10, 3)
    observed = watched(model, x)
    quantized, description = quantize(model, observed, scheme)
    if with_results:
        results = {n: one.output for n, one in observed.items() if one.output is not None}
        description = with_result_grids(description, results)
        assert results
    proto = emit_onnx(
        quantized,
        name="q",
        precision="fp16" if scheme.half else "fp32",
        quantization=description,
        dialect=dialect,
    )
    reference = quantized.forward(QuantizedOps(description), x)["logits"]
    plain = run(proto, x, optimised=False)
    # One value that lies between two integers may go to either; float16 is off by itself.
    largest, least_db = (0.3, 12) if scheme.half else (0.1, 25)
    assert np.abs(plain - reference).max() < largest * np.abs(reference).max()
    assert signal_to_noise(reference, plain) > least_db
    exact = model.forward(NumpyOps(), x)["logits"]
    # Such small networks tell pictures apart by little; one that is wrong is at 0.
    assert signal_to_noise(exact, reference) > 2


def test_every_layer_is_of_integers_and_inputs_are_rounded_once(make_small):
    model = folded(make_small("tiny")).with_plan(channels_first=False)
    quantized, description = quantize(model, watched(model, inputs(model, 8, 4)), SCHEME)
    proto = emit_onnx(quantized, name="q", quantization=description)
    stored = {t.name: t.data_type for t in proto.graph.initializer}
    kernels = [n for n, kind in stored.items() if n.endswith("weight.integers")]
    assert len(kernels) == len(description.layers) == len(layers_of(model.params, Affine))
    assert {stored[n] for n in kernels} == {onnx.TensorProto.INT8}
    rounded = [n.input[0] for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    assert len(rounded) == len(set(rounded))  # q, k and v read one
    assert len(rounded) < len(kernels)


def test_openvinos_linears_have_their_zero_point_in_the_bias(make_small):
    model = folded(make_small("tiny")).with_plan(channels_first=False)
    x = inputs(model, 8, 4)
    quantized, description = quantize(model, watched(model, x), SCHEME)
    proto = emit_onnx(quantized, name="q", quantization=description, dialect=OpenvinoOps)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    back = {n.output[0]: n for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    read = {n.op_type: set() for n in proto.graph.node}
    for node in proto.graph.node:
        read[node.op_type] |= {values[back[i].input[2]].item() for i in node.input if i in back}
    assert read["MatMul"] == {0}
    assert read["Conv"] != {0}  # whose border is zeros
    # The keys have no bias of their own, and have one now.
    assert [n for n in values if n.endswith("attn.k.bias")]


def test_what_the_description_leaves_out_is_float(make_small):
    model = folded(make_small("tiny"))
    x = inputs(model, 8, 5)
    quantized, description = quantize(model, watched(model, x), SCHEME, keep=["stem.0", "head"])
    assert {"stem.0", "head"}.isdisjoint(description.layers)
    before, after = layers_of(model.params, Affine), layers_of(quantized.params, Affine)
    for name in ("stem.0", "head"):
        np.testing.assert_array_equal(before[name].weight, after[name].weight)
    names = list(description.layers)
    whole = mixed(model, quantized, names)
    reference = model.forward(NumpyOps(), x)
    assert relative_difference("mixing", reference, whole, x) == 0
    nothing = description.without(names)
    proto = emit_onnx(whole, name="q", quantization=nothing)
    assert not [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]


def test_among_float16_all_that_is_no_integer_is_float16(make_small):
    model = folded(make_small("tiny")).with_plan(channels_first=False)
    half = Scheme(signed=True, half=True)
    x = inputs(model, 8, 4)
    quantized, description = quantize(model, watched(model, x), half)
    proto = emit_onnx(quantized, name="q", precision="fp16", quantization=description)
    assert proto.opset_import[0].version == 19
    kinds = {t.name: t.data_type for t in proto.graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds.values()
    scales = [name for name in kinds if name.endswith(".scale")]
    assert {kinds[name] for name in scales} == {onnx.TensorProto.FLOAT16}


@pytest.mark.slow
def test_what_no_float16_holds_is_no_integer_either(make_small):
    """An island is float32 among float16: whoever reads or makes it is left as it is."""
    model = folded(make_small("tiny"))
    x = inputs(model, 10, 4)
    observed = watched(model, x)
    reader = "stages.0.blocks.0.mlp.up"
    for island, out in (
        (observed[reader].source[0], {reader}),
        (f"{reader}.weight", {reader}),
        (f"{reader}/MatMul", {reader}),
        ("stages.0.blocks.0.mlp.upper/Conv", set()),
    ):
        first, *_ = quantizer(x).attempts(model, SCHEME, (island,))
        missing = set(observed) - set(first.quantization.layers)
        assert {name for name in missing if name.startswith("stages")} >= out
        assert (reader in missing) == bool(out)


def test_the_layer_that_hurts_most_comes_first(make_small):
    model = folded(make_small("tiny"))
    x = inputs(model, 8, 6)
    quantized, description = quantize(model, watched(model, x), SCHEME)
    worst = "stages.1.blocks.0.mlp.down"

    def spoil(name, layer):
        return replace(layer, weight=layer.weight * 0.5) if name == worst else layer

    ranked = rank_layers(model, changed(quantized, spoil), description, x[:4])
    assert ranked[0][0] == worst
    assert [noise for _, noise in ranked] == sorted((n for _, n in ranked), reverse=True)
    assert len(ranked) == len(description.layers)


@pytest.mark.parametrize("name", ["tiny", "deit"])
def test_noise_of_a_layer_is_that_of_the_whole_network_evaluated(make_small, deit, name):
    model = folded(deit if name == "deit" else make_small(name))
    x = inputs(model, 8, 6)
    observed = watched(model, x)
    quantized, description = quantize(model, observed, SCHEME)
    description = with_attention_grids(description, model, observed)
    assert description.attentions
    noise = dict(rank_layers(model, quantized, description, x))
    exact = model.forward(NumpyOps(np.float32), x)["logits"]
    assert set(noise) == set(description.names)
    for layer in description.names:
        one = mixed(quantized, model, [layer])
        answers = one.forward(QuantizedOps(description.only([layer]), np.float32), x)["logits"]
        expected = 10 ** (-signal_to_noise(exact, answers) / 10)
        assert noise[layer] == pytest.approx(expected, rel=1e-3)


# ---------------------------------------------------------------------------- calibration


def shown(x):
    return Pictures(origin="photos", items=x)


def quantizer(x):
    return Quantizer(shown(x))


def test_too_few_pictures_are_refused(make_small):
    model = folded(make_small("tiny"))
    with pytest.raises(CalibrationError, match="1 pictures to calibrate with, needed are 8"):
        quantizer(inputs(model, 1, 7))


def test_pictures_that_are_all_the_same_are_refused(make_small):
    model = folded(make_small("tiny"))
    same = np.repeat(inputs(model, 1, 7), 12, axis=0)
    with pytest.raises(CalibrationError, match="all the same to the network"):
        quantizer(same).equalize(model, SCHEME)


def test_a_layer_that_reads_only_zeros_is_named(make_small):
    model = folded(make_small("tiny"))
    name = "stages.0.blocks.0.mlp.up"

    def silence(found, layer):
        if found != name:
            return layer
        return replace(layer, weight=layer.weight * 0, bias=np.full(len(layer.weight), -9.0))

    silent = changed(model, silence)
    with pytest.raises(CalibrationError, match=r"mlp\.down reads nothing but zeros"):
        quantizer(inputs(model, 10, 7)).equalize(silent, SCHEME)


def test_attempts_keep_ever_more_in_floating_point(make_small):
    model = folded(make_small("tiny"))
    attempts = list(quantizer(inputs(model, 10, 8)).attempts(model, SCHEME))
    counts = [len(attempt.quantization.layers) for attempt in attempts]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3
    assert attempts[0].kept == ()
    assert attempts[1].kept == attempts[2].kept[: len(attempts[1].kept)]


# ---------------------------------------------------------------------------- ONNX Runtime's form


def test_tokens_stay_rows_between_linears(make_small, deit):
    """Between two Gemms nothing is reshaped; what several layers read goes onto its grid once."""
    for model in (make_small("tiny"), deit):
        model = folded(model).with_plan(channels_first=False)
        quantized, description = quantize(model, watched(model, inputs(model, 8, 4)), SCHEME)
        proto = emit_onnx(quantized, name="q", quantization=description, dialect=OnnxruntimeOps)
        nodes = proto.graph.node
        makers = {name: node for node in nodes for name in node.output}
        read = [name for node in nodes for name in node.input]
        outputs = {value.name for value in proto.graph.output}
        assert {name for node in nodes for name in node.output} <= {*read, *outputs}
        rounded = [n.input[0] for n in nodes if n.op_type == "QuantizeLinear"]
        assert len(rounded) == len(set(rounded))
        for name in (n for n in makers if n.endswith("mlp.up/Gemm")):
            following = [n.op_type for n in nodes if name in n.input]
            assert "Reshape" not in following
        # An integer product is not read by others beside a QuantizeLinear: see OnnxruntimeOps.
        assert "Gemm" not in {makers[name].op_type for name in rounded if name in makers}
