"""predict, eval, inspect, check and int8 of models whose scores are no softmax."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from levit import Predictor
from levit.artifact import MANIFEST_FILE
from levit.export import ExportOptions, export
from levit.models.levit.config import levit_config
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES
from levit.runtime.cpus import cpu_features, cpu_precisions
from levit.runtime.prediction import sigmoid

REDUCED = () if cpu_precisions(cpu_features())["int8"] else ("--reduce-range",)
NAMES = [f"thing {index}" for index in range(10)]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """The digits' network as a multi-label model."""
    folder = tmp_path_factory.mktemp("artifacts") / "tagger"
    export(ExportOptions(model="levit_digits", scores="sigmoid", labels=NAMES, output=folder))
    return folder


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """The same as a regression of ten values."""
    folder = tmp_path_factory.mktemp("artifacts") / "values"
    export(ExportOptions(model="levit_digits", scores="none", labels=NAMES, output=folder))
    return folder


@pytest.fixture(scope="module")
def binary(tmp_path_factory, digits, seed):
    """(labels, …) → an artifact of one logit, half of whose answers to the digits are yes."""
    place = tmp_path_factory.mktemp("binary")
    config = levit_config(
        widths=(32,), key_dim=8, heads=(3,), depths=(1,), num_classes=1, image_size=(48, 48)
    )
    levit = FAMILIES["levit"]
    state = dict(flatten(random_model(levit, config, seed), levit.keymaps[0]))
    bias = next(n for n in state if n.startswith("head") and n.endswith("linear.bias"))

    def write(name, **options):
        save_file(state, place / "model.safetensors")
        options |= {"checkpoint": place / "model.safetensors", "image_size": 48}
        export(ExportOptions(**options, output=place / name))
        return place / name

    first = write("first")
    with Predictor(first) as predictor:
        batch = predictor.preprocess(sorted(digits.glob("*/*0.png")))
        state[bias] = state[bias] - np.median(predictor.forward(batch)["logits"])

    def make(*labels):
        folder = place / "-".join(("with", *labels))
        return folder if folder.exists() else write(folder.name, labels=labels or None)

    return make


def error_of(result):
    assert result.status == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def logits_of(folder, paths):
    with Predictor(folder) as predictor:
        return predictor.forward(predictor.preprocess(paths))["logits"].astype(np.float64)


# ------------------------------------------------------------------ predict


def test_predict_of_a_sigmoid(levit, tagger, digit):
    (entry,) = json.loads(levit("predict", tagger, digit, "--top-k", 3, "--json").stdout)
    exact = sigmoid(logits_of(tagger, [digit]))[0]
    assert (entry["scores"], len(entry["top"])) == ("sigmoid", 3)
    for found, index in zip(entry["top"], np.argsort(-exact), strict=False):
        assert (found["label"], found["index"]) == (NAMES[index], index)
        assert found["score"] == pytest.approx(exact[index], abs=1e-6)


@pytest.mark.parametrize("threshold", ["0", "0.3", "0.5", "0.9999"])
def test_predict_names_every_class_above_a_threshold(levit, tagger, digit, threshold):
    exact = sigmoid(logits_of(tagger, [digit]))[0]
    expected = [int(i) for i in np.argsort(-exact) if exact[i] >= float(threshold)]
    words = ("predict", tagger, digit, "--top-k", 1, "--threshold", threshold)
    (entry,) = json.loads(levit(*words, "--json").stdout)
    assert (entry["scores"], entry["threshold"]) == ("sigmoid", float(threshold))
    assert [found["index"] for found in entry["above"]] == expected
    line = levit(*words).stdout
    shown = ", ".join(f"{NAMES[i]} {exact[i]:.1%}" for i in expected)
    assert line == f"{digit}: {shown or 'none of 10 at 100.0% or more'}\n"


@pytest.mark.parametrize("scores", ["softmax", "none"])
def test_a_threshold_is_for_a_sigmoid(levit, tiny_artifact, values, digit, scores):
    artifact = values if scores == "none" else tiny_artifact
    result = levit("predict", artifact, digit, "--threshold", 0.5)
    assert f"the scores of this one are '{scores}'" in error_of(result)
    assert levit("predict", artifact, digit, "--threshold", 1.5).status == 2


