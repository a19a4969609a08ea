import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit.benchmarks.protocols import OVERVIEW, PROTOCOLS, chosen_protocols, schedule
from levit.benchmarks.record_file import read_record
from levit.cli import main

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


@pytest.mark.parametrize("name", PROTOCOLS)
def test_another_batch_is_for_those_that_take_any(name):
    found = schedule(name, 5, **DEFAULTS, batch=8).batch
    assert found == (8 if name == "latency" else PROTOCOLS[name].batch)
    assert schedule(name, 5, **DEFAULTS).batch == PROTOCOLS[name].batch


def test_end_to_end_is_one_image_and_many():
    assert chosen_protocols(["paper", "end-to-end", "memory", "end-to-end", "end-to-end-many"]) == (
        *("paper", "end-to-end", "end-to-end-many", "memory"),
    )
    assert chosen_protocols(["end-to-end-many"]) == ("end-to-end-many",)
    many = PROTOCOLS["end-to-end-many"]
    assert many.images % many.batch == 0  # peers may have fixed their batch


def test_a_batch_that_no_protocol_takes_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--protocol", "paper,memory", "--batch", "8"]) == 1
    assert capsys.readouterr().err == (
        "error: --batch is for the protocol latency: name it too, or leave out --batch\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_another_batch_is_measured_and_recorded(tmp_path, capsys):
    result = tmp_path / "result.json"
    words = ["bench", "--models", "levit_digits", "--engines", "levit-onnx", "--batch", "3"]
    words += ["--protocol", "latency", "--seconds", "0.1", "--rounds", "2"]
    assert main([*words, "--output", str(result)]) == 0
    assert "Latency of 3 images (batch 3, " in capsys.readouterr().out
    (ours,) = [m for m in read_record(result).measurements if "levit → " in m.contender]
    assert (ours.status, ours.settings["batch"]) == ("ok", 3)


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
