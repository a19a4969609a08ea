import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit.benchmarks.intervals import (
    Interval,
    median_interval,
    percentile_intervals,
    ratio_interval,
    unpaired_ratio,
    verdict_of,
)

positive = st.floats(1e-6, 1e6)


@pytest.mark.parametrize("count", [5, 9, 31, 101])
def test_interval_holds_the_median_and_stays_inside_the_values(count):
    values = np.random.default_rng(count).standard_normal(count)
    median, low, high = median_interval(values.tolist())
    assert min(values) <= low <= median <= high <= max(values)
    assert median == np.median(values)


def test_interval_covers_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        _, low, high = median_interval(rng.exponential(size=31).tolist())
        covered += low <= np.log(2) <= high
    assert 0.93 <= covered / 2000 <= 0.99


def test_a_single_value_is_its_own_interval():
    assert median_interval([2.0]) == (2.0, 2.0, 2.0)


def test_six_values_are_the_fewest_whose_extremes_cover_95_percent():
    # 2 · 0.5⁶ = 3 %, 2 · 0.5⁵ = 6 %: with six nothing may be left out, with nine one on each side.
    assert median_interval([1, 2, 3, 4, 5, 6])[1:] == (1, 6)
    assert median_interval(list(range(1, 10)))[1:] == (2, 8)


@pytest.mark.parametrize("count", [1030, 3000])
def test_many_values_are_no_trouble(count):
    low, high = median_interval(list(range(count)))[1:]
    # Normal approximation of the binomial: n / 2 ± 0.98 √n.
    assert low == pytest.approx(count / 2 - 0.98 * count**0.5, abs=2)
    assert high == pytest.approx(count / 2 + 0.98 * count**0.5, abs=2)


def test_ratios_are_taken_side_by_side():
    # The machine halves its speed in the second round: both feel it, the ratio does not.
    assert ratio_interval([2.0, 1.0, 2.0], [1.0, 0.5, 1.0]) == (2.0, 2.0, 2.0)


def test_percentile_is_that_of_all_values_together():
    rounds = [list(range(100)), [], list(range(100, 200))]
    found = percentile_intervals(rounds, [90])[90]
    assert found.median == pytest.approx(np.percentile(range(200), 90))
    assert found.low <= found.median <= found.high


def test_percentile_interval_covers_the_true_percentile_when_rounds_differ():
    """Rounds shift as a whole: an interval from single calls would be far too narrow."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        rounds = rng.normal(10, 1, (20, 1)) + rng.normal(0, 0.1, (20, 50))
        _, low, high = percentile_intervals(rounds.tolist(), [50])[50]
        covered += low <= 10 <= high
    assert covered >= 48  # of 57 expected


def test_percentile_of_very_long_rounds_is_still_exact():
    rng = np.random.default_rng(2)
    rounds = [rng.exponential(size=5000) for _ in range(5)]
    expected = np.percentile(np.concatenate(rounds), 99)
    assert percentile_intervals(rounds, [99])[99].median == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Interval(1.10, 1.08, 1.12), "faster"),
        (Interval(0.95, 0.93, 0.97), "slower"),
        (Interval(1.00, 0.99, 1.01), "equal"),
        # Surely not 1, and too little to matter.
        (Interval(1.01, 1.005, 1.015), "equal"),
        (Interval(0.99, 0.985, 0.995), "equal"),
        # Perhaps much, perhaps nothing.
        (Interval(1.04, 0.98, 1.10), "cannot tell"),
        (Interval(1.00, 0.90, 1.01), "cannot tell"),
        (Interval(1.00, 0.99, 1.06), "cannot tell"),
    ],
)
def test_verdicts(ratio, verdict):
    assert verdict_of(ratio, 6) == verdict
    assert verdict_of(ratio, 5) == "cannot tell"


@given(positive, positive, positive)
def test_verdicts_are_the_same_from_both_sides(a, b, c):
    low, median, high = sorted((a, b, c))
    mirrored = Interval(1 / median, 1 / high, 1 / low)
    opposite = {"faster": "slower", "slower": "faster"}
    one, other = verdict_of(Interval(median, low, high), 9), verdict_of(mirrored, 9)
    if abs(median - 1) > 0.06:  # at the thresholds themselves 1.02 and 1 / 0.98 differ
        assert opposite.get(one, "neither") == (other if other in opposite else "neither")


@given(positive, positive, st.floats(0, 0.5))
def test_a_drift_of_the_machine_widens_a_comparison(a, b, drift):
    one, other = Interval(a, a * 0.99, a * 1.01), Interval(b, b * 0.99, b * 1.01)
    still, moved = unpaired_ratio(one, other), unpaired_ratio(one, other, drift)
    assert moved.median == still.median == pytest.approx(a / b)
    assert moved.low <= still.low < still.high <= moved.high
    assert unpaired_ratio(one, other, -drift) == moved
