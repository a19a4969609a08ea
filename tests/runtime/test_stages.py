"""Stages of a call: the same answer as the call's, with the time of each."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from levit import Predictor
from levit.models.pictures import smooth_pictures
from levit.runtime.stages import timed_stages


@pytest.fixture
def jpeg(rng):
    """The bytes of a photograph that has to be turned, and is large enough for a draft."""
    (pixels,) = smooth_pictures(rng, 1, (600, 800))
    exif = Image.Exif()
    exif[274] = 6
    data = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(data, "JPEG", exif=exif)
    return data.getvalue()


@pytest.mark.parametrize("settings", [{}, {"exif": True}, {"draft": True}])
def test_the_answer_is_that_of_the_call(tiny_artifact, jpeg, settings):
    with Predictor(tiny_artifact, **settings) as predictor:
        for image in (jpeg, np.asarray(Image.open(io.BytesIO(jpeg)))):
            answer, stages = timed_stages(predictor, image, top_k=3)
            assert answer == predictor(image, top_k=3)
            assert list(stages) == ["decode", "resize", "network"]
            assert all(isinstance(ns, int) and ns > 0 for ns in stages.values())


def test_pixels_go_to_the_network_as_in_the_call(uint8_artifact, jpeg):
    with Predictor(uint8_artifact) as predictor:
        assert timed_stages(predictor, jpeg)[0] == predictor(jpeg)


def test_stages_are_within_the_call_and_where_they_belong(tiny_artifact, jpeg, monkeypatch):
    with Predictor(tiny_artifact) as predictor:
        run = predictor._run

        def slow(batch, *, alone=False):
            time.sleep(0.05)
            return run(batch, alone=alone)

        monkeypatch.setattr(predictor, "_run", slow)
        start = time.perf_counter_ns()
        _, stages = timed_stages(predictor, jpeg)
        whole = time.perf_counter_ns() - start
    assert sum(stages.values()) <= whole
    assert stages["network"] >= 50_000_000
