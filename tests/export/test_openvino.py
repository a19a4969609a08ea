import re
import sys
from collections import Counter

import numpy as np
import pytest

from levit.artifact import open_artifact
from levit.errors import BackendUnavailableError, ExportError
from levit.export import ExportOptions, export
from levit.export.passes import run_passes
from levit.export.targets import Order
from levit.export.targets.openvino import prepare_openvino, write_openvino
from levit.models.ops import NumpyOps
from levit.runtime.cpus import cpu_features, cpu_precisions
from levit.runtime.openvino_module import import_openvino, openvino_core
from levit.runtime.predictor import Predictor

openvino = import_openvino()

OPTIONS = ExportOptions(model="levit_digits", target="openvino")


def written(model, folder, precision="fp32"):
    """The model as OpenVINO reads it back."""
    order = Order(
        model=prepare_openvino(run_passes(model)[-1].model, precision),
        variant="small",
        folder=folder,
        floats=precision,
        options=OPTIONS,
    )
    write_openvino(order)
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", "model.xml"]
    return openvino_core().read_model(folder / "model.xml", folder / "model.bin")


def compiled(model, precision="f32"):
    return openvino_core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    )


def executed(model):
    """Layer types of the executed graph, without what is constant."""
    kinds = Counter()
    for node in model.get_runtime_model().get_ordered_ops():
        kinds[node.get_rt_info()["layerType"].astype(str)] += 1
    return kinds


def layers(folder):
    return Counter(re.findall(r'type="(\w+)" version', (folder / "model.xml").read_text()))


def test_every_small_network_is_the_reference(small, tmp_path, draw):
    outputs = small.family.outputs(small.config)
    model = small.with_plan(outputs=outputs)
    _, x = draw(small.config, 3)
    found = compiled(written(model, tmp_path))(x)
    for i, (name, expected) in enumerate(model.forward(NumpyOps(), x).items()):
        error = np.abs(found[i] - expected).max() / np.abs(expected).max()
        assert error < 5e-5, name


def test_nothing_of_shapes_or_branches_is_left_in_the_graph(make_small, tmp_path):
    written(make_small("tiny"), tmp_path)
    assert set(layers(tmp_path)) == {
        "Parameter", "Result", "Const", "Convolution", "Add", "MatMul", "HSwish", "SoftMax",
        "Reshape", "Transpose", "Slice", "ReduceMean", "Multiply",
    }  # fmt: skip


@pytest.mark.slow
def test_attention_is_one_kernel_and_activations_are_none(tmp_path):
    # The published shapes: OpenVINO decides by them. 128S has eleven attentions.
    folder = tmp_path / "a"
    export(
        ExportOptions(model="levit_128s", random_weights=0, target="openvino", output=folder,
                      verify="none")
    )  # fmt: skip
    for batch in (None, 1, 8):
        model = openvino_core().read_model(folder / "model.xml", folder / "model.bin")
        if batch is not None:
            model.reshape([batch, 3, 224, 224])
        network = compiled(model)
        kinds = executed(network)
        names = [
            node.get_rt_info()["originalLayersNames"].astype(str)
            for node in network.get_runtime_model().get_ordered_ops()
            if node.get_rt_info()["layerType"].astype(str) == "Subgraph"
        ]
        attentions = [name for name in names if "/Softmax" in name]
        assert len(attentions) == 11
        # Scores, table, softmax, product, and the activation before the projection.
        assert all(name.count("/MatMul") == 2 and "Swish" in name for name in attentions)
        assert not {"Softmax", "HSwish", "MatMul"} & set(kinds), kinds


