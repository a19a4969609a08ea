"""From JPEG bytes to classes through the engines' own pipelines (peers': test_peers.py)."""

import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from levit import Predictor
from levit.benchmarks.engines import Job, levit_artifact
from levit.benchmarks.engines.pictures import image_runner


@pytest.fixture
def job(tiny_artifact, tmp_path):
    shutil.copytree(tiny_artifact, tmp_path / "artifact")
    return Job(
        model="tiny", precision="fp32", batch=1, threads=2, device="cpu", image_size=(28, 28),
        files=tmp_path,
    )  # fmt: skip


@pytest.fixture
def jpegs(rng):
    found = []
    for _ in range(20):
        data = io.BytesIO()
        pixels = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((60, 50)).save(data, "JPEG")
        found.append(data.getvalue())
    return found


def test_ours_are_the_public_calls(job, tiny_artifact, jpegs):
    with Predictor(tiny_artifact) as predictor:
        expected = [answer.index for answer in predictor.predict(jpegs)]
        batch = predictor.manifest.batch.opt
    assert len(set(expected)) > 1
    runner = levit_artifact.open_image_runner(job)
    assert [runner.whole(data) for data in jpegs] == expected
    assert [runner.staged(data)[0] for data in jpegs] == expected
    line = levit_artifact.open_line(job)
    assert line.batch == batch
    assert line.run(jpegs) == expected


def test_stages_are_timed_where_they_happen():
    def slowly(milliseconds, answer):
        time.sleep(milliseconds / 1000)
        return answer

    runner = image_runner(
        decode=lambda data: slowly(5, data),
        prepare=lambda picture: slowly(20, picture),
        network=lambda batch: slowly(50, np.array([[0, 1, 0]])),
    )
    assert runner.whole(b"") == 1
    top1, stages = runner.staged(b"")
    assert top1 == 1
    least = {"decode": 5_000_000, "resize": 20_000_000, "network": 50_000_000}
    assert list(stages) == list(least)
    assert all(stages[name] >= ns for name, ns in least.items())
    assert stages["decode"] < stages["resize"] < stages["network"]
