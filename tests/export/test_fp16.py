"""Exports in fp16: of networks out of its range, and what verification shows."""

from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
import scaled
from safetensors.numpy import save_file

from levit import Predictor
from levit.artifact import open_artifact
from levit.errors import ExportError, VerificationError
from levit.export import ExportOptions, api, export
from levit.export import write as writing
from levit.export.onnx.tensorrt_ops import TensorrtOps
from levit.export.passes import run_passes
from levit.export.precision import PRECISIONS
from levit.export.prepare import prepare
from levit.export.quantization.form import IntegerForm
from levit.export.quantization.hardware import must_reduce_range
from levit.export.ranges import Taps
from levit.export.targets import TARGETS, find_target
from levit.export.targets.graph import GraphForm
from levit.export.targets.onnx import write_onnx
from levit.export.verify import TOLERANCES, golden_cases, prove_in_fp32
from levit.models.random_weights import flatten

CASES = {
    "stream": lambda m: scaled.scaled_stream(m, 1e5),
    "queries": lambda m: scaled.scaled_queries(m, 1e6),
    "hidden": lambda m: scaled.scaled_hidden(m, 2e5),
    "scores": scaled.masked_scores,
    "logits": lambda m: scaled.scaled_logits(m, 1e6),
    "everything": lambda m: scaled.scaled_logits(
        scaled.masked_scores(
            scaled.scaled_stem(
                scaled.scaled_hidden(scaled.scaled_queries(scaled.scaled_stream(m, 1e5), 1e6), 2e5),
                1e5,
            )
        ),
        1e6,
    ),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=CASES)
def checkpoint(request, make_small, tmp_path):
    """(file, model) of a network as trained whose values leave fp16."""
    model = CASES[request.param](make_small("tiny"))
    keymap = next(k for k in model.family.keymaps if not k.conv)
    path = tmp_path / "weights" / "model.safetensors"
    path.parent.mkdir()
    save_file({k: v.astype(np.float32) for k, v in flatten(model, keymap).items()}, path)
    return path, model


def test_a_scaled_checkpoint_is_right_in_fp16(here, checkpoint, draw):
    path, model = checkpoint
    single = export(ExportOptions(checkpoint=path, output="single"))
    artifact = export(ExportOptions(checkpoint=path, precision="fp16", output="half"))
    verification = artifact.manifest.verification
    assert verification["status"] == "passed"
    assert verification["max_relative_error"] <= TOLERANCES["fp16"].value
    assert verification["fp32_max_relative_error"] <= verification["fp32_tolerance"] == 1e-4
    fired = {entry["name"]: entry for entry in artifact.manifest.passes if entry["count"]}
    assert "keep_float32" in fired
    images = draw(model.config, 4)[1]  # others than it was scanned on
    with Predictor(artifact.path) as half, Predictor(single.path) as full:
        expected = full.forward(images)["logits"]
        error = np.abs(half.forward(images)["logits"] - expected).max() / np.abs(expected).max()
    assert error <= 2 * TOLERANCES["fp16"].value


@pytest.mark.slow
def test_integers_among_float16_are_right_there_too(here, checkpoint, draw):
    """As TensorRT has them; what leaves float16 is no integer either."""
    path, model = checkpoint
    images = draw(model.config, 40)[1]
    np.savez("photos.npz", inputs=images[:32])
    target = replace(
        TARGETS["onnx"],
        write=partial(write_onnx, form=GraphForm(dialect=TensorrtOps)),
        integers=IntegerForm(symmetric_activations=True, floats="fp16"),
    )
    options = ExportOptions(
        checkpoint=path, precision="int8", calibration="photos.npz", force=True, output="int8"
    )
    options = replace(options, reduce_range=must_reduce_range())
    manifest = writing.write(prepare(options), target, options)
    verification = manifest.manifest.verification
    assert verification["max_relative_error"] <= verification["tolerance"]
    fired = {entry["name"]: entry for entry in manifest.manifest.passes}
    assert fired["quantize"]["beside"] == "fp16"
    noise = verification["accuracy"]["signal_to_noise_db"]
    if fired["quantize"]["count"]:
        assert noise > 10
    else:  # all is in float32
        assert noise is None
    kept = fired.get("keep_float32", {"values": []})["values"]
    made = [f"{name}{end}" for name in fired["quantize"]["layers"] for end in ("/", ".")]
    assert not [value for value in kept if value.startswith(tuple(made))]


