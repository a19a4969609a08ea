import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from levit import Predictor, __version__
from levit.artifact import is_artifact, open_artifact
from levit.errors import (
    ArtifactError,
    BackendUnavailableError,
    CheckpointError,
    ConfigError,
    ExportError,
    VerificationError,
)
from levit.export import ExportOptions, export
from levit.export.passes import PASSES
from levit.export.preprocessing import choose_preprocess
from levit.export.settings import choose_labels, choose_outputs
from levit.export.sources import load_source
from levit.export.targets import TARGETS
from levit.export.targets.onnx import write_onnx
from levit.export.verify import TOLERANCES, Tolerance, golden_cases
from levit.models.ops import NumpyOps
from levit.models.random_weights import flatten
from levit.models.registry import FAMILIES, digits_folder
from levit.pictures.preprocess import PreprocessSpec

ARGUMENTS = dict(
    embed_dim=[32, 48], key_dim=16, num_heads=[2, 3], depth=[1, 1], img_size=[64, 48],
    num_classes=4, architecture="my_levit",
)  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(tmp_path):
    """(changes) → a JSON file with a small network's arguments."""

    def write(**changes):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**ARGUMENTS, **changes}))
        return path

    return write


@pytest.fixture
def checkpoint(tmp_path, make_small):
    """(name, classes) → a checkpoint file of a small model."""

    def write(name="tiny"):
        model = make_small(name)
        keymap = next(k for k in model.family.keymaps if k.conv == model.config.conv)
        path = tmp_path / "weights" / "model.safetensors"
        path.parent.mkdir()
        save_file(flatten(model, keymap), path)
        return path

    return write


def small_export(config, **changes):
    return export(ExportOptions(random_weights=1, config=config(), **changes))


def digits(**changes):
    return export(ExportOptions(model="levit_digits", **changes))


