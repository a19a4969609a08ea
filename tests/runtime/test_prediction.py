import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.errors import InputError
from levit.runtime.prediction import sigmoid, softmax, top_predictions


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 4),
    classes=st.integers(2, 90),
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


def test_a_sigmoid_scores_each_class_by_itself(rng):
    logits = (8 * rng.standard_normal((6, 40))).astype(np.float32)
    labels = [f"class {index}" for index in range(40)]
    answers = top_predictions(logits, labels, 3, "sigmoid")
    for row, answer in zip(logits.astype(np.float64), answers, strict=True):
        exact = 1 / (1 + np.exp(-row))
        order = np.argsort(-row, kind="stable")
        assert [index for _, index, _ in answer.top] == order[:3].tolist()
        assert answer.score == pytest.approx(exact[order[0]], rel=1e-12)
        for threshold in (0.0, 0.1, 0.5, 0.999, 1.0):
            above = answer.above(threshold)
            assert {index for _, index, _ in above} == set(np.flatnonzero(exact >= threshold))
            assert [score for _, _, score in above] == sorted((s for *_, s in above), reverse=True)
    assert answers[0].above() == answers[0].above(0.5)


def test_a_sigmoid_of_any_logit_is_a_probability():
    extreme = np.array([-1e30, -800, -1e-3, 0, 1e-3, 800, 1e30], np.float32)
    found = sigmoid(extreme)
    assert found[[0, 1, 3, 5, 6]].tolist() == [0, 0, 0.5, 1, 1]
    assert found + sigmoid(-extreme) == pytest.approx(1, abs=1e-15)


def test_values_are_all_there_in_their_order():
    (answer,) = top_predictions(np.array([[-3.5, 40, 7]], np.float32), ["x", "y", "z"], 1, "none")
    assert answer.top == [("x", 0, -3.5), ("y", 1, 40.0), ("z", 2, 7.0)]
    assert (answer.label, answer.index, answer.value, answer.score) == ("x", 0, -3.5, None)


def test_one_logit_with_two_names_is_either():
    names = ["no", "yes"]
    rows = np.array([[-2], [0], [2], [60]], np.float32)
    for row, answer in zip(
        rows[:, 0].tolist(), top_predictions(rows, names, 1, "sigmoid"), strict=True
    ):
        exact = 1 / (1 + math.exp(-row))
        assert answer.label == names[row > 0]  # a tie goes to the lower index
        assert answer.score == pytest.approx(max(exact, 1 - exact))
        assert {label: score for label, _, score in answer.above(0)} == pytest.approx(
            {"no": 1 - exact, "yes": exact}
        )
    (answer,) = top_predictions(rows[:1], ["yes"], 5, "sigmoid")
    assert answer.top == [("yes", 0, pytest.approx(1 / (1 + math.exp(2))))]
    assert answer.above() == []


@pytest.mark.parametrize("scores", ["softmax", "sigmoid", "none"])
def test_an_answer_is_hashed_compared_pickled_and_written_as_json(scores):
    logits = np.array([[1, -2, 3], [1, -2, 3], [1, -2, 4]], np.float32)
    one, same, other = top_predictions(logits, "abc", 2, scores)
    assert one == same
    assert {one, same, other} == {one, other}
    assert pickle.loads(pickle.dumps(one)) == one
    written = json.loads(json.dumps(one.to_dict()))
    assert written["scores"] == scores
    key, name = ("values", "value") if scores == "none" else ("top", "score")
    assert [(e["label"], e["index"], e[name]) for e in written[key]] == one.top


def test_a_threshold_is_for_a_sigmoid():
    logits = np.array([[1, 2]], np.float32)
    for scores in ("softmax", "none"):
        (answer,) = top_predictions(logits, "ab", 2, scores)
        with pytest.raises(InputError, match=f"this one are '{scores}': leave it out, or"):
            answer.above(0.5)
    (answer,) = top_predictions(logits, "ab", 2, "sigmoid")
    assert answer.above(np.float32(0.5)) == answer.above(0.5) == answer.top
    for threshold in (-0.1, 1.1, float("nan"), "0.5", None):
        with pytest.raises(InputError, match="a threshold is a number from 0 to 1, not"):
            answer.above(threshold)


def test_a_softmax_of_one_logit_answers_nothing():
    """Older releases exported it; 100 % for every picture is no answer."""
    with pytest.raises(InputError, match=r"one logit is 1 for every picture, .* export the model"):
        top_predictions(np.array([[3]], np.float32), ["cat"], 1)
