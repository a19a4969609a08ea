"""Exported graphs pass the scans of the runtime, which know nothing else."""

from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from transformer_kinds import KINDS, SIZES

from levit.export import ExportOptions
from levit.export.grids import Scheme
from levit.export.onnx.graph import emit_onnx
from levit.export.onnx.onnxruntime_ops import OnnxruntimeOps
from levit.export.onnx.openvino_ops import OpenvinoOps
from levit.export.onnx.ops import OnnxOps
from levit.export.onnx.tensorrt_ops import TensorrtOps
from levit.export.passes import passes_for, run_passes
from levit.export.precision import PRECISIONS
from levit.export.quantization.observe import observe
from levit.export.quantization.quantize import quantize, with_result_grids
from levit.export.ranges import Taps
from levit.export.targets import Order
from levit.export.targets.openvino import write_openvino
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig
from levit.runtime.graphs.ir_graph import check_ir
from levit.runtime.graphs.ir_operators import DTYPES as IR_DTYPES
from levit.runtime.graphs.ir_operators import OPERATIONS
from levit.runtime.graphs.onnx_graph import check_graph
from levit.runtime.graphs.onnx_operators import DTYPES, OPERATORS, OPSETS
from levit.runtime.graphs.shapes import BATCH

DIALECTS = (OnnxOps, OnnxruntimeOps, OpenvinoOps, TensorrtOps)
# Between them they have all that a network may have; every one is tried by `-m slow`.
FEW_SMALL = ("tiny", "conv_wide")
FEW_KINDS = ("convit_bias", "reg_gap")
OPTIONS = {name: ExportOptions(model="levit_digits", target="openvino", batch=batch)
           for name, batch in (("dynamic", None), ("fixed", 2))}  # fmt: skip


def is_slow(name):
    return name not in FEW_SMALL + FEW_KINDS


def names(pool):
    return [pytest.param(n, marks=pytest.mark.slow) if is_slow(n) else n for n in pool]


@pytest.fixture(scope="session")
def make_kind(seed):
    models = {}

    def make(name):
        if name not in models:
            family, changes = KINDS[name]
            config = TransformerConfig(**{**SIZES, **changes})
            models[name] = random_model(FAMILIES[family], config, seed)
        return models[name]

    return make


@pytest.fixture
def model(request, make_small, make_kind):
    return make_kind(request.param) if request.param in KINDS else make_small(request.param)


def plans(model):
    """The model with its own output and with all, of tensors and of pixels."""
    channels = model.config.in_channels
    for outputs in (None, model.family.outputs(model.config)):
        one = model if outputs is None else model.with_plan(outputs=outputs)
        yield one
        yield one.with_plan(pixels=((0.485,) * channels, (0.229,) * channels))


def forms(model, precision):
    folded = run_passes(model, passes_for(precision))[-1].model
    yield folded.with_plan(channels_first=False)
    if model.family.has_grid:
        yield folded.with_plan(channels_first=True)


def quantized(model, scheme, *, results=False):
    folded = run_passes(model, passes_for("int8"))[-1].model.with_plan(channels_first=False)
    config = folded.config
    rng = np.random.default_rng(3)
    x = standardized(smooth_pictures(rng, 4, config.image_size, config.in_channels))
    taps = Taps(folded)
    watched = {v.name for layer in taps.layers.values() for v in (layer.input, layer.output)}
    observed = observe(Taps(folded, names=watched), (x[i : i + 1] for i in range(len(x))), len(x))
    made, description = quantize(folded, observed, scheme)
    if results:
        outputs = {n: one.output for n, one in observed.items() if one.output is not None}
        description = with_result_grids(description, outputs)
    return made, description