def one_line(caught):
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "float16"}, "input must be one of float32, uint8, not 'float16'"),
        ({"verify": "maybe"}, "verify must be one of host, source, none, not 'maybe'"),
        ({"checkpoint": "a", "random_weights": 1}, "exclude each other"),
        ({"random_weights": -1}, "whole number from 0 to .*, not -1"),
        ({"batch": 0}, "batch is a whole number from 1 to 65536, not 0"),
        ({"batch": (2, 1, 4)}, r"rises .* unlike \(2, 1, 4\)"),
        ({"batch": (1, 8, 4)}, r"rises .* unlike \(1, 8, 4\)"),
        ({"batch": (1, 2)}, "a number, or .min, opt, max."),
        ({"batch": "8"}, "batch is a whole number"),
        ({"batch": 10**20}, "batch is a whole number from 1 to 65536"),
        ({"random_weights": "0"}, "random_weights .* whole number"),
        ({"opset": "17"}, "opset is a whole number"),
        ({"opset": 0}, "opset is a whole number from 1"),
        ({"image_size": "96"}, "image_size is a whole number"),
        ({"image_size": (96, 96, 3)}, "height, width"),
        ({"image_size": 160_000}, "image_size is a whole number from 1 to 8192"),
        ({"model": 5}, "model is a name, not 5"),
        ({"output": "a\0b"}, "output is a path"),
        ({"checkpoint": 3.5}, "checkpoint is a path"),
        ({"mean": 0.5}, "mean is a list of numbers"),
        ({"std": ("a", "b", "c")}, "std: expected a number"),
        ({"crop_pct": "a"}, "crop_pct: expected a number"),
        ({"output": "x", "dump_passes": "./x"}, "different folders"),
        ({"output": "x", "dump_passes": "x/y"}, "different folders"),
        ({"checkpoint": ""}, "checkpoint is a path"),
        ({"output": "a\ud800b"}, "output is a path"),
        ({"labels": "a\0b"}, "labels is a path"),
        ({"labels": 3}, "labels is a path"),
        ({"outputs": 3}, "outputs is a list of names"),
        ({"outputs": {"logits"}}, "outputs is a list of names"),
        ({"force": "no"}, "force is True or False"),
        ({"input": np.zeros(2)}, "input must be one of"),
        ({"mean": [10**400] * 3}, "mean: expected a number"),
        ({"batch": -3}, "batch"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        ExportOptions(**changes)
    one_line(caught)


@pytest.mark.parametrize(
    ("batch", "profile"),
    [(None, (1, 8, 64)), (4, (4, 4, 4)), ((2, 3, 5), (2, 3, 5))],
)
def test_batch_profiles(batch, profile):
    assert ExportOptions(batch=batch).profile == profile


def test_one_number_is_a_square():
    assert ExportOptions(image_size=96).size == (96, 96)
    assert ExportOptions(image_size=(64, 96)).size == (64, 96)
    assert ExportOptions().size is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, ConfigError, "say what to export"),
        ({"random_weights": 1}, ConfigError, "random weights need a --model"),
        ({"model": "levit_129"}, ConfigError, "did you mean"),
        ({"model": "levit_512"}, ConfigError, "no published weights.*--random-weights"),
        ({"model": "levit_digits", "target": "tpu"}, ExportError, "no target 'tpu'.*onnx"),
        ({"model": "levit_digits", "precision": "fp8"}, ExportError, "no precision 'fp8'.*fp32"),
        ({"model": "levit_digits", "outputs": ("pooled",)}, ConfigError, "'pooled'; it has logits"),
        ({"model": "levit_digits", "outputs": ("logits", "logits")}, ConfigError, "once each"),
        ({"model": "levit_digits", "outputs": ()}, ConfigError, "at least one"),
        ({"model": "levit_digits", "opset": 13}, ExportError, "from 14 to 21 for fp32, not 13"),
        (
            {"model": "levit_digits", "precision": "bf16", "opset": 17},
            ExportError,
            "must be 22 for bf16, not 17",
        ),
        ({"model": "levit_digits", "image_size": 225}, ConfigError, "multiples of 16"),
        ({"model": "levit_digits", "preprocess": "caffe"}, ConfigError, "unknown preprocessing"),
        ({"model": "levit_digits", "mean": (0.5, 0.5)}, ConfigError, "mean has 2 values"),
        ({"model": "levit_digits", "std": (1, 0, 1)}, ConfigError, "scaled to 0..1 and positive"),
        ({"model": "levit_digits", "crop_pct": 1.5}, ConfigError, "crop_pct"),
        ({"model": "levit_digits", "interpolation": "magic"}, ConfigError, "interpolation"),
        ({"model": "levit_digits", "labels": ("a", "b")}, ConfigError, "2 names for 10 classes"),
        ({"model": "levit_digits", "labels": "missing.txt"}, ConfigError, "cannot be read"),
        ({"model": "levit_digits", "config": "missing.json"}, ConfigError, "no such file"),
        ({"checkpoint": "missing.safetensors"}, CheckpointError, "no such file"),
        ({"model": "levit_256", "random_weights": 1, "image_size": 100}, ConfigError, "multiples"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_nothing_is_written(here, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        export(ExportOptions(**changes))
    one_line(caught)
    assert names_in(here) == []


# ---------------------------------------------------------------------------- the destination


def test_the_default_name_is_model_target_precision(here):
    artifact = digits()
    assert names_in(here) == ["levit_digits-onnx-fp32"]
    assert artifact.path.resolve() == here / "levit_digits-onnx-fp32"
    assert names_in(artifact.path) == [
        ".gitattributes",
        "golden.npz",
        "labels.txt",
        "manifest.json",
        "model.onnx",
    ]


def test_folders_on_the_way_are_made(here):
    digits(output=here / "deep" / "er" / "artifact")
    assert is_artifact(here / "deep" / "er" / "artifact")


def test_an_existing_artifact_is_left_alone_without_force(here):
    artifact = digits(output="a")
    before = {path: path.read_bytes() for path in artifact.path.iterdir()}
    with pytest.raises(ArtifactError, match="already exists; pass --force"):
        digits(output="a", outputs=("embedding",))
    assert {path: path.read_bytes() for path in artifact.path.iterdir()} == before


def test_force_replaces_an_artifact(here):
    digits(output="a")
    artifact = digits(output="a", outputs=("embedding",), force=True)
    assert [spec.name for spec in artifact.manifest.outputs] == ["embedding"]
    assert artifact.manifest.verification["status"] == "passed"
    assert names_in(here) == ["a"]


def test_force_replaces_nothing_else(here):
    folder = here / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"cat")
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is not an artifact, so --force does not replace it"):
        digits(output=folder, force=True)
    assert names_in(folder) == ["cat.jpg", "manifest.json"]
    file = here / "file"
    file.write_text("text")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        digits(output=file, force=True)
    assert file.read_text() == "text"
    assert names_in(here) == ["file", "photos"]


def test_an_interrupted_export_leaves_nothing(here):
    digits(output="a")
    before = (here / "a" / "manifest.json").read_bytes()

    def stop(step):
        if step == "verifying":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(ExportOptions(model="levit_digits", output="a", force=True), progress=stop)
    assert (here / "a" / "manifest.json").read_bytes() == before
    with pytest.raises(KeyboardInterrupt):
        export(ExportOptions(model="levit_digits", output="b"), progress=stop)
    assert names_in(here) == ["a"]


def test_progress_names_the_steps(here):
    steps = []
    export(ExportOptions(model="levit_digits"), progress=steps.append)
    assert steps == [
        "reading weights", "folding", "evaluating the reference", "writing", "verifying",
    ]  # fmt: skip


def test_the_same_export_gives_the_same_files(here):
    first, again = digits(output="a"), digits(output="b")
    for name in ("model.onnx", "labels.txt", "golden.npz", "manifest.json"):
        assert (first.path / name).read_bytes() == (again.path / name).read_bytes(), name


# ---------------------------------------------------------------------------- verification


@pytest.fixture
def unreachable(monkeypatch):
    """A tolerance that float32 cannot keep."""
    monkeypatch.setitem(TOLERANCES, "fp32", Tolerance(1e-12, "for a test"))


def test_an_artifact_out_of_tolerance_is_not_written(here, unreachable):
    with pytest.raises(VerificationError, match=r"allowed is 1\.0e-12.*--force writes it"):
        digits()
    assert names_in(here) == []


def test_force_writes_it_and_says_so(here, unreachable):
    verification = digits(force=True).manifest.verification
    assert verification["status"] == "forced"
    assert verification["max_relative_error"] > 1e-12 == verification["tolerance"]


def test_a_wrong_graph_is_caught(here, monkeypatch):
    # The payload has another network's first convolution: what verification is for.
    other = load_source(ExportOptions(model="levit_digits", random_weights=3)).model.params.stem[0]

    def write_another(order):
        params = replace(order.model.params, stem=(other.fold(), *order.model.params.stem[1:]))
        return write_onnx(replace(order, model=replace(order.model, params=params)))

    monkeypatch.setitem(TARGETS, "onnx", replace(TARGETS["onnx"], write=write_another))
    with pytest.raises(VerificationError, match="off by"):
        digits()
    assert names_in(here) == []


def test_a_wrong_pass_is_caught_before_anything_is_written(here, monkeypatch):
    from levit.export import prepare

    def wrong(model, passes):
        applied = run(model, passes)
        deployed = applied[-1].model
        head = replace(deployed.params.head, bias=deployed.params.head.bias * (1 + 1e-9))
        changed = replace(deployed, params=replace(deployed.params, head=head))
        return [*applied[:-1], replace(applied[-1], model=changed)]

    run = prepare.run_passes
    monkeypatch.setattr(prepare, "run_passes", wrong)
    with pytest.raises(VerificationError, match="folding changed the outputs"):
        digits()
    assert names_in(here) == []


def test_fp16_is_half_the_file_and_answers_the_same(here, tiny_artifact):
    artifact = digits(precision="fp16")
    assert artifact.path.name == "levit_digits-onnx-fp16"
    manifest = artifact.manifest
    assert manifest.precision == "fp16"
    assert manifest.verification["status"] == "passed"
    assert manifest.requirements["backend_version"] == ">=1.20"
    assert {spec.dtype for spec in (*manifest.inputs, *manifest.outputs)} == {"float32"}
    single = open_artifact(tiny_artifact).payload.stat().st_size
    assert 0.45 < artifact.payload.stat().st_size / single < 0.6
    images = sorted(str(path) for path in digits_folder().glob("images/*/*.png"))[::20]
    with Predictor(artifact.path) as half, Predictor(tiny_artifact) as full:
        assert [p.label for p in half.predict(images)] == [p.label for p in full.predict(images)]


def test_fp16_of_uint8_pixels(here):
    artifact = digits(precision="fp16", input="uint8")
    assert artifact.manifest.verification["status"] == "passed"
    assert artifact.manifest.inputs[0].dtype == "uint8"
    assert "fold_input_normalization" not in {p["name"] for p in artifact.manifest.passes}


def test_bf16_is_written_unverified_where_no_kernel_runs_it(here):
    with pytest.raises(BackendUnavailableError, match=r"no bfloat16 kernels.*--verify"):
        digits(precision="bf16")
    assert names_in(here) == []
    artifact = digits(precision="bf16", verify="none")
    assert artifact.manifest.verification["status"] == "unverified"
    assert artifact.manifest.requirements["backend_version"] == ">=1.21"
    with pytest.raises(BackendUnavailableError, match="no bfloat16 kernels on the CPU"):
        Predictor(artifact.path)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_passes_are_dumped_in_fp32_whatever_is_written(here, precision):
    digits(precision=precision, verify="none", dump_passes="dump", output="artifact")
    for file in (here / "dump").glob("*.onnx"):
        proto = onnx.load(file)
        assert proto.opset_import[0].version == 17
        assert {t.data_type for t in proto.graph.initializer} <= {
            onnx.TensorProto.FLOAT,
            onnx.TensorProto.INT64,
        }


def test_verification_is_recorded(tiny_artifact):
    verification = open_artifact(tiny_artifact).manifest.verification
    assert verification["status"] == "passed"
    assert 0 < verification["max_relative_error"] < 1e-5
    assert verification["max_abs_error"] > 0
    assert verification["top1_agreement"] == 1.0
    assert verification["cases"] == 3
    assert verification["tolerance"] == TOLERANCES["fp32"].value
    assert verification["tolerance_reason"]
    assert verification["source_library"] is None
    assert verification["cpu"]
    assert verification["cpu_class"]


def test_verify_none_runs_nothing_and_says_so(here, unreachable):
    verification = digits(verify="none").manifest.verification
    assert verification["status"] == "unverified"
    assert verification["cpu_class"] is None
    assert verification["max_relative_error"] is None
    assert verification["top1_agreement"] is None


@pytest.mark.peers
@pytest.mark.parametrize(
    "changes", [{}, {"input": "uint8"}, {"outputs": ("features", "logits")}], ids=str
)
def test_verify_source_compares_with_timm(here, changes):
    import timm

    verification = digits(verify="source", **changes).manifest.verification
    assert verification["status"] == "passed"
    assert verification["source_library"]["library"] == "timm"
    assert verification["source_library"]["version"] == timm.__version__
    assert verification["source_library"]["max_relative_error"] < 1e-12


@pytest.mark.peers
@pytest.mark.parametrize("name", ["silu_stride_8", "conv_wide", "headless", "one_channel"])
def test_verify_source_takes_every_form(here, checkpoint, make_small, name):
    model = make_small(name)
    path = here / "config.json"
    path.write_text(json.dumps({"act_layer": model.config.activation}))
    artifact = export(
        ExportOptions(
            checkpoint=checkpoint(name),
            image_size=model.config.image_size,
            config=path,
            verify="source",
        )
    )
    assert artifact.manifest.verification["source_library"]["max_relative_error"] < 1e-11


@pytest.mark.peers
def test_verify_source_takes_float64_weights(here, make_small):
    tensors = flatten(make_small("tiny"), make_small("tiny").family.keymaps[0])
    doubles = {key: value.astype(np.float64) * (1 + 1e-8) for key, value in tensors.items()}
    save_file(doubles, here / "model.safetensors")
    artifact = export(
        ExportOptions(checkpoint=here / "model.safetensors", image_size=96, verify="source")
    )
    assert artifact.manifest.verification["source_library"]["max_relative_error"] < 1e-11


@pytest.mark.peers
def test_verify_source_catches_a_wrong_reference(here, checkpoint):
    from levit.export.verify_source import compare_with_source

    source = load_source(ExportOptions(checkpoint=checkpoint("plain"), image_size=96))
    golden = golden_cases(source.model, PreprocessSpec(image_size=(96, 96)))
    assert compare_with_source(source, golden)["max_relative_error"] < 1e-11
    wrong = replace(golden, outputs={"logits": golden.outputs["logits"] * (1 + 1e-6)})
    with pytest.raises(VerificationError, match="differs from timm"):
        compare_with_source(source, wrong)


@pytest.mark.peers
def test_verify_source_needs_an_output_that_timm_gives(here):
    with pytest.raises(ExportError, match="add it to --outputs"):
        digits(verify="source", outputs=("features",))
    assert names_in(here) == []


# ---------------------------------------------------------------------------- what is in it


def test_the_manifest_of_digits(tiny_artifact):
    manifest = open_artifact(tiny_artifact).manifest
    assert (manifest.schema_version, manifest.scores) == (2, "softmax")
    assert (manifest.family, manifest.variant) == ("levit", "levit_digits")
    assert (manifest.target, manifest.format, manifest.precision) == ("onnx", "onnx", "fp32")
    assert manifest.payload == "model.onnx"
    assert manifest.assumed == ()
    assert manifest.calibration is None
    assert manifest.config["image_size"] == [96, 96]
    assert manifest.config["num_classes"] == 10
    weights = (digits_folder() / "model.safetensors").read_bytes()
    assert manifest.source == {
        "format": "timm",
        "file": "model.safetensors",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "size_bytes": len(weights),
        "package": "levit",
    }
    assert set(manifest.passes[0]) == {"name", "count", "macs_saved"}
    assert {entry["name"]: entry["count"] for entry in manifest.passes} == {
        "fold_batchnorm": 4 + 6 * 8 + 2,
        "fold_query_scale": 8,
        "drop_key_bias": 8,
        "fold_relative_bias": 8,
        "merge_heads": 1,
        "pool_before_last_linear": 1,
        "fold_input_normalization": 0,
    }
    (source,) = manifest.inputs
    assert (source.name, source.dtype, source.layout) == ("image", "float32", "NCHW")
    assert source.shape == ("batch", 3, 96, 96)
    (logits,) = manifest.outputs
    assert (logits.name, logits.dtype, logits.layout) == ("logits", "float32", "NC")
    assert logits.shape == ("batch", 10)
    assert (manifest.batch.min, manifest.batch.opt, manifest.batch.max) == (1, 8, 64)
    assert not manifest.batch.static
    assert manifest.preprocess.image_size == (96, 96)
    assert manifest.preprocess.crop_pct == 1.0
    assert manifest.preprocess.mean == (0.5, 0.5, 0.5)
    assert manifest.toolchain["levit"] == __version__
    assert {"python", "numpy", "onnx", "onnxruntime"} <= set(manifest.toolchain)
    assert manifest.requirements["backend"] == "onnxruntime"
    assert manifest.requirements["backend_version"] == ">=1.20"


def test_every_file_is_listed_with_hash_and_size(tiny_artifact):
    files = open_artifact(tiny_artifact).manifest.files
    assert set(files) == {"model.onnx", "labels.txt", "golden.npz"}
    for name, entry in files.items():
        data = (tiny_artifact / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}


def test_golden_holds_the_reference_as_trained(tiny_artifact):
    golden = open_artifact(tiny_artifact).golden()
    assert set(golden) == {"image/0", "image/1", "image/2", "input", "output/logits", "top5"}
    source = load_source(ExportOptions(model="levit_digits"))
    expected = source.model.forward(NumpyOps(), golden["input"])["logits"]
    np.testing.assert_allclose(golden["output/logits"], expected, rtol=1e-6)
    assert golden["image/0"].tobytes()[:4] == b"\x89PNG"
    assert np.array_equal(golden["top5"], np.argsort(-expected, axis=-1, kind="stable")[:, :5])


def test_the_graph_stands_by_itself(tiny_artifact):
    proto = onnx.load(tiny_artifact / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    manifest = open_artifact(tiny_artifact).manifest
    assert metadata["levit.variant"] == "levit_digits"
    assert json.loads(metadata["levit.labels"]) == list("0123456789")
    stored = json.loads(metadata["levit.preprocess"])
    assert stored == json.loads(json.dumps(manifest.preprocess.to_dict()))
    assert proto.producer_version == __version__


def test_the_trained_digits_are_told_apart(tiny_artifact):
    # A picture of each class, named by its folder.
    images = {folder.name: sorted(folder.iterdir())[0] for folder in images_of_digits()}
    assert sorted(images) == list("0123456789")
    with Predictor(tiny_artifact) as predictor:
        right = [predictor(path).label == label for label, path in images.items()]
    assert sum(right) >= 9


def images_of_digits():
    return sorted((digits_folder() / "images").iterdir())


@pytest.mark.parametrize(
    ("batch", "expected"), [(None, (1, 8, 64, False)), (2, (2, 2, 2, True)),
                            ((2, 4, 16), (2, 4, 16, False))],
)  # fmt: skip
def test_batches_in_the_manifest_and_the_graph(here, batch, expected):
    artifact = digits(batch=batch)
    found = artifact.manifest.batch
    assert (found.min, found.opt, found.max, found.static) == expected
    first = onnx.load(artifact.payload).graph.input[0].type.tensor_type.shape.dim[0]
    assert (first.dim_value or first.dim_param) == (2 if batch == 2 else "batch")
    assert artifact.manifest.inputs[0].shape[0] == (2 if batch == 2 else "batch")
    assert artifact.manifest.verification["status"] == "passed"


@pytest.mark.parametrize("opset", [14, 21])
def test_the_opset_is_the_graphs(here, opset):
    proto = onnx.load(digits(opset=opset).payload)
    assert proto.opset_import[0].version == opset


def test_pixels_and_float32_give_the_same_answers(here):
    paths = [sorted(folder.iterdir())[0] for folder in images_of_digits()]
    answers = []
    for kind in ("float32", "uint8"):
        artifact = digits(output=kind, input=kind)
        with Predictor(artifact.path) as predictor:
            answers.append(predictor.forward(predictor.preprocess(paths))["logits"])
        names = {entry["name"]: entry["count"] for entry in artifact.manifest.passes}
        assert names["fold_input_normalization"] == (kind == "uint8")
    assert artifact.manifest.inputs[0].dtype == "uint8"
    assert artifact.manifest.inputs[0].layout == "NHWC"
    assert artifact.manifest.inputs[0].shape == ("batch", 96, 96, 3)
    assert np.abs(answers[0] - answers[1]).max() <= 1e-5 * np.abs(answers[0]).max()


def test_every_output_can_be_asked_for(here):
    outputs = ("logits_dist", "features", "logits", "embedding", "logits_head")
    manifest = digits(outputs=outputs).manifest
    assert [(s.name, s.layout, s.shape) for s in manifest.outputs] == [
        ("logits_dist", "NC", ("batch", 10)),
        ("features", "NLC", ("batch", 4, 64)),
        ("logits", "NC", ("batch", 10)),
        ("embedding", "NC", ("batch", 64)),
        ("logits_head", "NC", ("batch", 10)),
    ]
    counts = {entry["name"]: entry["count"] for entry in manifest.passes}
    assert counts["merge_heads"] == counts["pool_before_last_linear"] == 0


# ---------------------------------------------------------------------------- labels


def test_labels_from_a_file(here):
    text = "\ufeff" + "\r\n".join(["Null", "Eins ", "Zwo", *"3456789"]) + "\r\n"
    (here / "names.txt").write_bytes(text.encode("utf-8"))
    artifact = digits(labels=here / "names.txt")
    assert artifact.labels() == ("Null", "Eins", "Zwo", *"3456789")
    metadata = {e.key: e.value for e in onnx.load(artifact.payload).metadata_props}
    assert json.loads(metadata["levit.labels"])[2] == "Zwo"


def test_labels_from_a_sequence(here):
    names = [f"Größe {i}" for i in range(10)]
    assert digits(labels=names).labels() == tuple(names)


@pytest.mark.parametrize("text", ["a\nb\n", "\n".join("abcdefghi") + "\n\nj", "", "\n" * 10])
def test_labels_that_do_not_fit_are_refused(here, text):
    (here / "names.txt").write_text(text)
    with pytest.raises(ConfigError, match=r"names\.txt") as caught:
        digits(labels="names.txt")
    one_line(caught)
    assert names_in(here) == ["names.txt"]


def test_labels_that_are_no_text_are_refused(here):
    (here / "names.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-16"):
        digits(labels="names.txt")


def test_without_names_the_indices_are_the_labels(here, config):
    assert small_export(config).labels() == ("0", "1", "2", "3")


def test_a_headless_model_has_no_labels(here, config):
    artifact = export(ExportOptions(random_weights=1, config=config(num_classes=0)))
    assert artifact.labels() == ()
    assert "labels.txt" not in names_in(artifact.path)
    assert [spec.name for spec in artifact.manifest.outputs] == ["embedding"]
    assert artifact.manifest.verification["top1_agreement"] is None
    assert artifact.manifest.verification["status"] == "passed"


# ---------------------------------------------------------------------------- preprocessing


def test_overrides_change_single_settings(here):
    spec = digits(
        mean=(0.1, 0.2, 0.3), std=[1, 2, 3], crop_pct=0.8, interpolation="bilinear"
    ).manifest.preprocess
    assert spec.mean == (0.1, 0.2, 0.3)
    assert spec.std == (1.0, 2.0, 3.0)
    assert (spec.crop_pct, spec.interpolation) == (0.8, "bilinear")
    assert spec.crop_mode == "center"


def test_a_json_file_sets_all(here):
    (here / "pre.json").write_text(json.dumps({"crop_pct": 0.7, "crop_mode": "squash"}))
    manifest = digits(preprocess=here / "pre.json", crop_pct=0.6).manifest
    assert manifest.preprocess.crop_mode == "squash"
    assert manifest.preprocess.crop_pct == 0.6
    assert manifest.preprocess.image_size == (96, 96)
    assert manifest.assumed == ()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"crop": 1}', '{"image_size": [32, 32]}', '{"mean": 3}', '{"std": [0, 1, 1]}'],
)
def test_a_json_file_that_is_not_as_it_should_be(here, text):
    (here / "pre.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        digits(preprocess="pre.json")
    one_line(caught)
    assert names_in(here) == ["pre.json"]


def test_what_nothing_states_is_recorded_as_assumed(here, checkpoint):
    manifest = export(ExportOptions(checkpoint=checkpoint(), image_size=96)).manifest
    assert any(text.startswith("preprocessing: the defaults of timm") for text in manifest.assumed)
    assert any(text.startswith("activation hard_swish") for text in manifest.assumed)
    assert manifest.variant == "levit_custom"


def test_a_named_flavour_is_no_assumption(here, checkpoint):
    options = ExportOptions(checkpoint=checkpoint(), image_size=96, preprocess="timm")
    assert not any("preprocessing" in text for text in export(options).manifest.assumed)


def test_five_channels_have_no_preprocessing(here, checkpoint, make_small):
    path = checkpoint("five_channels")
    size = make_small("five_channels").config.image_size
    artifact = export(ExportOptions(checkpoint=path, image_size=size))
    assert artifact.manifest.preprocess is None
    assert artifact.manifest.verification["status"] == "passed"
    assert "levit.preprocess" not in {e.key for e in onnx.load(artifact.payload).metadata_props}
    with pytest.raises(ConfigError, match="of one or three channels"):
        export(ExportOptions(checkpoint=path, image_size=size, input="uint8", force=True))


# ---------------------------------------------------------------------------- sources


def test_a_custom_config_with_random_weights(here, config):
    artifact = small_export(config)
    manifest = artifact.manifest
    assert artifact.path.name == "my_levit-onnx-fp32"
    assert manifest.variant == "my_levit"
    assert manifest.source == {"format": "random", "seed": 1}
    assert manifest.config["image_size"] == [64, 48]
    assert manifest.outputs[0].shape == ("batch", 4)
    # Random weights are worth comparing: the golden answers differ.
    logits = artifact.golden()["output/logits"]
    assert np.ptp(logits, axis=0).max() > 0.05 * np.abs(logits).max()


def test_random_weights_repeat_by_seed(here, config):
    payloads = [
        export(ExportOptions(random_weights=s, config=config(), output=f"{i}")).payload.read_bytes()
        for i, s in enumerate((1, 1, 2))
    ]
    assert payloads[0] == payloads[1] != payloads[2]


def test_random_weights_of_a_variant_at_another_size(here):
    options = ExportOptions(
        model="facebook/levit-128S", random_weights=0, image_size=(64, 96), verify="none"
    )
    artifact = export(options)
    assert artifact.path.name == "levit_128s-onnx-fp32"
    assert artifact.manifest.inputs[0].shape == ("batch", 3, 64, 96)


def test_image_size_and_classes_from_a_config_beside_random_weights(here):
    path = here / "c.json"
    path.write_text(json.dumps({"img_size": 64, "num_classes": 3}))
    source = load_source(ExportOptions(model="levit_128s", random_weights=0, config=path))
    assert source.model.config.image_size == (64, 64)
    assert source.model.config.num_classes == 3


def test_a_checkpoint_that_contradicts_its_name(here, checkpoint):
    with pytest.raises(CheckpointError, match="is not a levit_256"):
        export(ExportOptions(checkpoint=checkpoint(), model="levit_256", image_size=96))


def test_a_config_that_contradicts_the_classes(here, checkpoint):
    path = here / "c.json"
    path.write_text(json.dumps({"num_classes": 11, "img_size": 96}))
    with pytest.raises(ConfigError, match=r"10 classes, --config .*c\.json says 11: correct that$"):
        export(ExportOptions(checkpoint=checkpoint(), config=path))


def test_an_image_size_by_flag_overrules_the_config(here, checkpoint):
    path = checkpoint()
    (path.parent / "config.json").write_text(json.dumps({"img_size": 512}))
    with pytest.raises(ConfigError, match=r"not 512x512 as .*config\.json says"):
        load_source(ExportOptions(checkpoint=path))
    source = load_source(ExportOptions(checkpoint=path, image_size=96))
    assert source.model.config.image_size == (96, 96)


def test_without_the_hub_there_is_one_clear_line(tmp_path):
    asked = (
        dict(model="levit_128s"),
        dict(model="timm/levit_conv_384.fb_dist_in1k"),
        dict(checkpoint="hf:timm/levit_256.fb_dist_in1k@main"),
        dict(checkpoint="hf:nobody/nothing"),
        dict(checkpoint="hf:not a name"),
    )
    program = (
        "from levit.export import ExportOptions, export\n"
        "from levit.errors import CheckpointError\n"
        f"for options in {asked!r}:\n"
        "    try: export(ExportOptions(**options))\n"
        "    except CheckpointError as error: print(error)\n"
    )
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_CACHE": str(tmp_path / "hub"),
    }  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=True,
    )  # fmt: skip
    lines = found.stdout.strip().splitlines()
    assert len(lines) == len(asked), found.stdout
    for line in lines:
        assert line.startswith("hf:")
        assert "--checkpoint PATH" in line or "not a repository name" in line
    assert [p.name for p in tmp_path.iterdir() if "levit" in p.name] == []


