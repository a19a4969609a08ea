"""The worker processes, on engines that this file defines: no stand-in for a backend."""

import os
import signal
import subprocess
import textwrap
import time

import numpy as np
import pytest

from levit.benchmarks.correctness import REFERENCE_FILE
from levit.benchmarks.processes import WorkerFailedError, WorkerProcess, first_prediction
from levit.benchmarks.worker import Work, timed_turn

ENGINE = """
    import os, signal, sys, threading, time
    import numpy as np

    def open_runner(job):
        print("a library's greeting")  # must not be taken for a reply
        if job.model == "refuses":
            raise ValueError("no such\\nnetwork")
        if job.model == "dies":
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if job.model == "hangs":
            time.sleep(60)
        owner = threading.get_ident()

        def run(batch):
            assert threading.get_ident() == owner  # one thread opens and runs
            time.sleep(0.002)
            logits = batch.reshape(len(batch), -1)[:, :8].astype(np.float64)
            if job.model == "wrong":
                logits = logits + 1
            if job.model == "nan":
                logits = logits * np.nan
            return logits

        return run

    def open_image_runner(job):
        from levit.benchmarks.engines.pictures import ImageRunner

        def whole(data):
            time.sleep(len(data) / 1000)
            return len(data)

        def staged(data):
            answer = 9 if job.model == "another answer" else len(data)
            return answer, {"decode": len(data), "resize": 6, "network": 7}

        return ImageRunner(whole=whole, staged=staged)

    def open_line(job):
        from levit.benchmarks.engines.pictures import Line

        def run(pictures):
            assert [len(data) for data in pictures] == [1, 2, 3, 1, 2]
            until = time.process_time() + 0.02
            while time.process_time() < until:
                pass
            time.sleep(0.05)
            return [0] * len(pictures)

        return Line(4, run)
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """The name of a module with the engine above, on the path of child processes."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "toy_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "toy_engine"


@pytest.fixture
def worker(engine):
    process = WorkerProcess(1)
    yield process
    process.close()


@pytest.fixture
def load(engine, tmp_path):
    def make(model="toy", slot=1, batch=2, **more):
        job = {
            "model": model,
            "precision": "fp32",
            "batch": batch,
            "threads": 1,
            "device": "cpu",
            "image_size": [4, 4],
            "files": str(tmp_path),
        }
        return {"do": "load", "slot": slot, "code": engine, "job": job, "check": True, **more}

    return make


@pytest.fixture
def reference(tmp_path, rng):
    inputs = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
    logits = inputs.reshape(2, -1)[:, :8].astype(np.float64)
    np.savez(tmp_path / REFERENCE_FILE, input=inputs, logits=logits)


def turn(slot=1, seconds=0.05):
    return {"do": "turn", "slot": slot, "seconds": seconds}


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_the_reference_fits_any_batch(worker, load, reference, batch):
    reply = worker.ask(load(batch=batch), 30)
    assert reply["error"] == pytest.approx(0, abs=1e-6)
    assert reply["wrong"] == ""


def test_wrong_answers_are_seen(worker, load, reference):
    reply = worker.ask(load("wrong"), 30)
    assert reply["error"] > 0.1
    assert "from the reference's" in reply["wrong"]
    reply = worker.ask(load("nan", slot=2), 30)
    assert reply["error"] is None
    assert reply["wrong"]


def test_a_turn_times_every_call(worker, load):
    worker.ask(load(), 30)
    reply = worker.ask(turn(seconds=0.1), 30)
    assert len(reply["values"]) >= 2
    assert min(reply["values"]) >= 2_000_000
    assert reply["elapsed_ns"] >= sum(reply["values"])


def test_streams_run_side_by_side(worker, load):
    worker.ask(load(streams=3), 30)
    reply = worker.ask(turn(seconds=0.1), 30)
    # Three that sleep at a time: more work than one after the other could have done.
    assert sum(reply["values"]) > 1.5 * reply["elapsed_ns"]


def test_a_handicap_makes_calls_longer(worker, load):
    worker.ask(load(), 30)
    worker.ask(load(slot=2, handicap=1.0), 30)
    plain = worker.ask(turn(1, 0.1), 30)["values"]
    slowed = worker.ask(turn(2, 0.1), 30)["values"]
    assert np.median(slowed) > 1.5 * np.median(plain)


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in (1, 2, 3)]
    for number, path in enumerate(paths, 1):
        path.write_bytes(b"x" * number)
    return [str(path) for path in paths]


def test_pictures_are_taken_in_turn_with_their_stages_in_calls_between(worker, load, pictures):
    assert "failed" not in worker.ask(load(pictures=pictures), 30)
    taken = worker.ask(turn(seconds=0.05), 30)
    stages = taken["stages"]
    assert set(stages) == {"decode", "resize", "network"}
    # The length of the picture: each has its turn.
    assert set(stages["decode"]) == {1, 2, 3}
    assert set(stages["resize"]) == {6}
    # A value is a call without clocks, and the turn is as long as those.
    assert len(taken["values"]) == len(stages["decode"])
    assert min(taken["values"]) >= 1_000_000
    total = sum(taken["values"])
    assert total <= taken["elapsed_ns"] < 1.1 * total


def test_stages_of_another_answer_are_not_timed(worker, load, pictures):
    reply = worker.ask(load("another answer", pictures=pictures), 30)
    assert reply == {"failed": "stage by stage its answer is another: its stages are not timed"}


