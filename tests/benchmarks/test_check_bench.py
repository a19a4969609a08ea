"""The check of the benchmark's verdicts, shortened: its numbers take minutes to mean something."""

import json

import check_bench
import pytest

from levit.errors import BackendUnavailableError


@pytest.mark.slow
def test_every_run_has_both_verdicts(monkeypatch, capsys, tmp_path):
    result = tmp_path / "result.json"
    words = ["--model", "levit_digits", "--runs", "1", "--seconds", "0.3", "--rounds", "6"]
    monkeypatch.setattr("sys.argv", ["check_bench", *words, "--json", str(result)])
    monkeypatch.setattr(check_bench, "OVERHEAD_MODEL", "levit_digits")
    check_bench.main()
    printed = capsys.readouterr().out
    assert "a call of nothing: " in printed
    assert "the same again " in printed
    document = json.loads(result.read_text())
    assert 0 < document["overhead_us"] < 1000
    (run,) = document["runs"]
    assert set(run) == {"quietness", "same", "5 % slower"}
    assert run["5 % slower"]["ratio"][0] > 0


def test_what_stops_a_run_is_said(monkeypatch, tmp_path):
    """An error in the runner keeps its cause; once it became KeyboardInterrupt."""

    def refuse(*_):
        raise BackendUnavailableError("the machine cannot be timed")

    monkeypatch.setattr("levit.benchmarks.noise.NoiseLog.sample", refuse)
    monkeypatch.setattr(check_bench, "OVERHEAD_MODEL", "levit_digits")
    with pytest.raises(BackendUnavailableError, match="cannot be timed"):
        check_bench.overhead_us(tmp_path)