# ---------------------------------------------------------------------------- choices alone


def test_choices_follow_from_the_source():
    source = load_source(ExportOptions(model="levit_digits"))
    options = ExportOptions(model="levit_digits")
    assert choose_outputs(options, source.model) == ("logits",)
    assert choose_labels(options, source) == (tuple("0123456789"), ())
    spec, assumed = choose_preprocess(options, source)
    assert assumed == ()
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.5,) * 3)
    headless = load_source(ExportOptions(model="levit_digits"))
    model = replace(headless.model, config=replace(headless.model.config, num_classes=0))
    assert choose_outputs(options, model) == ("embedding",)
    assert FAMILIES["levit"].outputs(model.config) == ("embedding", "features")


# ---------------------------------------------------------------------------- dump_passes


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_dump_passes_writes_a_graph_per_pass_and_a_table(here, kind):
    digits(dump_passes=here / "passes", input=kind)
    table = json.loads((here / "passes" / "passes.json").read_text())
    levits = [f.__name__ for f in PASSES if f.__module__ != "levit.export.passes.transformer"]
    assert [row["pass"] for row in table] == ["as_trained", *levits]
    assert [row["file"] for row in table] == [
        f"{i:02}_{row['pass']}.onnx" for i, row in enumerate(table)
    ]
    assert sorted([row["file"] for row in table] + ["passes.json"]) == names_in(here / "passes")
    for row in table:
        proto = onnx.load(here / "passes" / row["file"])
        onnx.checker.check_model(proto, full_check=True)
        assert row["relative_difference"] <= 1e-12
    assert table[0]["count"] == 0
    assert table[1]["count"] == 4 + 6 * 8 + 2
    nodes = [len(onnx.load(here / "passes" / row["file"]).graph.node) for row in table]
    assert nodes[-1] < nodes[0]


