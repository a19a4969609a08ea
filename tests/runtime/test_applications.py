"""Threads and log of a predictor inside an application."""

import logging

import pytest

from levit.runtime.cpus import available_cpus, default_threads
from levit.runtime.predictor import Predictor


@pytest.mark.parametrize(
    ("variable", "bound"),
    [
        *(("1", 1), ("3", 3), (" 2 ", 2), ("2,1", 2), ("64", 64), ("100000", 100_000)),
        # Of which OpenMP makes nothing either.
        *(("", None), ("0", None), ("-1", None), ("two", None), ("1.5", None), ("²", None)),
        *((",2", None), ("9" * 5000, None)),
    ],
)
def test_omp_num_threads_bounds_the_default(monkeypatch, tiny_artifact, variable, bound):
    monkeypatch.setattr("levit.runtime.cpus.available_cpus", lambda: 12)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    expected = 12 if bound is None else min(12, bound)
    assert default_threads() == expected
    if expected < 4:
        with Predictor(tiny_artifact) as predictor:
            assert predictor.threads == expected
            assert predictor.workers == (expected if expected > 1 else 0)


def test_no_variable_and_no_bound(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert default_threads() == available_cpus()


def test_threads_that_are_asked_for_are_not_bounded(monkeypatch, tiny_artifact):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Predictor(tiny_artifact, threads=3) as predictor:
        assert predictor.threads == 3


def test_the_log_says_what_was_opened(tiny_artifact, caplog):
    with caplog.at_level(logging.INFO, logger="levit"), Predictor(tiny_artifact, threads=2):
        pass
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("levit.runtime", "INFO")
    text = record.getMessage()
    for words in (str(tiny_artifact), "onnx fp32 on cpu", "threads 2", "workers 2", "class linux-"):
        assert words in text


def test_the_log_says_how_it_has_proven_itself(tampered, caplog):
    def foreign(folder, values):
        values["verification"]["cpu_class"] = "linux-z80-00000000"

    folder = tampered(foreign)
    with caplog.at_level(logging.INFO, logger="levit"), Predictor(folder, threads=1):
        pass
    _, proof = caplog.records
    assert "proves itself" in proof.getMessage()
    assert "which it has not seen: off by" in proof.getMessage()


def test_nothing_is_said_unasked(tiny_artifact, caplog, capfd):
    with caplog.at_level(logging.WARNING), Predictor(tiny_artifact, threads=1):
        pass
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