def scan(proto):
    """Let the scan see a graph, and compare each shape that it finds with onnx's own."""
    values = check_graph(proto.SerializeToString(deterministic=True))
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    graph = inferred.graph
    compared = 0
    for info in (*graph.value_info, *graph.input, *graph.output):
        found, expected = values[info.name.encode()], info.type.tensor_type
        assert found.dtype == DTYPES[expected.elem_type], info.name
        assert len(found.shape) == len(expected.shape.dim)
        for size, dim in zip(found.shape, expected.shape.dim, strict=True):
            if dim.HasField("dim_value"):
                assert size == dim.dim_value, info.name
                compared += 1
            else:
                assert size % BATCH == 0, info.name
    # With a batch of any size onnx itself loses sight of many.
    fixed = graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    assert compared > (2 if fixed else 0.5) * len(graph.node)
    assert {info.name for info in graph.value_info} <= {name.decode() for name in values}
    for node in proto.graph.node:
        operator = OPERATORS[node.op_type]
        assert set(operator.needs) <= {a.name for a in node.attribute}
    return values


# ---------------------------------------------------------------------------- ONNX


@pytest.mark.parametrize("model", names((*FEW_SMALL, *KINDS)), indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_scan_finds_every_shape_of_what_is_written(model, precision):
    kind = PRECISIONS[precision]
    for plan in plans(model):
        for form in forms(plan, precision):
            for dialect in DIALECTS:
                scan(emit_onnx(form, name="a", precision=precision, dialect=dialect))
            newest = kind.max_opset
            scan(emit_onnx(form, name="a", precision=precision, opset=newest, batch=3))


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_of_every_small_network_too(small, precision):
    for plan in plans(small):
        for form in forms(plan, precision):
            for dialect in DIALECTS:
                for opset in {PRECISIONS[precision].min_opset, PRECISIONS[precision].max_opset}:
                    scan(emit_onnx(form, name="a", precision=precision, dialect=dialect,
                                   opset=opset))  # fmt: skip


INTEGERS = {
    "onnx": (OnnxruntimeOps, Scheme(), "fp32", True),
    "openvino": (OpenvinoOps, Scheme(), "fp32", False),
    "trt": (TensorrtOps, Scheme(signed=True, half=True), "fp16", False),
}


@pytest.mark.parametrize("name", ["tiny", "deit"])
@pytest.mark.parametrize("form", INTEGERS)
def test_graphs_of_integers(make_small, make_kind, name, form):
    dialect, scheme, precision, results = INTEGERS[form]
    model = make_kind(name) if name in KINDS else make_small(name)
    made, description = quantized(model, scheme, results=results)
    for batch in (None, 2):
        scan(emit_onnx(made, name="q", precision=precision, quantization=description,
                       dialect=dialect, batch=batch))  # fmt: skip


FULL_SIZE = ("levit_conv_256d", "levit_512_s8", "convit_tiny", "deit_tiny_distilled_patch16_224",
             "vit_small_patch14_reg4_dinov2")  # fmt: skip


@pytest.mark.parametrize(
    "variant", ["levit_128s", *(pytest.param(n, marks=pytest.mark.slow) for n in FULL_SIZE)]
)
def test_networks_of_full_size_are_within_the_limits(variant, seed):
    for family in FAMILIES.values():
        if variant in family.variants:
            model = random_model(family, family.variants[variant].config, seed)
    for form in forms(model, "fp32"):
        for batch in (None, 64):
            scan(emit_onnx(form, name="a", dialect=OnnxruntimeOps, batch=batch))


# ---------------------------------------------------------------------------- IR


def written_ir(model, folder, precision="fp32", quantization=None, options="dynamic"):
    folder.mkdir()
    write_openvino(
        Order(model=model, variant="a", folder=folder, floats=precision, options=OPTIONS[options],
              quantization=quantization)
    )  # fmt: skip
    return scan_ir(folder)


def scan_ir(folder):
    """Let the scan see an IR: it compares each shape with the one that OpenVINO states itself."""
    text, weights = ((folder / name).read_bytes() for name in ("model.xml", "model.bin"))
    return check_ir(text, weights)


@pytest.mark.parametrize("model", names((*FEW_SMALL, *KINDS)), indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_ir_that_is_written(model, precision, tmp_path):
    for i, plan in enumerate(plans(model)):
        for j, form in enumerate(forms(plan, precision)):
            batch = "fixed" if i == 3 else "dynamic"
            assert written_ir(form, tmp_path / f"{i}{j}", precision, options=batch)


@pytest.mark.parametrize("name", ["tiny", "deit"])
def test_irs_of_integers(make_small, make_kind, name, tmp_path):
    model = make_kind(name) if name in KINDS else make_small(name)
    made, description = quantized(model, Scheme())
    assert written_ir(made, tmp_path / "a", quantization=description)


# ---------------------------------------------------------------------------- nothing else


@pytest.mark.slow
def test_the_table_of_onnx_has_nothing_that_is_never_written(make_small, make_kind):
    """Operators, their attributes, numbers of inputs, types and opsets."""
    protos = []
    for name in ("tiny", "silu_stride_8", "conv_wide", "deit", "vit_pooler", "average"):
        model = make_kind(name) if name in KINDS else make_small(name)
        for plan in plans(model):
            for form in forms(plan, "fp32"):
                protos += [emit_onnx(form, name="a", dialect=dialect) for dialect in DIALECTS]
    protos += [emit_onnx(form, name="a", opset=o) for o in OPSETS if o < 22
               for form in forms(make_small("tiny"), "fp32")]  # fmt: skip
    protos += [emit_onnx(form, name="a", precision=precision) for precision in PRECISIONS
               for form in forms(make_small("tiny"), precision)]  # fmt: skip
    for dialect, scheme, precision, results in INTEGERS.values():
        made, description = quantized(make_small("tiny"), scheme, results=results)
        protos.append(emit_onnx(made, name="a", precision=precision, quantization=description,
                                dialect=dialect))  # fmt: skip
    used, counts, types, opsets = {}, {}, set(), set()
    for proto in protos:
        opsets.add(proto.opset_import[0].version)
        types |= {tensor.data_type for tensor in proto.graph.initializer}
        for node in proto.graph.node:
            used.setdefault(node.op_type, set()).update(a.name for a in node.attribute)
            counts.setdefault(node.op_type, set()).add(len(node.input))
    assert {name: {*o.needs, *o.may} for name, o in OPERATORS.items()} == used
    assert {name: set(o.inputs) for name, o in OPERATORS.items()} == counts
    assert types == set(DTYPES)
    assert opsets == set(OPSETS)


@pytest.mark.slow
def test_the_table_of_irs_has_nothing_that_is_never_written(make_small, make_kind, tmp_path):
    used, types = set(), set()
    for name in ("tiny", "silu_stride_8", "deit", "vit_pooler"):
        model = make_kind(name) if name in KINDS else make_small(name)
        made, description = quantized(model, Scheme())
        models = [(made, "fp32", description)]
        for plan in plans(model):
            models += [(form, precision, None) for precision in PRECISIONS
                       for form in forms(plan, precision)]  # fmt: skip
        for i, (form, precision, quantization) in enumerate(models):
            folder = tmp_path / f"{name}{i}"
            written_ir(form, folder, precision, quantization)
            root = ElementTree.parse(folder / "model.xml").getroot()
            for layer in root.find("layers"):
                data = layer.find("data")
                found = {} if data is None else dict(data.attrib)
                types.add(found.get("element_type"))
                used.add((layer.get("type"), layer.get("version"), *sorted(found)))
    plain = {("Parameter", "opset1", "element_type", "shape"), ("Result", "opset1"),
             ("Const", "opset1", "element_type", "offset", "shape", "size")}  # fmt: skip
    table = {(name, o.version, *sorted(o.needs)) for name, o in OPERATIONS.items()}
    assert used == table | plain
    assert types - {None} == set(IR_DTYPES)