@pytest.mark.parametrize(("precision", "stored"), [("fp16", "f16"), ("bf16", "bf16")])
def test_weights_are_stored_in_the_precision(make_small, tmp_path, draw, precision, stored):
    model = make_small("tiny")
    whole, half = tmp_path / "fp32", tmp_path / precision
    for folder in (whole, half):
        folder.mkdir()
    reference = compiled(written(model, whole))
    smaller = written(model, half, precision=precision)
    sizes = [(folder / "model.bin").stat().st_size for folder in (whole, half)]
    assert 0.49 < sizes[1] / sizes[0] < 0.52
    kinds = Counter(op.get_element_type().to_string() for op in smaller.get_ops()
                    if op.get_type_name() == "Constant")  # fmt: skip
    assert kinds[stored] > 40
    _, x = draw(model.config, 2)
    expected, found = reference(x)[0], compiled(smaller)(x)[0]
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0 < error < (0.1 if precision == "bf16" else 0.01)


def test_a_weight_beyond_float16_stays_float32(make_small, tmp_path):
    from dataclasses import replace

    model = run_passes(make_small("tiny"))[-1].model
    head = replace(model.params.head, weight=model.params.head.weight * 1e7)
    ir = written(replace(model, params=replace(model.params, head=head)), tmp_path,
                 precision="fp16")  # fmt: skip
    large = [op for op in ir.get_ops() if op.get_type_name() == "Constant"
             and op.get_element_type().to_string() == "f32" and op.data.size > 16]  # fmt: skip
    assert [op.data.size for op in large] == [head.weight.size]


def test_the_same_model_is_the_same_files(make_small, tmp_path):
    names = ("a", "b")
    for name in names:
        (tmp_path / name).mkdir()
        written(make_small("wide"), tmp_path / name)
    for file in ("model.bin", "model.xml"):
        first, second = ((tmp_path / name / file).read_bytes() for name in names)
        assert first == second, file


def test_metadata_travels(tmp_path):
    folder = tmp_path / "a"
    artifact = export(ExportOptions(model="levit_digits", target="openvino", output=folder))
    model = openvino_core().read_model(folder / "model.xml", folder / "model.bin")
    assert model.get_rt_info(["levit", "variant"]).value == "levit_digits"
    assert artifact.manifest.payload == "model.xml"
    assert set(artifact.manifest.files) == {"model.xml", "model.bin", "labels.txt", "golden.npz"}
    assert artifact.manifest.requirements["backend"] == "openvino"
    assert open_artifact(folder).manifest == artifact.manifest


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_levit_digits_in_every_precision(tmp_path, precision):
    folder = tmp_path / "a"
    options = ExportOptions(
        model="levit_digits", target="openvino", precision=precision, output=folder
    )
    if precision == "bf16" and not cpu_precisions(cpu_features())["bf16"]:
        with pytest.raises(BackendUnavailableError, match="has no instructions"):
            export(options)
        assert list(tmp_path.iterdir()) == []
        return
    artifact = export(options)
    assert artifact.manifest.verification["status"] == "passed"
    with Predictor(folder) as predictor:
        assert predictor.check().passed


def test_without_openvino_it_says_how_to_get_it(tmp_path, monkeypatch):
    from levit.runtime import backends

    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        BackendUnavailableError, match=r"'openvino': not installed: pip install 'levit\[openvino\]'"
    ):
        export(ExportOptions(model="levit_digits", target="openvino", output=tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []
    assert "openvino" in sys.modules


def test_an_opset_is_that_of_the_graph_it_is_made_from(tmp_path):
    with pytest.raises(ExportError, match="opset must be from 14 to 21"):
        export(ExportOptions(model="levit_digits", target="openvino", opset=30,
                             output=tmp_path / "a"))  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_opset_is_that_of_the_graph_which_is_float32(tmp_path):
    options = {"model": "levit_digits", "target": "openvino", "precision": "bf16"}
    made = export(ExportOptions(**options, opset=18, verify="none", output=tmp_path / "made"))
    assert made.manifest.precision == "bf16"
    with pytest.raises(ExportError, match="from 14 to 21 for fp32, not 22"):
        export(ExportOptions(**options, opset=22, verify="none", output=tmp_path / "none"))
