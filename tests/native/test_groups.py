"""Stages that run in several groups of images: no group may find another's values in its place."""

import re
from dataclasses import replace

import numpy as np
import pytest

from levit.errors import CorruptArtifactError
from levit.export.lowering import lower
from levit.export.passes import run_passes
from levit.models.levit.config import levit_config
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.native.check import check
from levit.native.engine import Engine
from levit.native.interpreter import interpret


@pytest.fixture(scope="module")
def growing():
    """A network whose values between the last stages are more than those before."""
    config = levit_config(
        widths=(16, 16, 160), key_dim=8, heads=(2, 3, 4), depths=(1, 1, 1),
        image_size=(128, 128), stem_convs=3, num_classes=3,
    )  # fmt: skip
    return lower(run_passes(random_model(FAMILIES["levit"], config, 0))[-1].model)


@pytest.mark.native
def test_values_of_one_group_stay_while_another_runs(growing, rng):
    arrays = {name: np.asarray(a, np.float32, "C") for name, a in growing.arrays.items()}
    engine = Engine(growing.program, arrays.__getitem__, threads=1)
    x = rng.standard_normal((16, 3, 128, 128)).astype(np.float32)
    expected = interpret(growing.program, growing.arrays, x)["logits"]
    found = engine.run(x)["logits"]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.native
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_image_has_the_same_answer_wherever_it_stands(growing, rng, threads):
    arrays = {name: np.asarray(a, np.float32, "C") for name, a in growing.arrays.items()}
    engine = Engine(growing.program, arrays.__getitem__, threads=threads)
    x = rng.standard_normal((17, 3, 128, 128)).astype(np.float32)
    whole = engine.run(x)["logits"]
    for size in (1, 3, 8):
        for i in range(0, 17 - size, 3):
            assert (engine.run(x[i : i + size])["logits"] == whole[i : i + size]).all()
    x[3], x[7, 0, 0, 0], x[11] = np.nan, np.inf, 1e30
    others = [i for i in range(17) if i not in (3, 7, 11)]
    assert (engine.run(x)["logits"][others] == whole[others]).all()


def test_buffers_carried_into_and_out_of_a_stage_lie_apart(growing):
    program = growing.program
    first, second, *_ = [i for i, buffer in enumerate(program.buffers) if buffer.carried]
    buffers = list(program.buffers)
    buffers[second] = replace(buffers[second], offset=buffers[first].offset)
    with pytest.raises(CorruptArtifactError, match=re.escape(f"buffers {first} and {second} over")):
        check(replace(program, buffers=tuple(buffers)), program.arrays)


@pytest.mark.native
def test_answers_that_overflow_are_not_finite(growing, rng):
    """Scores of 1e60 are beyond float32, and softmax of them is nothing."""
    arrays = {name: np.asarray(a, np.float32, "C") for name, a in growing.arrays.items()}
    engine = Engine(growing.program, arrays.__getitem__, threads=1)
    x = np.float32(1e30) * rng.standard_normal((1, 3, 128, 128)).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = interpret(growing.program, arrays, x, np.float32)["logits"]
    assert not np.isfinite(expected).any()
    assert not np.isfinite(engine.run(x)["logits"]).any()
