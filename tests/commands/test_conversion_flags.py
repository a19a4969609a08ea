"""``--grey16`` and ``--background``, of an export and of a prediction."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from levit import Predictor
from levit.errors import ConfigError
from levit.models.registry import digits_folder

DIGIT = sorted((digits_folder() / "images" / "3").glob("*.png"))[0]


@pytest.fixture
def deep(tmp_path):
    """A digit as grey of 16 bits."""
    path = tmp_path / "deep.png"
    grey = np.asarray(Image.open(DIGIT).convert("L")).astype(np.uint16)
    Image.fromarray(grey * 257).save(path)
    return path


def test_a_prediction_says_how_sixteen_bits_become_eight(levit, tiny_artifact, deep):
    refused = levit("predict", tiny_artifact, deep)
    assert refused.status == 1
    assert "pass grey16='scale' (--grey16 scale)" in refused.stderr
    said = levit("predict", tiny_artifact, deep, "--grey16", "scale", "--json")
    plain = levit("predict", tiny_artifact, DIGIT, "--json")
    assert json.loads(said.stdout)[0]["top"] == json.loads(plain.stdout)[0]["top"]


def test_a_prediction_says_what_is_behind(levit, tiny_artifact, tmp_path):
    grey = Image.open(DIGIT).convert("L")
    shape = Image.new("RGBA", grey.size, "white")
    shape.putalpha(grey)  # white strokes, where they are opaque
    shape.save(tmp_path / "shape.png")
    refused = levit("predict", tiny_artifact, tmp_path / "shape.png")
    assert "pass background='white' (--background white)" in refused.stderr
    words = (tmp_path / "shape.png", "--background", "black", "--json")
    said = json.loads(levit("predict", tiny_artifact, *words).stdout)[0]
    assert said["top"][0]["label"] == "3"


def test_an_export_says_it_for_good(levit, tmp_path, deep):
    options = ("--grey16", "scale", "--background", "#ffffff", "--output", tmp_path / "made")
    assert levit("export", "--model", "levit_digits", *options).status == 0
    spec = json.loads((tmp_path / "made" / "manifest.json").read_text())["preprocess"]
    assert (spec["grey16"], spec["background"]) == ("scale", "#ffffff")
    with Predictor(tmp_path / "made", threads=1) as predictor:
        assert predictor(deep).label == "3"
    with Predictor(tmp_path / "made", threads=1, grey16="clip") as predictor:
        again = pickle.loads(pickle.dumps(predictor))
        assert again(deep).top == predictor(deep).top
        again.close()


@pytest.mark.parametrize(
    "options", [{"grey16": "stretch"}, {"grey16": True}, {"background": "octarine"}]
)
def test_words_that_are_unknown_are_refused_when_opening(tiny_artifact, options):
    with pytest.raises(ConfigError, match=r"known: scale, clip|the name of a colour"):
        Predictor(tiny_artifact, **options)