def test_predict_of_values(levit, values, digit):
    (exact,) = logits_of(values, [digit])
    (entry,) = json.loads(levit("predict", values, digit, "--top-k", 2, "--json").stdout)
    assert entry["scores"] == "none"
    assert [found["value"] for found in entry["values"]] == exact.tolist()
    assert [found["label"] for found in entry["values"]] == NAMES
    line = levit("predict", values, digit, "--top-k", 2).stdout
    assert line.startswith(f"{digit}: thing 0 {exact[0]:.6g}, thing 1 ")


def test_inspect_and_check_say_it(levit, tagger, values, tiny_artifact):
    for folder, scores in ((tagger, "sigmoid"), (values, "none"), (tiny_artifact, "softmax")):
        rows = [line.split() for line in levit("inspect", folder).stdout.splitlines()]
        assert ["scores", scores] in rows
        assert ("top-1" in levit("check", folder).stdout) is (scores == "softmax")
    result = levit("inspect", "levit/data/levit_digits/model.safetensors", "--json")
    assert json.loads(result.stdout)["scores"] == "softmax"


# ------------------------------------------------------------------ eval


@pytest.fixture
def truth(digits, tmp_path, rng):
    """(paths, a file of labels, (N, 10) 0 and 1): the digit, but not always, and others."""
    paths = [path for place in sorted(digits.iterdir()) for path in sorted(place.iterdir())[:4]]
    held = rng.random((len(paths), 10)) < 0.1
    for row, path in zip(held, paths, strict=True):
        row[int(path.parent.name)] = rng.random() < 0.8
    held[:, 4] = False  # a class that no picture has
    lines = [
        f"{path.relative_to(digits)},{';'.join(NAMES[i] for i in np.flatnonzero(row))}"
        for path, row in zip(paths, held, strict=True)
    ]
    file = tmp_path / "truth.csv"
    file.write_text("\n".join(["image,labels", *lines]) + "\n")
    return paths, file, held


def test_eval_of_a_sigmoid_is_scikit_learns_mean_average_precision(levit, tagger, digits, truth):
    metrics = pytest.importorskip("sklearn.metrics")
    paths, file, held = truth
    scores = sigmoid(logits_of(tagger, paths))
    result = levit("eval", tagger, digits, "--labels", file, "--json")
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert set(report) == {"images", "mean_average_precision", "classes", "images_per_second"}
    assert report["images"] == 40
    there = [index for index in range(10) if held[:, index].any()]
    exact = [metrics.average_precision_score(held[:, i], scores[:, i]) for i in there]
    assert report["mean_average_precision"] == pytest.approx(np.mean(exact), abs=1e-9)
    for entry, column in zip(report["classes"], held.T, strict=True):
        assert entry["images"] == column.sum()
        assert (entry["label"] == NAMES[4]) is (entry["f1"] is None)
        if entry["f1"] is None:
            assert (entry["average_precision"], entry["threshold"]) == (None, None)
            continue
        found = scores[:, entry["index"]]
        best = max(metrics.f1_score(column, found >= t) for t in found)
        assert entry["f1"] == pytest.approx(best)
        assert metrics.f1_score(column, found >= entry["threshold"] - 1e-9) == pytest.approx(best)


def test_eval_of_a_sigmoid_is_a_table(levit, tagger, digits, truth):
    result = levit("eval", tagger, digits, "--labels", truth[1])
    assert "top-1" not in result.stdout
    assert "mean average precision" in result.stdout
    lines = result.stdout.splitlines()
    assert "average precision" in lines[lines.index("") + 1]
    assert len(lines[lines.index("") + 2 :]) == 10


def test_eval_of_values_is_the_mean_absolute_error(levit, values, digits, truth, tmp_path, rng):
    paths, _, _ = truth
    found = logits_of(values, paths)
    exact = found + rng.standard_normal(found.shape)
    file = tmp_path / "values.csv"
    order = rng.permutation(10)
    lines = [",".join(["image", *(NAMES[i] for i in order)])]
    for path, row in zip(paths, exact, strict=True):
        lines.append(
            ",".join([str(path.relative_to(digits)), *(repr(float(row[i])) for i in order)])
        )
    file.write_text("\n".join(lines))
    report = json.loads(levit("eval", values, digits, "--labels", file, "--json").stdout)
    assert [entry["mean_absolute_error"] for entry in report["outputs"]] == pytest.approx(
        np.abs(exact - found).mean(axis=0), rel=1e-5
    )
    assert "mean absolute error" in levit("eval", values, digits, "--labels", file).stdout