def test_dump_passes_into_a_file_is_an_error(here):
    (here / "passes").write_text("text")
    with pytest.raises(ArtifactError, match="passes: cannot be written"):
        digits(dump_passes=here / "passes")


def test_options_hold_plain_numbers_whatever_kinds_came_in():
    options = ExportOptions(
        model="levit_digits",
        batch=[np.int64(1), 2, 3],
        image_size=np.int64(96),
        crop_pct=np.float32(0.5),
        mean=np.zeros(3),
        outputs="logits, embedding",
    )
    assert (options.batch, options.image_size, options.crop_pct) == ((1, 2, 3), (96, 96), 0.5)
    assert (options.mean, options.outputs) == ((0.0, 0.0, 0.0), ("logits", "embedding"))
    assert ExportOptions(batch=np.int64(4)).static_batch == 4


def test_what_lies_beside_an_artifact_is_not_deleted_by_force(here):
    digits(output="out")
    (here / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"holds notes\.txt beside the artifact"):
        digits(output="out", force=True)
    assert (here / "out" / "notes.txt").read_text() == "mine"
    assert open_artifact(here / "out")


def test_passes_that_cannot_be_dumped_leave_no_artifact(here):
    (here / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="file: cannot be written"):
        digits(output="out", dump_passes="file")
    assert names_in(here) == ["file"]
