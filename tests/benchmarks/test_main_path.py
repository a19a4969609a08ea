import numpy as np
import pytest

from levit.benchmarks.main_path import median_interval


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
