"""Contenders in turns: what one of them does must not spoil the others. Real worker processes."""

import textwrap

import numpy as np
import pytest

from levit.benchmarks.engines import Job
from levit.benchmarks.lineup import RunnableContender
from levit.benchmarks.protocols import Protocol
from levit.benchmarks.turns import Trial, Turns

ENGINE = """
    import os, time
    import numpy as np

    def open_runner(job):
        if job.model == "absent":
            raise ValueError("no such network")
        if job.model == "large" and job.batch > 4:
            raise RuntimeError(f"CUDA out of memory at {job.batch}")
        calls = []

        def run(batch):
            calls.append(1)
            if job.model == "dies" and len(calls) > 3:
                os._exit(9)
            # A batch has a price of its own: 8 is the best of 1, 4, 8, 16, 32.
            time.sleep(0.004 + 0.0005 * max(0, job.batch - 8) ** 2)
            return batch.reshape(len(batch), -1)[:, :8].astype(np.float64)

        return run
"""


@pytest.fixture
def measure(tmp_path, monkeypatch, rng):
    """(models, batch, …) → their trials after a protocol of three rounds."""
    (tmp_path / "crew_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    inputs = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
    logits = inputs.reshape(2, -1)[:, :8].astype(np.float64)
    np.savez(tmp_path / "reference.npz", input=inputs, logits=logits)

    def run(*models, batch=2, threads=1, device="cpu", engines=None):
        protocol = Protocol(
            kind="tensor",
            batch=batch,
            threads=threads,
            seconds=0.09,
            warmup_s=0.01,
            rounds=3,
        )
        trials = []
        for number, model in enumerate(models):
            contender = RunnableContender(
                name=f"{model} {number}",
                model=model,
                engine=(engines or ["one"] * len(models))[number],
                title="an engine",
                runtime="toy",
                kind="peer",
                precision="fp32",
                image_size=(4, 4),
                code="crew_engine",
                source=model,
                place=model,
            )
            trials.append(
                Trial(
                    contender=contender,
                    batch=batch or 1,
                    threads=threads,
                    seconds=0.09,
                    warmup_s=0.01,
                )
            )
        with Turns(
            protocol=protocol,
            trials=trials,
            job=lambda contender, batch, threads: Job(
                model=contender.model,
                precision="fp32",
                batch=batch,
                threads=threads,
                device="cpu",
                image_size=(4, 4),
                files=tmp_path,
            ),
            pictures=(),
            device=device,
            done=lambda seconds, title: None,
            between=lambda: None,
            rng=rng,
        ) as turns:
            turns.run()
        return trials

    return run


def test_all_take_their_turns(measure):
    for trial in measure("a", "b", "a"):
        assert trial.status == "ok"
        assert len(trial.rounds) == 3
        assert trial.error == 0


def test_one_that_cannot_be_loaded_does_not_spoil_the_others(measure):
    absent, other = measure("absent", "a")
    assert (absent.status, absent.reason) == ("failed", "ValueError: no such network")
    assert len(other.rounds) == 3


def test_one_that_takes_its_process_with_it_does_not_spoil_the_others(measure):
    before, dies, after = measure("a", "dies", "b")
    assert dies.status == "failed"
    assert "status 9" in dies.reason
    for other in (before, after):
        assert other.status == "ok"
        assert len(other.rounds) == 3


def test_a_batch_is_halved_until_it_fits_where_that_is_the_protocol(measure):
    (large,) = measure("large", batch=32, device="gpu")
    assert large.batch == 4
    assert len(large.rounds) == 3
    (refused,) = measure("large", batch=32)
    assert refused.status == "failed"
    assert "out of memory" in refused.reason


def test_the_best_batch_and_streams_are_searched_for(measure):
    (found,) = measure("a", batch=0, threads=2)
    assert {entry["streams"] for entry in found.scan} == {1, 2}
    assert len(found.scan) >= 6
    assert found.streams == 2  # two sleep at a time
    assert found.batch == 8
    assert len(found.rounds) == 3


def test_a_search_goes_on_where_a_batch_is_too_large(measure):
    (found,) = measure("large", batch=0)
    assert [entry["batch"] for entry in found.scan] == [1, 4]
    assert found.batch == 4
    (absent,) = measure("absent", batch=0)
    assert absent.status == "failed"
    assert absent.rounds == []
