import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit.artifact import GOLDEN_FILE, MANIFEST_FILE, open_artifact
from levit.errors import CorruptArtifactError, VerificationError
from levit.pictures.preprocess import normalize, to_pixels
from levit.pictures.reading import load_image
from levit.runtime.golden import GoldenReport, compare_outputs, run_golden
from levit.runtime.predictor import Predictor
from levit.runtime.sessions.ort import OrtSession


def change_golden(change):
    """A change for `tampered`: the arrays of golden.npz, through `change`."""

    def apply(folder, values):
        with np.load(folder / GOLDEN_FILE) as archive:
            arrays = {name: archive[name] for name in archive.files}
        change(arrays)
        np.savez(folder / GOLDEN_FILE, **arrays)

    return apply


def perturb(name, amount):
    def change(arrays):
        array = arrays[name].copy()
        array.flat[1] += amount * np.abs(array).max()
        arrays[name] = array

    return change_golden(change)


# ------------------------------------------------------------------ what the artifact holds


@pytest.fixture(params=["tiny_artifact", "embedding_artifact", "static_artifact", "uint8_artifact"])
def any_artifact(request):
    return request.getfixturevalue(request.param)


def test_artifact_reproduces_its_golden_cases_here(any_artifact):
    with Predictor(any_artifact, threads=1, prove=False) as predictor:
        report = predictor.check()
    assert report.passed
    assert report.cases >= 3
    assert 0 < report.max_relative_error < 1e-5
    assert report.tensor_error == 0.0
    assert report.top1_agreement == 1.0


def test_golden_images_lead_to_the_golden_tensors_and_ranking(any_artifact):
    artifact = open_artifact(any_artifact)
    golden, spec = artifact.golden(), artifact.manifest.preprocess
    images = [golden[name] for name in sorted(golden) if name.startswith("image/")]
    assert len(images) == len(golden["input"])
    for image, tensor in zip(images, golden["input"], strict=True):
        pixels = to_pixels(load_image(image.tobytes()), spec)
        expected = pixels if tensor.dtype == np.uint8 else normalize(pixels, spec)
        assert np.array_equal(tensor, expected)
    top1 = golden["output/logits"].argmax(-1)
    assert np.array_equal(golden["top5"][:, 0], top1)
    # Cases that all look alike to the network would prove little.
    logits = golden["output/logits"]
    assert np.ptp(logits, axis=0).max() > 0.05 * np.abs(logits).max()


# ------------------------------------------------------------------ what must fail


@pytest.mark.parametrize("amount", [1e-3, -1e-3, 0.5, np.nan, np.inf])
@pytest.mark.parametrize("name", ["output/logits", "output/embedding"])
def test_perturbed_reference_fails(tampered, embedding_artifact, name, amount):
    folder = tampered(perturb(name, amount), embedding_artifact)
    with Predictor(folder, threads=1, prove=False) as predictor:
        report = predictor.check()
    assert not report.passed
    assert report.max_relative_error > 5e-4


@pytest.mark.parametrize("name", ["input", "output/logits"])
@pytest.mark.parametrize("bits", [0x7FA00000, 0x7FC00000, 0x7F800000, 0xFF800000])
def test_numbers_that_are_none_fail_without_a_warning(tampered, name, bits):
    # The first is a NaN that signals: NumPy warns where it is widened.
    def change(arrays):
        array = arrays[name].copy()
        array.view(np.uint32).flat[1] = bits
        arrays[name] = array

    with Predictor(tampered(change_golden(change)), threads=1, prove=False) as predictor:
        assert not predictor.check().passed


def test_perturbation_within_tolerance_passes(tampered):
    with Predictor(tampered(perturb("output/logits", 3e-5)), threads=1, prove=False) as predictor:
        report = predictor.check()
    assert report.passed
    assert report.max_relative_error == pytest.approx(3e-5, rel=0.1)


def restate(folder, values):
    """Make the network say what its manifest says of preprocessing, as a forger would."""
    model = onnx.load(folder / "model.onnx")
    for entry in model.metadata_props:
        if entry.key == "levit.preprocess":
            entry.value = json.dumps(values["preprocess"])
    onnx.save(model, folder / "model.onnx")


