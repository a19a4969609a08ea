"""Average precision and thresholds against their definitions, written out, and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.commands.metrics import average_precision, best_threshold


def at(truth, scores, threshold):
    """(precision, recall, F1) of saying yes from a score on."""
    yes = [t for t, s in zip(truth, scores, strict=True) if s >= threshold]
    precision, recall = sum(yes) / len(yes), sum(yes) / sum(truth)
    f1 = 2 * precision * recall / (precision + recall) if sum(yes) else 0.0
    return precision, recall, f1


def literal_average_precision(truth, scores):
    total = before = 0.0
    for threshold in sorted(set(scores), reverse=True):
        precision, recall, _ = at(truth, scores, threshold)
        total += (recall - before) * precision
        before = recall
    return total


# Few levels make many ties.
CASES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=1, max_size=30).filter(
    lambda pairs: any(truth for truth, _ in pairs)
)


@settings(max_examples=300, deadline=None)
@given(CASES)
def test_both_are_their_definitions(pairs):
    truth, levels = (np.asarray(column) for column in zip(*pairs, strict=True))
    scores = levels / 7
    assert average_precision(truth, scores) == pytest.approx(
        literal_average_precision(truth.tolist(), scores.tolist()), abs=1e-12
    )
    threshold, f1 = best_threshold(truth, scores)
    every = {s: at(truth.tolist(), scores.tolist(), s)[2] for s in scores.tolist()}
    assert f1 == pytest.approx(max(every.values()), abs=1e-12)
    assert every[threshold] == pytest.approx(f1, abs=1e-12)
    assert all(every[s] < f1 - 1e-12 for s in every if s > threshold)


def test_by_hand():
    truth, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])
    assert average_precision(truth, scores) == pytest.approx(1 / 2 + (2 / 3) / 2)
    assert best_threshold(truth, scores) == (0.7, pytest.approx(0.8))


def test_average_precision_is_scikit_learns(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    for levels in (3, 20, 10**6):
        truth = rng.integers(0, 2, 200)
        scores = rng.integers(0, levels, 200) / levels
        assert average_precision(truth, scores) == pytest.approx(
            metrics.average_precision_score(truth, scores), abs=1e-12
        )