def test_many_pictures_are_one_call_with_its_cpu_time(worker, load, pictures):
    assert worker.ask(load(pictures=pictures, images=5), 30)["batch"] == 4
    taken = worker.ask(turn(seconds=0.0), 30)
    assert len(taken["values"]) == 1
    (cpu,) = taken["stages"]["cpu"]
    assert 20_000_000 <= cpu < taken["values"][0] - 40_000_000


def test_who_answers_wrongly_is_not_timed_on_pictures_either(worker, load, reference, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    reply = worker.ask(load("wrong", pictures=[str(tmp_path / "a.jpg")]), 30)
    assert "from the reference's" in reply["wrong"]


def test_what_fails_is_one_line_and_the_worker_goes_on(worker, load):
    assert worker.ask(load("refuses"), 30) == {"failed": "ValueError: no such network"}
    assert "KeyError" in worker.ask(turn(slot=9), 30)["failed"]
    assert worker.ask(load(slot=3), 30)["error"] is None
    worker.ask({"do": "unload", "slot": 3}, 30)
    assert "KeyError" in worker.ask(turn(slot=3), 30)["failed"]


def test_a_worker_that_dies_says_how(worker, load):
    with pytest.raises(WorkerFailedError, match=r"signal 11.*last words"):
        worker.ask(load("dies"), 30)
    with pytest.raises(WorkerFailedError):
        worker.ask(load(), 30)


def test_a_worker_that_hangs_is_ended(worker, load):
    with pytest.raises(WorkerFailedError, match="no answer in 2 s"):
        worker.ask(load("hangs"), 2)
    assert worker._process.poll() is not None


def test_an_interrupt_for_the_runner_does_not_end_its_workers(worker, load):
    worker.ask(load(), 30)
    os.kill(worker._process.pid, signal.SIGINT)
    assert worker.ask(turn(), 30)["values"]


def test_a_turn_has_at_least_one_call_and_an_end():
    elapsed, values, stages = timed_turn(Work(lambda: {"cpu": 3}), 0.0)
    assert len(values) == 1
    assert elapsed >= values[0]
    assert stages == {"cpu": [3]}
    _, values, _ = timed_turn(Work(lambda: None), 1e6)
    assert len(values) == 100_000
    elapsed, values, stages = timed_turn(Work(lambda: None, lambda: {"network": 3}), 0.0)
    assert (len(values), stages) == (1, {"network": [3]})
    _, values, stages = timed_turn(Work(lambda: None, lambda: {"network": 3}), 1e6)
    assert len(values) == len(stages["network"]) == 50_000


def test_a_handicap_is_of_the_calls_that_count():
    work = Work(lambda: time.sleep(0.002), lambda: time.sleep(0.002) or {"network": 1})
    slowed, plain = (timed_turn(work, 0.05, handicap)[1] for handicap in (1.0, 0.0))
    assert np.median(slowed) > 1.5 * np.median(plain)


# ------------------------------------------------------------------------- fresh processes


def test_a_fresh_process_is_timed_and_weighed(tmp_path):
    script = (
        "import sys, time\ntime.sleep(0.1)\nx = bytearray(50_000_000)\nprint(len(sys.argv[1]))\n"
    )
    found = first_prediction(script, tmp_path / "a.jpg", 1)
    assert found.top1 == len(str(tmp_path / "a.jpg"))
    assert found.elapsed_ns > 100_000_000
    assert found.peak_bytes > 50_000_000


def test_the_memory_of_a_fresh_process_is_not_that_of_its_parent(tmp_path):
    ballast = bytearray(400_000_000)
    for place in range(0, len(ballast), 4096):
        ballast[place] = 1
    assert first_prediction("print(1)\n", tmp_path, 1).peak_bytes < 200_000_000


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("raise ValueError('no network')", "ended with status 1: ValueError: no network"),
        ("print('cat')\n", "status 0: it printed no class"),
        ("import os; os._exit(3)", "status 3"),
    ],
)
def test_a_fresh_process_that_fails_is_one_line(tmp_path, script, line):
    with pytest.raises(WorkerFailedError, match=line):
        first_prediction(script, tmp_path, 1)


def test_chatter_before_the_answer_is_no_answer(tmp_path):
    found = first_prediction(
        "print('loading')\nimport time; time.sleep(0.2)\nprint(7)\n", tmp_path, 1
    )
    assert found.top1 == 7
    assert found.elapsed_ns > 200_000_000


def test_nothing_of_a_fresh_process_stays_behind(tmp_path):
    left = tmp_path / "left"
    script = (
        "import subprocess, sys\n"
        f"code = 'import time; time.sleep(1); open(' + repr({str(left)!r}) + ', chr(119))'\n"
        "subprocess.Popen([sys.executable, '-c', code])\n"
        "print(1)\n"
    )
    first_prediction(script, tmp_path, 1)
    time.sleep(1.5)
    assert not left.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_a_fresh_process_starts_leaves_none(tmp_path, monkeypatch, number):
    class StoppedError(Exception):
        pass

    def stop(*_):
        raise StoppedError

    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            started.append(self.pid)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    before = signal.signal(number, stop)
    try:
        with pytest.raises(StoppedError):
            first_prediction("import time; time.sleep(60)", tmp_path, 1)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