def test_changed_preprocessing_fails_even_where_the_network_agrees(tampered):
    def change(folder, values):
        values["preprocess"]["interpolation"] = "bilinear"
        restate(folder, values)

    with Predictor(tampered(change), threads=1, prove=False) as predictor:
        report = predictor.check()
    assert report.max_relative_error < 1e-5
    assert report.tensor_error > 1e-3
    assert not report.passed


@pytest.mark.parametrize("name", ["input", "output/logits", "top5", "image/0"])
def test_incomplete_golden_is_corrupt(tampered, name):
    def change(folder, values):
        change_golden(lambda arrays: arrays.pop(name))(folder, values)

    with (
        Predictor(tampered(change), threads=1, prove=False) as predictor,
        pytest.raises(CorruptArtifactError, match="incomplete"),
    ):
        predictor.check()


def test_golden_without_any_reference_proves_nothing(tampered):
    folder = tampered(change_golden(lambda arrays: arrays.pop("output/logits")))
    with (
        Predictor(folder, threads=1, prove=False) as predictor,
        pytest.raises(CorruptArtifactError, match="incomplete"),
    ):
        predictor.check()


def test_golden_without_any_case_proves_nothing(tampered):
    def change(arrays):
        for name in list(arrays):
            if name.startswith("image/"):
                del arrays[name]
            else:
                arrays[name] = arrays[name][:0]

    with (
        Predictor(tampered(change_golden(change)), threads=1, prove=False) as predictor,
        pytest.raises(CorruptArtifactError, match="incomplete"),
    ):
        predictor.check()


@pytest.mark.parametrize("tolerance", [float("nan"), -1.0])
def test_tolerance_that_is_none_never_passes(tiny_artifact, tolerance):
    artifact = open_artifact(tiny_artifact)
    manifest = replace(
        artifact.manifest, verification={**artifact.manifest.verification, "tolerance": tolerance}
    )
    golden = artifact.golden()
    report = run_golden(manifest, golden, lambda batch: {"logits": golden["output/logits"]})
    assert report.max_relative_error == 0.0
    assert not report.passed


# ------------------------------------------------------------------ compare_outputs


def logits(*rows):
    return {"logits": np.array(rows, np.float32)}


def test_equal_outputs_have_no_error():
    assert compare_outputs(logits([1, 2]), logits([1, 2])) == (0.0, 0.0, 1.0)


def test_error_is_relative_to_the_largest_reference():
    relative, absolute, agreement = compare_outputs(logits([1, 10.5]), logits([1, 10]))
    assert (relative, absolute, agreement) == (pytest.approx(0.05), pytest.approx(0.5), 1.0)


def test_worst_output_counts():
    found = logits([1.0, 2.0]) | {"embedding": np.array([[5.0]], np.float32)}
    expected = logits([1.0, 2.0]) | {"embedding": np.array([[4.0]], np.float32)}
    assert compare_outputs(found, expected)[:2] == (0.25, 1.0)


def test_top1_agreement_is_a_fraction():
    found, expected = logits([1, 2], [2, 1], [1, 2]), logits([1, 2], [1, 2], [1, 2])
    assert compare_outputs(found, expected)[2] == pytest.approx(2 / 3)
    only = {"embedding": np.ones((1, 3), np.float32)}
    assert compare_outputs(only, only)[2] is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["found", "expected", "both"])
def test_values_that_are_not_finite_are_an_infinite_error(value, side):
    good, bad = logits([1, 2]), logits([1, value])
    found = good if side == "expected" else bad
    expected = good if side == "found" else bad
    with np.errstate(invalid="ignore"):
        assert compare_outputs(found, expected) == (np.inf, np.inf, 0.0)


def test_missing_output_or_other_shape_is_an_infinite_error():
    expected = logits([1, 2])
    assert compare_outputs({}, expected) == (np.inf, np.inf, 0.0)
    assert compare_outputs(logits([1, 2], [1, 2]), expected) == (np.inf, np.inf, 0.0)
    assert compare_outputs(logits([1, 2, 3]), expected) == (np.inf, np.inf, 0.0)


