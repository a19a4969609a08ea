import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.runtime.prediction import softmax, top_predictions


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 4),
    classes=st.integers(1, 90),
    top_k=st.integers(1, 100),
    levels=st.sampled_from([1, 2, 5, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_best_are_the_first_of_a_stable_sort(rows, classes, top_k, levels, seed):
    # Few levels make many ties.
    logits = np.random.default_rng(seed).integers(0, levels, (rows, classes)).astype(np.float32)
    labels = [f"class {index}" for index in range(classes)]
    answers = top_predictions(logits, labels, top_k)
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :top_k]
    scores = softmax(logits)
    assert [[index for _, index, _ in answer.top] for answer in answers] == order.tolist()
    for answer, row in zip(answers, scores, strict=True):
        assert all(label == labels[index] for label, index, _ in answer.top)
        assert [score for _, _, score in answer.top] == [row[index] for _, index, _ in answer.top]


def test_scores_are_probabilities_of_large_logits_too():
    (answer,) = top_predictions(np.array([[1e30, 0, -1e30]], np.float32), "abc", 3)
    assert answer.top == [("a", 0, 1.0), ("b", 1, 0.0), ("c", 2, 0.0)]
    assert (answer.label, answer.index, answer.score) == ("a", 0, 1.0)


@pytest.mark.parametrize("shape", [(1,), (3, 7)])
def test_softmax_sums_to_one(shape, rng):
    assert softmax(rng.standard_normal(shape) * 50).sum(-1) == pytest.approx(1)
