"""fp16's range: scanned, and kept by float32 islands in networks scaled out of it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import scaled
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from levit.errors import ExportError, VerificationError
from levit.export.fitting import HEADROOM, LIMIT, Scanner, find_islands
from levit.export.onnx.graph import emit_onnx
from levit.export.onnx.onnxruntime_ops import OnnxruntimeOps
from levit.export.onnx.tensorrt_ops import TensorrtOps
from levit.export.passes import passes_for, run_passes
from levit.export.precision import PRECISIONS
from levit.export.ranges import Taps, sample_inputs, scan_ranges
from levit.export.targets.onnx import prepare_onnx
from levit.models.levit.config import levit_config
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.pictures.preprocess import PreprocessSpec

TOLERANCE = 0.05

# How it is scaled → parts of names that no island has.
CASES = {
    "stream": (lambda m: scaled.scaled_stream(m, 1e5), ("Softmax", "attn/MatMul", "stem.0")),
    "queries": (lambda m: scaled.scaled_queries(m, 1e6), ("stem", "mlp", "head", "Softmax")),
    "hidden": (lambda m: scaled.scaled_hidden(m, 2e5), ("stem", "Softmax", ".q/", ".k/", "head")),
    "stem": (lambda m: scaled.scaled_stem(m, 1e5), ("stages", "head")),
    "scores": (scaled.masked_scores, ("stem", "mlp", "head", "Softmax")),
    "logits": (lambda m: scaled.scaled_logits(m, 1e6), ("stem", "stages")),
    "small stream": (lambda m: scaled.scaled_stream(m, 1e-6), ("Softmax", "attn/MatMul", "stem.0")),
    "small hidden": (lambda m: scaled.scaled_hidden(m, 1e-6), ("stem", "Softmax", ".q/", ".k/")),
    "small logits": (lambda m: scaled.scaled_logits(m, 1e-6), ("stem", "stages")),
    "everything": (
        lambda m: scaled.scaled_stream(
            scaled.scaled_hidden(scaled.scaled_queries(scaled.scaled_stream(m, 1e5), 1e5), 2e5), 1e5
        ),
        ("Softmax",),
    ),
}


def folded(model):
    return run_passes(model, passes_for("fp16"))[-1].model


def fit(model, x):
    """(deployed, islands) as an export does it, from a model as trained."""
    deployed = prepare_onnx(folded(model), "fp16")
    return deployed, find_islands(deployed, "fp16", Scanner(x, None))


def run(proto, x):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: x}), strict=True))


def relative_error(found, expected):
    if not all(np.isfinite(value).all() for value in found.values()):
        return np.inf
    return max(np.abs(found[n] - v).max() / np.abs(v).max() for n, v in expected.items())


def in_half(model, islands, x):
    proto = emit_onnx(model, name="half", precision="fp16", islands=frozenset(islands))
    return run(proto, x)


def error_without(model, x, expected):
    """Of fp16 with nothing done about its range; infinite where a weight does not fit.

    By onnx's reference: ONNX Runtime's CPU kernels keep some values in float32 on the way.
    """
    try:
        proto = emit_onnx(model, name="half", precision="fp16")
    except ExportError as error:
        if "range of float16" not in str(error):
            raise
        return np.inf
    names = [output.name for output in proto.graph.output]
    with np.errstate(all="ignore"):
        values = ReferenceEvaluator(proto).run(None, {"image": x})
    return relative_error(dict(zip(names, values, strict=True)), expected)


@pytest.fixture
def case(request, make_small, draw_for):
    """(model as trained, inputs, parts of names that no island has)."""
    change, parts = CASES[request.param]
    model = change(make_small("tiny"))
    return model, draw_for(model, 3), parts


every_case = pytest.mark.parametrize("case", CASES, indirect=True)


# ---------------------------------------------------------------------------- ranges


def test_ranges_are_those_of_the_reference(make_small, draw_for):
    """Of every value, by the same names: the taps' own numbers, and a few by NumPy."""
    model = prepare_onnx(folded(make_small("tiny")), "fp16")
    x = draw_for(model, 3)
    taps = Taps(model)
    ranges = scan_ranges(taps, x)
    stem = model.params.stem[0].apply(NumpyOps(), x.astype(np.float64))
    np.testing.assert_allclose(
        ranges.high["stem.0/Conv"], stem.max(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        ranges.low["stem.0/Conv"], stem.min(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    logits = model.forward(NumpyOps(), x)["logits"]
    assert ranges.peak("head/Gemm") == pytest.approx(np.abs(logits).max(), rel=1e-4)
    assert ranges.peak("image") == np.abs(x).max()
    made = {node.name for node in emit_onnx(model, name="a").graph.node}
    assert set(ranges.high) == {"image", *made}


def test_taps_may_be_chosen_and_give_each_picture(make_small, draw_for):
    model = prepare_onnx(folded(make_small("tiny")), "fp16")
    x = draw_for(model, 3)
    found = list(Taps(model, {"stem.1/Conv"}).run(x))
    assert [set(values) for values in found] == [{"stem.1/Conv", "image"}] * 3
    assert found[0]["stem.1/Conv"].shape == (1, 8, 24, 24)


def test_more_pictures_widen_ranges(make_small, draw_for):
    model = prepare_onnx(folded(make_small("tiny")), "fp16")
    x = draw_for(model, 3)
    taps = Taps(model)
    few, many = scan_ranges(taps, x[:1]), scan_ranges(taps, sample_inputs(model, x, None))
    assert len(sample_inputs(model, x, None)) > 3
    for name in few.high:
        assert (few.high[name] <= many.high[name]).all()
        assert (few.low[name] >= many.low[name]).all()


def test_pictures_are_normalised_as_the_artifact_does(make_small, draw_for):
    """On 0..255, say, which are far from what the usual statistics give."""
    model = make_small("tiny")
    x = draw_for(model, 1)
    spec = PreprocessSpec(image_size=(96, 96), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    more = sample_inputs(model, x, spec)[1:]
    assert more.dtype == np.float32
    assert more.shape == (5, 3, 96, 96)
    assert 150 < more.max() <= 255.001
    assert more.min() >= 0


def test_ranges_of_uint8_pixels(make_small, draw):
    model = make_small("tiny").with_plan(pixels=((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    pixels, _ = draw(model.config, 2)
    ranges = scan_ranges(Taps(prepare_onnx(folded(model), "fp16")), pixels)
    assert "pixels" not in ranges.high
    assert ranges.peak("pixels/Mul") < 4


def test_values_beyond_float32_are_refused_by_name(make_small, draw_for):
    model = make_small("tiny")
    x = draw_for(model)
    with pytest.raises(VerificationError, match=r"^stem\.\d/\w+: .* range of float32"):
        fit(scaled.scaled_stem(model, 1e38), x)


# ---------------------------------------------------------------------------- the whole


@every_case
def test_it_is_right_in_fp16_by_islands_alone_and_wrong_without(case):
    model, x, parts = case
    expected = model.forward(NumpyOps(), x)
    deployed, islands = fit(model, x)
    assert islands
    assert not [island for island in islands for part in parts if part in island]
    assert relative_error(in_half(deployed, islands, x), expected) <= TOLERANCE
    assert error_without(deployed, x, expected) > TOLERANCE


@every_case
def test_all_that_is_out_of_range_is_an_island(case):
    model, x, _ = case
    deployed, islands = fit(model, x)
    taps = Taps(deployed)
    ranges = scan_ranges(taps, x)
    large = {name for name in ranges.high if ranges.peak(name) > LIMIT}
    assert large <= set(islands)


@every_case
def test_bf16_needs_none_of_it(case):
    model, x, _ = case
    assert find_islands(folded(model), "bf16", Scanner(x, None)) == ()
    proto = emit_onnx(prepare_onnx(folded(model), "fp16"), name="a", precision="bf16")
    assert Counter(node.op_type for node in proto.graph.node)["Cast"] == 2


def test_an_ordinary_network_is_left_alone(small, draw_for):
    model = small.with_plan(outputs=small.family.outputs(small.config))
    assert fit(model, draw_for(model))[1] == ()


@pytest.mark.parametrize("output", ["features", "embedding"])
def test_outputs_that_leave_the_range_are_islands(make_small, draw_for, output):
    model = make_small("tiny").with_plan(outputs=("logits", output))
    model = scaled.scaled_stream(model, 1e5)
    x = draw_for(model, 3)
    deployed, islands = fit(model, x)
    expected = model.forward(NumpyOps(), x)
    assert np.abs(expected[output]).max() > 65504
    assert relative_error(in_half(deployed, islands, x), expected) <= TOLERANCE


def test_silu_has_islands_too(make_small, draw_for):
    model = scaled.scaled_hidden(make_small("silu_stride_8"), 3e4)
    x = draw_for(model, 3)
    deployed, islands = fit(model, x)
    assert any(name.endswith("/Sigmoid") or name.endswith("/Mul") for name in islands)
    expected = model.forward(NumpyOps(), x)
    assert relative_error(in_half(deployed, islands, x), expected) <= TOLERANCE


def test_two_logits_are_islands_of_their_own(make_small, draw_for):
    model = make_small("tiny").with_plan(outputs=("logits_dist", "logits"))
    model = scaled.scaled_logits(model, 1e6)
    x = draw_for(model, 3)
    deployed, islands = fit(model, x)
    assert {name.split("/")[0] for name in islands} == {"head", "head_dist", "heads"}
    expected = model.forward(NumpyOps(), x)
    assert relative_error(in_half(deployed, islands, x), expected) <= TOLERANCE


def test_a_weight_out_of_range_whose_result_is_not_is_an_island(make_small, draw_for):
    """A heavy column for a channel that is nearly nothing, on an input of the model's own."""
    model = folded(make_small("tiny"))
    x = draw_for(model, 3)
    x[:, 0] *= 1e-6
    stem = model.params.stem[0]
    weight = np.array(stem.weight, np.float64)
    weight[:, 0] *= 1e6
    params = replace(model.params, stem=(replace(stem, weight=weight), *model.params.stem[1:]))
    model = prepare_onnx(replace(model, params=params), "fp16")
    scanner = Scanner(x, None)
    taps = Taps(model)
    scanner._scans.get(model, lambda: (taps, scan_ranges(taps, x)))
    assert np.abs(weight).max() > 65504
    assert find_islands(model, "fp16", scanner) == ("stem.0.weight",)


@pytest.mark.parametrize(
    ("part", "island"),
    # Weights just under the smallest with all their digits, and logits far under it.
    [(0.5, "head.weight"), (1e-3, "head/Gemm")],
    ids=str,
)
def test_what_is_too_small_for_its_digits_is_an_island(make_small, draw_for, part, island):
    model = make_small("plain")
    folded_head = folded(model).params.head
    largest = np.abs(folded_head.weight).max() / PRECISIONS["fp16"].smallest
    model = scaled.scaled_logits(model, part / largest)
    x = draw_for(model, 3)
    deployed, islands = fit(model, x)
    assert islands == (island,)
    expected = model.forward(NumpyOps(), x)
    assert relative_error(in_half(deployed, islands, x), expected) <= TOLERANCE


@pytest.mark.parametrize("name", ["scores", "logits"])
def test_islands_are_found_in_the_dataflow_that_is_emitted(name, make_small, draw_for):
    """Over tokens, say, where a product and its bias are two values."""
    change, parts = CASES[name]
    model = change(make_small("tiny"))
    x = draw_for(model, 3)
    tokens = folded(model)
    assert not tokens.plan.channels_first
    islands = find_islands(tokens, "fp16", Scanner(x, None))
    assert islands
    assert not [island for island in islands for part in parts if part in island]
    expected = model.forward(NumpyOps(), x)
    assert relative_error(in_half(tokens, islands, x), expected) <= TOLERANCE


@pytest.mark.parametrize("dialect", [OnnxruntimeOps, TensorrtOps])
@pytest.mark.parametrize("name", ["hidden", "scores", "logits"])
def test_islands_of_the_plain_graph_hold_in_every_dialect(name, dialect, make_small, draw_for):
    """Where a product and its bias are one Gemm over rows, say."""
    model = CASES[name][0](make_small("tiny"))
    x = draw_for(model, 3)
    tokens = folded(model)
    islands = frozenset(find_islands(tokens, "fp16", Scanner(x, None)))
    assert islands
    proto = emit_onnx(tokens, name="half", precision="fp16", islands=islands, dialect=dialect)
    expected = model.forward(NumpyOps(), x)
    assert relative_error(run(proto, x), expected) <= TOLERANCE


def test_uint8_pixels_are_scanned_too(make_small, draw):
    statistics = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    model = scaled.scaled_stream(make_small("tiny"), 1e5).with_plan(pixels=statistics)
    pixels, _ = draw(model.config, 3)
    deployed, islands = fit(model, pixels)
    assert islands
    expected = model.forward(NumpyOps(), pixels)
    proto = emit_onnx(deployed, name="half", precision="fp16", islands=frozenset(islands))
    assert relative_error(run(proto, pixels), expected) <= TOLERANCE


def test_dead_weights_are_no_island(make_small, draw_for):
    """A branch that adds nothing has nothing to lose."""
    model = folded(make_small("tiny"))
    stage = model.params.stages[0]
    down = stage.blocks[0].mlp.down
    down = replace(down, weight=down.weight * 1e-9, bias=down.bias * 1e-9)
    block = replace(stage.blocks[0], mlp=replace(stage.blocks[0].mlp, down=down))
    stage = replace(stage, blocks=(block, *stage.blocks[1:]))
    params = replace(model.params, stages=(stage, *model.params.stages[1:]))
    model = replace(model, params=params)
    x = draw_for(model)
    assert find_islands(prepare_onnx(model, "fp16"), "fp16", Scanner(x, None)) == ()


# ---------------------------------------------------------------------------- properties


CONFIG = dict(
    widths=(16, 24), key_dim=8, heads=(2, 2), depths=(1, 1), num_classes=5, image_size=(32, 48)
)
EXPONENTS = st.floats(-6, 6)


@settings(deadline=None, max_examples=25)
@given(EXPONENTS, EXPONENTS, st.floats(-1, 5), st.floats(-1, 5), st.integers(0, 40))
def test_any_scales_are_borne(stream, queries, hidden, stem, draw):
    model = random_model(FAMILIES["levit"], levit_config(**CONFIG), draw)
    model = scaled.scaled_queries(scaled.scaled_stream(model, 10**stream), 10**queries)
    model = scaled.scaled_stem(scaled.scaled_hidden(model, 10**hidden), 10**stem)
    x = standardized(smooth_pictures(np.random.default_rng(draw), 3, (32, 48)))
    deployed, islands = fit(model, x)
    expected = folded(model).forward(NumpyOps(), x)
    assert relative_error(in_half(deployed, islands, x), expected) <= TOLERANCE


def test_the_headroom_is_sixteen():
    assert HEADROOM == 16
    assert LIMIT * HEADROOM == 65504