def test_half_precision_outputs_are_compared_in_double():
    found = {"logits": np.array([[60000]], np.float16)}
    expected = {"logits": np.array([[-60000]], np.float16)}
    assert compare_outputs(found, expected)[0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"max_relative_error": 1e-4}, True),
        ({"max_relative_error": 1.1e-4}, False),
        ({"max_relative_error": np.nan}, False),
        ({"max_relative_error": np.inf}, False),
        ({"top1_agreement": None}, True),
        ({"top1_agreement": 0.9}, True),
        ({"tensor_error": None}, True),
        ({"tensor_error": 1e-2}, True),
        ({"tensor_error": 1.1e-2}, False),
        ({"tensor_error": np.nan}, False),
    ],
    ids=str,
)
def test_report_passes_only_when_everything_does(change, passed):
    good = GoldenReport(
        cases=3,
        max_relative_error=1e-6,
        max_abs_error=1e-6,
        top1_agreement=1.0,
        tensor_error=0.0,
        tolerance=1e-4,
        tensor_tolerance=1e-2,
    )
    assert replace(good, **change).passed is passed


@given(
    st.integers(2, 6),
    st.floats(1e-6, 0.4),
    st.integers(0, 2**32 - 1),
)
def test_a_first_class_beyond_twice_the_tolerance_cannot_change_within_it(classes, tolerance, seed):
    """Which is why the error alone decides: the worst that the tolerance lets through."""
    rng = np.random.default_rng(seed)
    expected = rng.uniform(-1, 1, (1, classes))
    scale = np.abs(expected).max()
    first = expected[0].argmax()
    found = expected + tolerance * scale
    found[0, first] = expected[0, first] - tolerance * scale
    margin = expected[0, first] - np.max(np.delete(expected[0], first))
    unsure = margin <= 2 * tolerance * scale * (1 + 1e-12)
    assert found[0].argmax() == first or unsure
    error, _, agreement = compare_outputs({"logits": found}, {"logits": expected})
    assert error <= tolerance * (1 + 1e-9)
    assert agreement == float(found[0].argmax() == first)


# ------------------------------------------------------------------ the check on an unseen CPU


@pytest.fixture
def count_checks(monkeypatch):
    """The number of golden runs so far, as a list."""
    runs = []
    check = Predictor.check

    def counted(self):
        runs.append(self.path)
        return check(self)

    monkeypatch.setattr(Predictor, "check", counted)
    return runs


def test_known_cpu_class_opens_without_a_check(tiny_artifact, count_checks):
    Predictor(tiny_artifact, threads=1).close()
    assert count_checks == []


def test_unseen_cpu_class_is_checked_once_and_answers(
    tiny_artifact, digit_paths, count_checks, monkeypatch
):
    monkeypatch.setattr(OrtSession, "machine_class", "linux-riscv-00000000")
    with Predictor(tiny_artifact, threads=1) as predictor:
        assert predictor(digit_paths[0]).label
        predictor.predict(digit_paths[:9])
    assert len(count_checks) == 1


def test_unseen_cpu_class_with_wrong_answers_is_a_verification_error(tampered, monkeypatch):
    folder = tampered(perturb("output/logits", 0.01))
    Predictor(folder, threads=1).close()  # the class that it was made on is trusted
    monkeypatch.setattr(OrtSession, "machine_class", "linux-riscv-00000000")
    with pytest.raises(VerificationError, match=r"linux-riscv-00000000.*allowed is 1\.0e-04"):
        Predictor(folder, threads=1)
    Predictor(folder, threads=1, prove=False).close()


def test_wrong_weights_are_found_on_an_unseen_cpu_class(tampered, make_artifact, monkeypatch):
    # Another network in the right clothes: every hash is right, and the answers are not.
    other = make_artifact("random", random_weights=11)

    def change(folder, values):
        (folder / "model.onnx").write_bytes((other / "model.onnx").read_bytes())
        restate(folder, values)

    folder = tampered(change)
    monkeypatch.setattr(OrtSession, "machine_class", "linux-riscv-00000000")
    with pytest.raises(VerificationError, match="golden cases are off"):
        Predictor(folder, threads=1)


def test_unverified_artifact_is_checked_wherever_it_is_opened(make_artifact, count_checks):
    folder = make_artifact("unverified", verify="none")
    values = json.loads((folder / MANIFEST_FILE).read_text())
    assert values["verification"]["status"] == "unverified"
    count_checks.clear()
    Predictor(folder, threads=1).close()
    assert count_checks == [folder]