def test_eval_needs_labels_that_the_model_is_about(
    levit, tagger, values, tiny_artifact, digits, truth, tmp_path
):
    assert "--labels FILE.csv" in error_of(levit("eval", tagger, digits))
    assert "--labels FILE.csv" in error_of(levit("eval", values, digits))
    result = levit("eval", tiny_artifact, digits, "--labels", truth[1])
    assert "--labels is for models of several labels or values" in error_of(result)
    file = tmp_path / "empty.csv"
    file.write_text("image,labels\n3/0045.png,\n")
    assert "no image has a label" in error_of(levit("eval", tagger, digits, "--labels", file))
    file.write_text("image,labels\n3/0045.png,horse\n")
    result = levit("eval", tagger, digits, "--labels", file)
    assert "line 2: 'horse' is no label of this model" in error_of(result)


@pytest.fixture
def halves(digits, tmp_path):
    """(no, yes) → two folders with such names, of 20 pictures each."""

    def make(no, yes):
        place = tmp_path / f"{no}-{yes}"
        paths = sorted(digits.glob("*/*0.png"))
        for number, path in enumerate(paths[:40]):
            folder = place / (no if number % 2 else yes)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / f"{number}.png")
        return place

    return make


@pytest.mark.parametrize(
    ("labels", "no", "yes", "assumed"),
    [
        ((), "0", "1", ""),
        ((), "apple", "pear", "folders in sorted order are the classes in order"),
        (("dog",), "cat", "dog", "folder cat holds the images that are not dog"),
        (("dog",), "zebra", "dog", "folder zebra holds the images that are not dog"),
        (("dog",), "not dog", "dog", ""),
        (("dog",), "0", "1", ""),
        (("dog", "ant"), "dog", "ant", ""),
        (("dog", "ant"), "0", "1", ""),
    ],
)
def test_eval_of_one_logit_on_two_folders(levit, binary, halves, labels, no, yes, assumed):
    folder = halves(no, yes)
    result = levit("eval", binary(*labels), folder, "--json")
    paths = sorted(folder.glob("*/*.png"))
    right = (logits_of(binary(*labels), paths)[:, 0] >= 0) == [p.parent.name == yes for p in paths]
    report = json.loads(result.stdout)
    assert report["accuracy"] == pytest.approx(right.mean())
    assert report["images"] == len(paths) == 40
    assert [entry["label"] for entry in report["classes"]] == [labels[-1] if labels else "0"]
    assert result.stderr == (f"assumed: {assumed}\n" if assumed else "")


def test_eval_of_one_logit_is_the_same_from_a_file(levit, binary, halves, tmp_path):
    folder = halves("cat", "dog")
    paths = sorted(folder.glob("*/*.png"))
    file = tmp_path / "labels.csv"
    lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in paths]
    file.write_text("\n".join(["image,label", *lines]))
    expected = json.loads(levit("eval", binary("dog"), folder, "--json").stdout)
    report = json.loads(
        levit("eval", binary("cat", "dog"), folder, "--labels", file, "--json").stdout
    )
    del expected["images_per_second"], report["images_per_second"]
    assert report == expected


def test_one_logit_is_never_sure_of_every_picture(levit, binary, digits):
    result = levit("predict", binary("dog"), digits / "3", "--json")
    scores = [entry["top"][0]["score"] for entry in json.loads(result.stdout)]
    assert min(scores) < 0.5 < max(scores)


# ------------------------------------------------------------------ int8


@pytest.mark.parametrize(
    ("scores", "measure"), [("sigmoid", "decision_agreement"), ("none", "r_squared")]
)
def test_int8_is_judged_without_a_first_class(levit, digits, tmp_path, scores, measure):
    words = ("export", "--model", "levit_digits", "--scores", scores, "--precision", "int8")
    words += ("--calibration", digits, *REDUCED, "--output", tmp_path / "out")
    result = levit(*words)
    assert result.status == 0, result.stderr
    said = {"sigmoid": "decisions agree with float32's to 99", "none": "R² of 0.99"}[scores]
    assert f"accuracy: {said}" in result.stderr
    manifest = json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())
    accuracy = manifest["verification"]["accuracy"]
    assert (accuracy["verdict"], accuracy["images"], accuracy["top1"]) == ("passed", 540, None)
    assert 0.99 <= accuracy[measure] <= 1
    assert levit("check", tmp_path / "out").status == 0
    refused = levit(*words, "--force", "--eval", digits, "--max-drop", 2)
    assert f"which scores '{scores}' have none of" in error_of(refused)