def test_it_is_not_written_without_what_is_done_about_it(here, checkpoint, monkeypatch):
    monkeypatch.setattr(writing, "find_islands", lambda model, precision, scanner: ())
    with pytest.raises((ExportError, VerificationError), match=r"float16|is off by"):
        export(ExportOptions(checkpoint=checkpoint[0], precision="fp16", output="half"))
    assert not (here / "half").exists()


def test_islands_are_named_in_the_manifest_and_typed_in_the_graph(here, make_small, tmp_path):
    model = scaled.masked_scores(make_small("tiny"))
    keymap = next(k for k in model.family.keymaps if not k.conv)
    save_file(flatten(model, keymap), tmp_path / "model.safetensors")
    artifact = export(
        ExportOptions(checkpoint=tmp_path / "model.safetensors", precision="fp16", output="half")
    )
    assert open_artifact(artifact.path).manifest.passes == artifact.manifest.passes
    entry = artifact.manifest.passes[-1]
    assert entry["name"] == "keep_float32"
    assert entry["count"] == len(entry["values"])
    graph = onnx.shape_inference.infer_shapes(onnx.load(artifact.payload)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    assert {types[name] for name in entry["values"]} == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 in types.values()


def test_an_ordinary_network_has_no_islands(here):
    manifest = export(ExportOptions(model="levit_digits", precision="fp16")).manifest
    assert "keep_float32" not in {entry["name"] for entry in manifest.passes}


# ---------------------------------------------------------------------------- verification


def test_the_graph_is_proven_in_fp32(make_small):
    model = make_small("tiny")
    golden = golden_cases(model, None)
    deployed = run_passes(model)[-1].model
    assert prove_in_fp32(Taps(deployed), golden) <= 1e-4
    head = deployed.params.head
    scale = np.abs(golden.outputs["logits"]).max()
    wrong = replace(head, bias=head.bias + 5e-3 * scale)
    wrong = replace(deployed, params=replace(deployed.params, head=wrong))
    assert prove_in_fp32(Taps(wrong, names=()), golden) == pytest.approx(5e-3, rel=0.1)


def test_a_wrong_weight_that_fp16_would_hide_is_found(here, monkeypatch):
    """Off by less than the tolerance of fp16, which alone would let it pass."""

    def wrong(name, precision):
        target = find_target(name, precision)

        def changed(model, precision):
            head = model.params.head
            return target.prepare(
                replace(
                    model,
                    params=replace(model.params, head=replace(head, bias=head.bias + 3e-2)),
                ),
                precision,
            )

        return replace(target, prepare=changed)

    monkeypatch.setattr(api, "find_target", wrong)
    options = ExportOptions(model="levit_digits", precision="fp16", output="wrong")
    with pytest.raises(
        VerificationError, match=r"written in fp32, is off by .* allowed is 1.0e-04"
    ):
        export(options)
    assert not (here / "wrong").exists()
    forced = export(replace(options, force=True)).manifest.verification
    assert forced["status"] == "forced"
    assert 1e-4 < forced["fp32_max_relative_error"] < TOLERANCES["fp16"].value
    assert forced["max_relative_error"] < TOLERANCES["fp16"].value


def test_nothing_is_proven_where_nothing_is_asked(here):
    options = ExportOptions(model="levit_digits", precision="fp16", verify="none")
    verification = export(options).manifest.verification
    assert verification["status"] == "unverified"
    assert "fp32_max_relative_error" not in verification


def test_every_precision_of_every_target_has_a_tolerance_with_a_reason():
    assert set(TOLERANCES) == {p for target in TARGETS.values() for p in target.precisions}
    assert set(TOLERANCES) == {*PRECISIONS, "int8"}
    for tolerance in TOLERANCES.values():
        assert 0 < tolerance.value < 1
        assert tolerance.reason
