"""The model of docs/native.md: divided as the library divides, and printed as the page has it."""

import re
from pathlib import Path

import model_scaling
import pytest
from model_scaling import Time, predicted, program_of

from levit.models.counting import count
from levit.models.registry import config_of
from levit.native.counting import macs_of

PAGE = Path(__file__).parents[1] / "docs" / "native.md"
UNIT_S = 1 / (model_scaling.CLOCK_HZ * model_scaling.UNITS * model_scaling.LANES)


@pytest.fixture(scope="module")
def program():
    return program_of("levit_128s")


def whole(program, threads):
    return sum((predicted(program, step, threads) for step in program.steps), Time())


def test_one_thread_neither_waits_for_others_nor_computes_faster_than_its_units(program):
    time = whole(program, 1)
    assert (time.imbalance, time.values, time.barriers) == (0, 0, 0)
    macs = sum(macs_of(program, step) for step in program.steps)
    assert macs * UNIT_S < time.work < 1.5 * macs * UNIT_S


def test_the_program_is_the_models(program):
    _, family, config = config_of("levit_128s")
    macs = sum(macs_of(program, step) for step in program.steps)
    assert 0.95 < macs / count(family, config).macs <= 1  # the passes save some


def test_threads_share_the_work_and_lose_something(program):
    alone = whole(program, 1)
    for threads in (2, 4, 8, 16):
        time = whole(program, threads)
        assert time.work == pytest.approx(alone.work / threads)
        assert 1 < alone.in_l3 / time.in_l3 < threads
        assert min(time.imbalance, time.weights, time.values, time.barriers, time.memory) >= 0


@pytest.mark.parametrize(
    ("rows", "columns", "threads", "division"),
    [
        (196, 384, 1, (1, 1)),
        (16, 1536, 16, (1, 16)),  # 48 panels: columns alone, so that no weight is read twice
        (16, 768, 16, (2, 8)),  # 24 panels do not go into 16
        (196, 32, 4, (4, 1)),  # one panel: rows alone
        (49, 512, 3, (1, 3)),
    ],
)
def test_products_are_divided_as_the_library_does(rows, columns, threads, division):
    assert model_scaling._division(rows, columns, threads) == division


def test_more_bytes_a_second_help_where_bytes_are_waited_for(program, monkeypatch):
    before = whole(program, 16)
    monkeypatch.setattr(model_scaling, "CORE_BYTES_PER_S", 1e15)
    after = whole(program, 16)
    assert before.weights > 0
    assert after.weights + after.values < 1e-9
    assert after.work == before.work


def test_the_page_has_what_the_script_prints():
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    for name in ("levit_384", "levit_512"):
        printed = " ".join(model_scaling.table(name, [1, 2, 4, 8, 16]).split())
        assert printed in page
    peak = re.search(r"core of (\d+) GFLOP/s", page)
    assert float(peak[1]) * 1e9 == pytest.approx(64 * model_scaling.CLOCK_HZ)


def test_an_unknown_model_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["model_scaling.py", "--models", "levit_129"])
    assert model_scaling.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: unknown model")
