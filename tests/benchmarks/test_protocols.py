import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit.benchmarks.protocols import OVERVIEW, PROTOCOLS, schedule

DEFAULTS = dict(chosen=False, quick=False, seconds=None, rounds=None, protocols=2)


def total(contenders, **settings):
    """Seconds of a run of the default protocols."""
    chosen = [schedule(name, contenders, **{**DEFAULTS, **settings}) for name in OVERVIEW]
    return sum(contenders * (p.seconds + p.warmup_s) for p in chosen)


def test_paper_is_the_paper():
    """facebookresearch/LeViT speed_test.py: T0 = 10, T1 = 60; one thread, batch 16."""
    paper = schedule("paper", 5, **{**DEFAULTS, "chosen": True, "protocols": 1})
    assert (paper.warmup_s, paper.seconds, paper.batch, paper.threads) == (10, 60, 16, 1)


@given(st.integers(1, 100))
def test_a_run_with_nothing_else_ends_within_five_minutes(contenders):
    assert total(contenders) <= 240
    assert total(contenders, quick=True) <= max(40, 1.5 * contenders)


def test_a_few_contenders_do_not_run_longer_than_the_protocol():
    assert schedule("latency", 1, **DEFAULTS).seconds == PROTOCOLS["latency"].seconds


def test_seconds_shorten_the_warm_up_too():
    paper = schedule("paper", 5, **{**DEFAULTS, "chosen": True, "seconds": 6.0})
    assert paper.seconds == 6
    assert paper.warmup_s == pytest.approx(1)
    longer = schedule("paper", 5, **{**DEFAULTS, "seconds": 600.0})
    assert (longer.seconds, longer.warmup_s) == (600, 10)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_rounds_are_enough_for_an_interval(name):
    # Six values are the fewest whose extremes cover the median with 95 %.
    assert schedule(name, 5, **DEFAULTS).rounds >= 6
    assert schedule(name, 5, **{**DEFAULTS, "rounds": 3}).rounds == 3
