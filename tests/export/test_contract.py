"""The accuracy contract: what passes, what fails, and what cannot be told."""

import numpy as np
import pytest

from levit.errors import CalibrationError
from levit.export.contract import Answers, answers_of, judge
from levit.export.judging import refusal
from levit.export.measures import determination
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


def test_pictures_of_which_the_reference_is_least_sure_are_asked_first(rng):
    """Five answers of 400 that may go either way do, and the first batch finds all of them."""
    logits = answers(np.arange(400) % 10).logits * 5
    unsure = rng.choice(400, 5, replace=False)
    logits[unsure] *= 0.001
    reference = Answers(logits=logits)
    shown = Pictures(origin="x", items=logits)
    batches = []

    def forward(batch):
        batches.append(len(batch))
        return {"logits": batch + 0.1 * np.eye(10, dtype=np.float32)[3]}

    found = answers_of(forward, shown, to_agree_with=reference)
    whole = answers_of(forward, shown)
    differ = np.flatnonzero(whole.top1 != reference.top1)
    assert 0 < len(differ) <= 5
    assert set(differ) <= set(unsure)
    np.testing.assert_array_equal(np.flatnonzero(found.top1 != reference.top1), differ)
    assert batches[0] == 16


def decisions(yes, no, lost=0, gained=0):
    """(reference, found) of one class: of the yes some are lost, of the no some are a yes."""
    reference = np.concatenate([np.full(yes, 2.0), np.full(no, -2.0)])
    found = reference.copy()
    found[:lost] = -0.1
    found[yes : yes + gained] = 0.0  # a score of 0.5
    return tuple(
        Answers(logits=values.astype(np.float32)[:, None]) for values in (reference, found)
    )


@pytest.mark.parametrize(
    ("yes", "no", "lost", "gained", "verdict"),
    [
        (200, 200, 0, 0, "passed"),
        (200, 200, 2, 2, "passed"),
        (200, 200, 3, 2, "failed"),
        (200, 200, 4, 0, "failed"),
        (100, 10_000, 0, 2, "passed"),
        (100, 10_000, 0, 3, "failed"),
        (10_000, 100, 3, 0, "failed"),
        (99, 10_000, 0, 0, "cannot tell"),
        (10_000, 99, 0, 0, "cannot tell"),
        (150, 149, 0, 0, "cannot tell"),
    ],
)
def test_a_sigmoid_is_judged_by_its_decisions(yes, no, lost, gained, verdict):
    reference, found = decisions(yes, no, lost, gained)
    judgement = judge(pictures(yes + no), reference, found, 1.0, "sigmoid")
    assert (judgement.measure, judgement.verdict) == ("decision_agreement", verdict)
    kept = (
        2 * (yes - lost) / (2 * yes - lost + gained),
        2 * (no - gained) / (2 * no - gained + lost),
    )
    assert judgement.value == pytest.approx(min(kept))
    assert judgement.decisions == min(yes, no)
    assert judgement.to_dict()["decisions"] == min(yes, no)
    if verdict == "cannot tell" and yes + no >= 300:
        assert "float32 itself says yes, or no, 99 times" in str(refusal(judgement, "int8", ()))
    else:
        assert f"agree with float32's to {judgement.value:.2%}" in judgement.words()


def test_a_network_that_always_says_no_is_no_good(rng):
    """Though it is right in most decisions: of eighty classes a picture shows three."""
    reference = np.where(rng.random((400, 80)) < 3 / 80, 3.0, -3.0).astype(np.float32)
    never = np.full_like(reference, -3)
    assert np.mean((reference >= 0) == (never >= 0)) > 0.95
    found = judge(pictures(400), Answers(logits=reference), Answers(logits=never), 1.0, "sigmoid")
    assert (found.value, found.verdict) == (0.0, "failed")
    broken = Answers(logits=np.full_like(reference, np.nan))
    assert judge(pictures(400), broken, broken, 1.0, "sigmoid").verdict == "cannot tell"
    assert judge(pictures(400), Answers(logits=reference), broken, 1.0, "sigmoid").value == 0


@pytest.mark.parametrize(
    ("noise", "shift", "verdict"),
    [(0.0, 0.0, "passed"), (0.09, 0.0, "passed"), (0.11, 0.0, "failed"), (0.0, 0.11, "failed")],
)
def test_values_are_judged_by_their_worst_output(noise, shift, verdict):
    """Whose unit is a thousandth of the other's; a shift that all pictures share counts."""
    reference = np.stack([np.sin(np.arange(400.0)), 1000 * np.cos(np.arange(400.0))], axis=-1)
    reference /= reference.std(axis=0)
    reference[:, 1] *= 1000
    found = reference.copy()
    found[:, 0] += noise * (-1) ** np.arange(400) + shift
    judgement = judge(pictures(400), Answers(logits=reference), Answers(logits=found), 1.0, "none")
    assert judgement.measure == "r_squared"
    assert judgement.value == pytest.approx(1 - noise**2 - shift**2, abs=1e-6)
    assert judgement.verdict == verdict
    assert f"R² of {judgement.value:.4f}" in judgement.words()


def test_values_that_are_no_numbers_or_always_the_same():
    constant, other = np.ones((300, 1)), np.linspace(0, 1, 300)[:, None]
    assert determination(constant, constant) == 1
    assert determination(constant, other) == 0
    assert determination(other, np.full((300, 1), np.inf)) == 0
    assert determination(other, other + np.where(np.arange(300) == 3, np.nan, 0)[:, None]) == 0
