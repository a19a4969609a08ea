"""The accuracy contract: what passes, what fails, and what cannot be told."""

import numpy as np
import pytest

from levit.errors import CalibrationError
from levit.export.contract import Answers, answers_of, judge
from levit.export.judging import refusal
from levit.export.quantization.pictures import Pictures
from levit.export.quantization.sensitivity import signal_to_noise


def pictures(count, labels=None):
    return Pictures(
        origin="photos",
        items=np.zeros((count, 1), np.float32),
        labels=labels,
    )


def answers(classes, count=10):
    return Answers(logits=np.eye(count, dtype=np.float32)[np.asarray(classes)])


def judged(count, wrong, *, labelled=True, max_drop=1.0):
    """Of `count` pictures, `wrong` that float32 has right."""
    truth = np.arange(count) % 10
    found = truth.copy()
    found[:wrong] = (found[:wrong] + 1) % 10
    labels = tuple(truth.tolist()) if labelled else None
    return judge(pictures(count, labels), answers(truth), answers(found), max_drop)


@pytest.mark.parametrize(
    ("count", "wrong", "max_drop", "verdict"),
    [
        (1000, 10, 1.0, "passed"),
        (1000, 11, 1.0, "failed"),
        (999, 0, 1.0, "cannot tell"),
        (2000, 10, 0.5, "passed"),
        (2000, 11, 0.5, "failed"),
        (1999, 0, 0.5, "cannot tell"),
        (500, 10, 2.0, "passed"),
        (1000, 1000, 1.0, "failed"),
    ],
)
def test_a_drop_takes_ten_images(count, wrong, max_drop, verdict):
    found = judged(count, wrong, max_drop=max_drop)
    assert found.measure == "top1_drop"
    assert found.value == pytest.approx(100 * wrong / count)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("count", "wrong", "verdict"),
    [(300, 3, "passed"), (300, 4, "failed"), (299, 0, "cannot tell"), (1000, 10, "passed")],
)
def test_without_labels_first_classes_are_compared(count, wrong, verdict):
    found = judged(count, wrong, labelled=False)
    assert (found.measure, found.verdict) == ("top1_agreement", verdict)
    assert found.top1 is None
    assert found.to_dict()["top1_agreement"] == found.value


def test_being_right_where_float32_is_wrong_counts():
    truth = np.zeros(1000, int)
    reference = truth.copy()
    reference[:20] = 1
    found = judge(pictures(1000, tuple(truth.tolist())), answers(reference), answers(truth), 1.0)
    assert found.value == pytest.approx(-2.0)
    assert found.verdict == "passed"


def test_labels_that_float32_guesses_tell_nothing():
    """Of another model, or in another order: what knows nothing has nothing to lose."""
    truth = np.arange(1000) % 10
    wrong = (truth + 1) % 10
    labels = tuple(truth.tolist())
    found = judge(pictures(1000, labels), answers(wrong), answers(wrong), 1.0)
    assert (found.verdict, found.is_guessed) == ("cannot tell", True)
    assert 0.1 < found.chance < 0.15
    line = str(refusal(found, "int8", ()))
    assert "float32 itself has 0.00% of the labels of photos right, which is chance" in line
    some = np.where(np.arange(1000) < 200, truth, wrong)
    knows = judge(pictures(1000, labels), answers(some), answers(some), 1.0)
    assert knows.verdict == "passed"


def test_answers_that_are_not_finite_are_no_answers():
    labels = tuple([0] * 1000)
    right = answers([0] * 1000)
    broken = Answers(logits=right.logits * np.nan)
    assert judge(pictures(1000, labels), right, broken, 1.0).verdict == "failed"
    assert judge(pictures(1000), right, broken, 1.0).value == 0
    assert judge(pictures(1000), broken, broken, 1.0).value == 0


def test_inputs_that_are_not_finite_are_refused():
    items = np.zeros((3, 2), np.float32)
    items[1, 0] = np.nan
    shown = Pictures(origin="photos.npz", items=items)
    with pytest.raises(CalibrationError, match=r"photos\.npz: input 1 has values that are not"):
        answers_of(lambda batch: {"logits": batch}, shown)


def test_the_noise_is_that_of_what_differs_between_pictures(rng):
    """What all pictures have in common is right where all else is wrong."""
    logits = rng.standard_normal((50, 10)) + 1000
    noise = rng.standard_normal((50, 10))
    assert signal_to_noise(logits, logits + 0.1 * noise) == pytest.approx(20, abs=2)
    assert signal_to_noise(logits, logits + 5) > 200  # a shift of all is none
    assert signal_to_noise(logits, logits) == np.inf
    # The worst, not the best: what is not finite, and a reference that tells nothing apart.
    assert signal_to_noise(logits, logits * np.nan) == -np.inf
    assert signal_to_noise(np.ones((50, 10)), logits) == -np.inf
    assert signal_to_noise(logits, np.full((50, 10), 1000.0)) == pytest.approx(0, abs=0.1)


def test_answers_come_in_the_order_of_the_pictures():
    items = np.arange(37, dtype=np.float32)[:, None]
    shown = Pictures(origin="x", items=items)
    batches = []

    def forward(batch):
        batches.append(len(batch))
        return {"logits": np.concatenate([batch, -batch], axis=1)}

    found = answers_of(forward, shown)
    np.testing.assert_array_equal(found.logits[:, 0], items[:, 0])
    assert sum(batches) == 37
    assert max(batches) > 1


@pytest.mark.parametrize(("wrong", "asked", "verdict"), [(5, 16, "failed"), (4, 400, "passed")])
def test_a_network_that_has_failed_is_not_asked_further(wrong, asked, verdict):
    reference = answers(np.arange(400) % 10)
    shown = Pictures(origin="x", items=reference.logits)
    batches = []

    def forward(batch):
        batches.append(len(batch))
        found = batch.copy()
        if len(batches) == 1:
            found[:wrong] = np.roll(batch[:wrong], 1, axis=-1)
        return {"logits": found}

    found = answers_of(forward, shown, to_agree_with=reference)
    assert sum(batches) == asked
    assert found.logits.shape == reference.logits.shape
    assert judge(shown, reference, found, 1.0).verdict == verdict
