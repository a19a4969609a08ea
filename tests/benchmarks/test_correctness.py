from pathlib import Path

import numpy as np
import pytest

from levit.benchmarks.correctness import TOLERANCES, agreement_of, check, judge
from levit.benchmarks.engines import ENGINES, Job
from levit.relative_error import relative_error


@pytest.fixture
def answers(rng):
    """Logits of two pictures as networks give them: much in common, and what tells them apart."""
    common = rng.normal(0, 1, 1000)
    return common + rng.normal(0, 0.7, (2, 1000))


def job(folder, batch, precision="fp32"):
    return Job(
        model="any", precision=precision, batch=batch, threads=1, device="cpu",
        image_size=(4, 4), files=folder,
    )  # fmt: skip


@pytest.mark.parametrize("precision", TOLERANCES)
def test_wrong_answers_are_caught_at_every_precision(precision, answers, rng):
    wrong = {
        "shuffled classes": answers[:, rng.permutation(1000)],
        "shifted classes": np.roll(answers, 1, axis=1),
        "swapped pictures": answers[::-1],
        "one picture twice": answers[[0, 0]],
        "another network": rng.normal(0, 1, (2, 1000)),
        "nothing": np.zeros((2, 1000)),
        "negated": -answers,
        "not a number": np.where(np.arange(1000) == 5, np.nan, answers),
        "infinite": np.where(np.arange(1000) == 5, np.inf, answers),
        "too few classes": answers[:, :10],
        "ten times": answers * 10,
    }
    assert [title for title, logits in wrong.items() if not judge(logits, answers, precision)] == []


@pytest.mark.parametrize(
    ("precision", "noise"), [("fp32", 5e-6), ("fp16", 2e-3), ("bf16", 2e-2), ("int8", 0.1)]
)
def test_roundings_of_the_precision_pass_and_those_of_a_coarser_one_do_not(
    precision, noise, answers, rng
):
    largest = np.abs(answers).max()
    rough = rng.uniform(-1, 1, answers.shape) * largest
    assert judge(answers + noise * rough, answers, precision) == ""
    assert judge(answers + 30 * noise * rough, answers, precision) != ""


def test_tolerances_widen_with_coarseness():
    order = [TOLERANCES[p] for p in ("fp32", "fp16", "bf16", "int8")]
    assert sorted(order, key=lambda t: t.error) == order
    assert sorted(order, key=lambda t: -t.agreement) == order
    assert all(precision in TOLERANCES for e in ENGINES.values() for precision in e.precisions)


@pytest.mark.parametrize("batch", [1, 2, 3, 16])
def test_every_row_of_a_batch_is_looked_at(batch, tmp_path, answers, rng):
    inputs = rng.normal(0, 1, (2, 3, 4, 4)).astype(np.float32)
    np.savez(Path(tmp_path) / "reference.npz", input=inputs, logits=answers)
    seen = []

    def run(x):
        assert x.shape == (batch, 3, 4, 4)
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        seen.append(len(x))
        return np.stack([answers[int(np.abs(row - inputs[0]).max() > 0)] for row in x])

    error, reason = check(run, job(tmp_path, batch))
    assert (error, reason) == (0.0, "")
    for place in range(sum(seen)):
        calls = []

        def broken(x, place=place, calls=calls):
            found = run(x)
            here = place - len(calls) * batch
            calls.append(1)
            if 0 <= here < len(found):
                found[here] *= 1.5
            return found

        error, reason = check(broken, job(tmp_path, batch))
        assert error > 0.1
        assert "from the reference's" in reason


def test_too_few_rows_are_wrong(tmp_path, answers, rng):
    inputs = rng.normal(0, 1, (2, 3, 4, 4)).astype(np.float32)
    np.savez(Path(tmp_path) / "reference.npz", input=inputs, logits=answers)
    error, reason = check(lambda x: answers[:1], job(tmp_path, 16))
    assert error == float("inf")
    assert "(1, 1000)" in reason


def test_error_and_agreement_of_the_same_are_nothing_and_all(answers):
    assert relative_error(answers, answers) == 0
    assert agreement_of(answers, answers) == pytest.approx(1)
