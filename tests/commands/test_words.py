"""`levit export` in the orders in which people type it: a word without a flag, several numbers."""

import json

import pytest

from levit.models.registry import digits_folder

HALF = ("--mean", "0.5", "0.5", "0.5")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.safetensors").symlink_to(digits_folder() / "model.safetensors")
    return "best.safetensors"


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    "words",
    [
        ("best.safetensors", *HALF, "--std", "0.25", "--output", "made"),
        (*HALF, "--std", "0.25", "--output", "made", "best.safetensors"),
        ("--output", "made", "best.safetensors", *HALF, "--std", "0.25"),
        ("--mean", "0.5,0.5,0.5", "--output", "made", "best.safetensors", "--std", "0.25"),
        ("best.safetensors", "--output", "made", "--std", "0.25,", "0.25", "--std", "0.25", *HALF),
        ("best.safetensors", "--mean", "0.5,", "0.5,", "0.5", "--std=0.25", "--output", "made"),
        ("--checkpoint", "best.safetensors", *HALF, "--std", "0.25", "--output", "made"),
    ],
    ids=" ".join,
)
def test_every_order_is_the_same_export(levit, weights, tmp_path, words):
    assert levit("export", *words, "--target", "onnx").status == 0
    spec = manifest(tmp_path / "made")["preprocess"]
    assert (spec["mean"], spec["std"]) == ([0.5] * 3, [0.25] * 3)


@pytest.mark.parametrize("word", ["levit_digits", "LeViT-digits"])
def test_a_name_is_a_model_as_inspect_takes_it(levit, weights, tmp_path, word):
    assert levit("export", word, "--output", "made").status == 0
    assert manifest(tmp_path / "made")["source"]["package"] == "levit"
    # A folder that is called so comes first.
    (tmp_path / word).mkdir()
    found = levit("export", word, "--output", "other")
    assert found.status == 1
    assert f"{word}:" in found.stderr


def test_a_folder_and_a_path_with_a_model(levit, weights, tmp_path):
    assert levit("export", digits_folder(), "--output", "made").status == 0
    found = levit("export", weights, "--model", "levit_128", "--output", "other")
    assert found.status == 1
    assert "levit_128" in found.stderr


def test_a_repository_is_asked_of_the_hub(levit, weights, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    found = levit("export", "hf:nobody/nothing")
    assert found.status == 1
    assert "hf:nobody/nothing" in found.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("best.safetensors", "--checkpoint", "best.safetensors"), "not allowed with"),
        (("--checkpoint", "best.safetensors", "best.safetensors"), "not allowed with"),
        (("best.safetensors", "--rebuild", "made"), "not allowed with argument PATH"),
        (("best.safetensors", "--random-weights", "1"), "not allowed with argument PATH"),
        (("best.safetensors", "last.safetensors"), "unrecognized arguments: last.safetensors"),
        ((*HALF, "best.safetensors"), "not best.safetensors; if that is the checkpoint, put it"),
        (("best.safetensors", "--mean"), "expected at least one argument"),
        (("best.safetensors", "--mean", "0.5,,0.5"), "expected numbers, not 0.5,,0.5"),
        (("best.safetensors", "--mean", ","), "expected numbers"),
        (("best.safetensors", "--image-mode", "I"), "write 'I;16'"),
        (("best.safetensors", "--image-mode", "grey"), "expected L, I;16, RGB, RGBA, not grey"),
    ],
    ids=str,
)
def test_a_mistake_is_a_usage_error_of_one_line(levit, weights, tmp_path, words, message):
    found = levit("export", *words)
    assert found.status == 2
    assert message in found.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("levit_digits", "--model", "levit_128"), "levit_digits and --model levit_128 both name"),
        (("best.safetensors", "--mean", "0.5", "0.5"), "mean has 2 values, and the model 3"),
        (("best.safetensors", "--image-mode", "L"), "take 'RGB'"),
        (("levit_digit",), "no such file"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_an_error_of_one_line(levit, weights, tmp_path, words, message):
    found = levit("export", *words)
    assert found.status == 1
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_image_modes_of_the_command_line_are_those_that_there_are():
    from levit.commands.values import image_mode
    from levit.pictures.modes import MODES

    assert [image_mode(mode) for mode in MODES] == list(MODES)
