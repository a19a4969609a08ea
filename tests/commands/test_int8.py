"""``levit export --precision int8``: written if it keeps the accuracy, else one line."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from levit import Predictor
from levit.artifact import MANIFEST_FILE
from levit.export import write as writing
from levit.runtime.cpus import cpu_features, cpu_precisions
from levit.runtime.openvino_module import openvino_core

REDUCED = () if cpu_precisions(cpu_features())["int8"] else ("--reduce-range",)


@pytest.fixture(scope="module")
def hundred(digits, tmp_path_factory):
    """Ten pictures of each digit."""
    folder = tmp_path_factory.mktemp("photos") / "hundred"
    for place in sorted(digits.iterdir()):
        (folder / place.name).mkdir(parents=True)
        for path in sorted(place.iterdir())[:10]:
            shutil.copy(path, folder / place.name)
    return folder


@pytest.fixture
def enough(monkeypatch):
    """A hundred pictures can tell, so that not every test takes five times as many."""
    monkeypatch.setattr("levit.export.contract.MIN_UNLABELLED", 100)


@pytest.fixture
def export(levit, hundred, tmp_path):
    """(*words) → the command, into ``out``."""

    def run(*words, calibration=hundred, target="onnx"):
        return levit(
            *("export", "--model", "levit_digits", "--precision", "int8", "--target", target),
            *("--calibration", calibration, "--output", tmp_path / "out", *REDUCED, *words),
        )

    return run


def manifest_of(folder):
    return json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))


@pytest.mark.parametrize("target", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_digits_keep_their_accuracy(levit, export, digits, tmp_path, target):
    result = export("--eval", digits, "--max-drop", 2, target=target)
    assert result.status == 0, result.stderr
    assert "accuracy: top-1 9" in result.stderr
    manifest = manifest_of(tmp_path / "out")
    accuracy = manifest["verification"]["accuracy"]
    assert accuracy["verdict"] == "passed"
    assert accuracy["images"] == 540
    assert accuracy["needed_images"] == 500
    assert accuracy["top1_drop"] <= 0.5
    assert accuracy["kept_in_floating_point"] == []
    assert manifest["verification"]["status"] == "passed"
    assert manifest["calibration"]["of"] == 100
    quantized = manifest["passes"][-1]
    assert (quantized["name"], quantized["count"]) == ("quantize", len(quantized["layers"]))
    report = levit("eval", tmp_path / "out", digits, "--json")
    assert json.loads(report.stdout)["top1"] == pytest.approx(accuracy["top1"])
    assert levit("check", tmp_path / "out").status == 0
    assert "passed on 540 images" in levit("inspect", tmp_path / "out").stdout


def test_without_labels_first_classes_must_be_float32s(export, digits, tmp_path):
    result = export(calibration=digits)
    assert result.status == 0, result.stderr
    assert "accuracy: top-1 as float32's for" in result.stderr
    accuracy = manifest_of(tmp_path / "out")["verification"]["accuracy"]
    assert accuracy["top1_agreement"] >= 0.99


@pytest.mark.slow
def test_the_manifest_says_what_the_cpu_must_have(enough, export, tmp_path):
    assert export().status == 0
    features = manifest_of(tmp_path / "out")["requirements"]["cpu_features"]
    assert features == ([] if REDUCED else ["avx512_vnni", "avx_vnni", "amx_int8"])


@pytest.mark.slow
def test_openvino_multiplies_integers_in_every_layer(enough, export, tmp_path):
    assert export(target="openvino").status == 0
    compiled = openvino_core().compile_model(tmp_path / "out" / "model.xml", "CPU")
    kernels = [
        told["primitiveType"].astype(str).lower()
        for told in (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
        if told["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul")
        or "Quantized" in told["layerType"].astype(str)
    ]
    integers = [kernel for kernel in kernels if kernel.endswith("i8")]
    assert len(integers) == len(manifest_of(tmp_path / "out")["passes"][-1]["layers"])


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_beside_the_integers_is_bfloat16_where_that_is_fast(
    enough, export, tmp_path, monkeypatch, fast
):
    if fast and not cpu_precisions(cpu_features())["bf16"]:
        pytest.skip("this CPU has no bfloat16")
    assert export(target="openvino").status == 0
    monkeypatch.setattr("levit.runtime.sessions.openvino.is_bf16_fast", lambda: fast)
    with Predictor(tmp_path / "out", prove=False) as predictor:
        (network,) = predictor._session._networks.values()
        hint = network.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert hint in (("bf16", "bfloat16") if fast else ("f32", "float32"))


@pytest.mark.slow
@pytest.mark.trt_rtx
def test_an_engine_is_judged_on_the_graph_it_was_built_from(enough, export, tmp_path):
    result = export(target="trt-rtx")
    assert result.status == 0, result.stderr
    manifest = manifest_of(tmp_path / "out")
    assert manifest["verification"]["accuracy"]["verdict"] == "passed"
    entry = manifest["passes"][-1]
    assert (entry["activations"], entry["beside"]) == ("int8, symmetric", "fp16")


def test_few_images_cannot_tell(export, few, tmp_path):
    result = export("--eval", few("0123456789"))
    assert result.status == 1
    assert "40 images cannot tell whether int8 keeps the accuracy, it takes 1000" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_force_writes_it_and_the_manifest_says_so(export, few, tmp_path):
    result = export("--eval", few("0123456789"), "--force")
    assert result.status == 0, result.stderr
    verification = manifest_of(tmp_path / "out")["verification"]
    assert verification["status"] == "forced"
    assert verification["accuracy"]["verdict"] == "cannot tell"


def test_fp16_is_under_the_same_contract(levit, digits, few, tmp_path):
    words = ("export", "--model", "levit_digits", "--precision", "fp16", "--output", tmp_path / "o")
    refused = levit(*words, "--eval", few("0123456789"))
    assert (refused.status, "cannot tell whether fp16" in refused.stderr) == (1, True)
    assert not (tmp_path / "o").exists()
    assert levit(*words, "--eval", digits, "--max-drop", 2).status == 0
    assert manifest_of(tmp_path / "o")["verification"]["accuracy"]["verdict"] == "passed"


@pytest.mark.trt_rtx
def test_what_nothing_here_can_judge_is_refused(levit, digits, tmp_path):
    """ONNX Runtime has no bfloat16 on the CPU, and there is no GPU: neither engine nor graph."""
    words = ("--precision", "bf16", "--target", "trt-rtx", "--eval", digits)
    words += ("--max-drop", 2)
    result = levit("export", "--model", "levit_digits", "--output", tmp_path / "out", *words)
    refused(result, tmp_path, "runs neither the engine nor its graph")


def spoiled(attempt, name):
    """One of its layers made useless."""
    from dataclasses import replace

    from levit.models.layers import Affine, transform

    def change(found, layer):
        return replace(layer, weight=layer.weight * 0) if found == name else layer

    params, _ = transform(attempt.model.params, Affine, change)
    return replace(attempt, model=replace(attempt.model, params=params))


@pytest.mark.slow
def test_what_hurts_is_named_and_kept_in_floating_point(enough, export, tmp_path, monkeypatch):
    """A layer that integers ruin; the artifact that passes has it in float32."""
    import levit.export.quantization.compiler as compiler

    worst = "stem.1"
    quantize = compiler.quantize

    def ruined(*arguments, **options):
        model, description = quantize(*arguments, **options)
        attempt = compiler.Attempt(model=model, quantization=description)
        return spoiled(attempt, worst).model, description

    monkeypatch.setattr(compiler, "quantize", ruined)
    result = export()
    assert result.status == 0, result.stderr
    assert "int8 throughout does not keep the accuracy" in result.stderr
    assert worst in result.stderr
    manifest = manifest_of(tmp_path / "out")
    accuracy = manifest["verification"]["accuracy"]
    assert accuracy["kept_in_floating_point"][0] == worst
    assert accuracy["verdict"] == "passed"
    assert accuracy["without_them"]["verdict"] == "failed"
    assert worst not in manifest["passes"][-1]["layers"]
    with Predictor(tmp_path / "out") as predictor:
        assert predictor.check().passed


@pytest.mark.slow
def test_where_nothing_passes_nothing_is_written(enough, export, tmp_path, monkeypatch):
    import levit.export.quantization.compiler as compiler

    attempts = compiler.Quantizer.attempts

    def ruined(*arguments, **options):
        return (spoiled(attempt, "stem.1") for attempt in attempts(*arguments, **options))

    monkeypatch.setattr(compiler.Quantizer, "attempts", ruined)
    result = export()
    assert result.status == 1
    assert "int8 does not keep the accuracy" in result.stderr
    assert "what hurts most: " in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_force_keeps_what_fails_only_where_nothing_passes(enough, export, tmp_path, monkeypatch):
    """It is what replaces a folder too: an export that can be right is."""
    import levit.export.quantization.compiler as compiler

    assert export().status == 0
    quantize = compiler.quantize

    def ruined(*arguments, **options):
        model, description = quantize(*arguments, **options)
        attempt = compiler.Attempt(model=model, quantization=description)
        return spoiled(attempt, "stem.1").model, description

    monkeypatch.setattr(compiler, "quantize", ruined)
    assert export("--force").status == 0
    verification = manifest_of(tmp_path / "out")["verification"]
    assert verification["status"] == "passed"
    assert verification["accuracy"]["kept_in_floating_point"][0] == "stem.1"

    attempts = compiler.Quantizer.attempts

    def hopeless(*arguments, **options):
        return (spoiled(attempt, "stem.2") for attempt in attempts(*arguments, **options))

    monkeypatch.setattr(compiler.Quantizer, "attempts", hopeless)
    result = export("--force")
    assert result.status == 0, result.stderr
    assert "note: --force has kept an artifact whose int8 does not keep the accuracy" in (
        result.stderr
    )
    verification = manifest_of(tmp_path / "out")["verification"]
    assert verification["status"] == "forced"
    assert verification["accuracy"]["kept_in_floating_point"] == []  # the first of all attempts


@pytest.mark.slow
def test_an_attempt_out_of_tolerance_is_one_that_failed(enough, export, tmp_path, monkeypatch):
    from levit.errors import VerificationError

    verify, calls = writing.verify_artifact, []

    def strict(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise VerificationError("the artifact is off")
        return verify(*arguments)

    monkeypatch.setattr(writing, "verify_artifact", strict)
    result = export()
    assert result.status == 0, result.stderr
    assert len(calls) == 2
    assert len(manifest_of(tmp_path / "out")["verification"]["accuracy"]["kept_in_floating_point"])


@pytest.mark.slow
def test_what_is_judged_by_nobody_is_not_called_passed(levit, hundred, tmp_path):
    words = ("--model", "levit_digits", "--precision", "int8", "--calibration", hundred, *REDUCED)
    result = levit(
        "export", *words, "--outputs", "embedding", "--output", tmp_path / "o", "--force"
    )
    assert result.status == 0, result.stderr
    assert "whose answers nobody has judged" in result.stderr
    assert manifest_of(tmp_path / "o")["verification"]["status"] == "forced"
    assert "forced" in levit("check", tmp_path / "o").stdout


@pytest.mark.slow
def test_how_far_it_is_says_from_what(enough, export, levit, tmp_path):
    result = export()
    assert "from its integers exactly computed, and those " in result.stdout
    verification = manifest_of(tmp_path / "out")["verification"]
    assert 0 < verification["cost_of_integers"] < 0.2
    assert "with which it is calibrated" in result.stderr
    assert "passed, accuracy passed" in levit("check", tmp_path / "out").stdout


@pytest.mark.slow
def test_labels_of_another_model_are_no_judge(enough, export, digits, tmp_path):
    shutil.copytree(digits, tmp_path / "rotated" / "x")
    for place in sorted((tmp_path / "rotated" / "x").iterdir()):
        place.rename(tmp_path / "rotated" / str((int(place.name) + 1) % 10))
    shutil.rmtree(tmp_path / "rotated" / "x")
    result = export("--eval", tmp_path / "rotated", "--max-drop", 2)
    assert result.status == 1
    assert "which is chance" in result.stderr
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- bad input


def refused(result, tmp_path, said):
    assert result.status == 1
    (line,) = result.stderr.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_refused(export, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(export(calibration=tmp_path / "empty"), tmp_path, "no images in this folder")


def test_no_folder_is_refused(export, tmp_path):
    refused(export(calibration=tmp_path / "nowhere"), tmp_path, "no such folder")


def test_files_that_are_no_images_are_refused(export, few, tmp_path):
    folder = few("0123456789")
    (folder / "0" / "0.png").write_text("nothing")
    refused(export(calibration=folder), tmp_path, "0.png")


def test_one_image_is_refused(export, digit, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(digit, tmp_path / "one")
    refused(export(calibration=tmp_path / "one"), tmp_path, "1 pictures to calibrate with")


def test_identical_images_are_refused(export, tmp_path):
    (tmp_path / "same").mkdir()
    for i in range(12):
        Image.new("RGB", (40, 40), (9, 90, 200)).save(tmp_path / "same" / f"{i}.png")
    refused(export(calibration=tmp_path / "same"), tmp_path, "all the same to the network")


def test_labels_that_match_no_class_are_refused(export, few, tmp_path):
    folder = few(["cat", "dog"])
    refused(export("--eval", folder), tmp_path, "are no labels of this model")


def test_inputs_that_are_zero_everywhere_are_refused(export, tmp_path):
    np.savez(tmp_path / "x.npz", inputs=np.zeros((20, 3, 96, 96), np.float32))
    result = export(calibration=tmp_path / "x.npz")
    assert result.status == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--precision", "int8"), "name a folder of them with --calibration"),
        (("--calibration", "x"), "calibration is for precision 'int8'"),
        (("--reduce-range",), "reduce_range is for precision 'int8'"),
        (("--eval", "x"), "fp32 is what it is compared with"),
        (("--precision", "fp16", "--max-drop", "1"), "name them with --eval"),
        (("--precision", "fp16", "--eval", "x", "--max-drop", "0"), "from 0.01 up to 100"),
        (
            ("--precision", "int8", "--calibration", "x", "--verify", "none"),
            "leave out --verify none",
        ),
        (("--precision", "fp16", "--eval", "x", "--verify", "none"), "leave out --verify none"),
        (
            ("--precision", "int8", "--calibration", "x", "--outputs", "embedding"),
            "add logits to --outputs",
        ),
    ],
)
def test_options_that_do_not_go_together(levit, tmp_path, words, said):
    result = levit("export", "--model", "levit_digits", "--output", tmp_path / "out", *words)
    refused(result, tmp_path, said)
