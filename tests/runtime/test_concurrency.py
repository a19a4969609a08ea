import itertools
import multiprocessing
import os
import random
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from levit.errors import InputError
from levit.runtime.predictor import Predictor

# ------------------------------------------------------------------ threads


def mixed_work(predictor, paths, tensors, count, seed):
    """Predictions in every way, each with the places of its images."""
    choose = random.Random(seed)
    done = 0
    while done < count:
        places = [choose.randrange(len(paths)) for _ in range(choose.choice((1, 1, 3, 9, 20)))]
        way = choose.choice(("call", "forward", "predict", "stream"))
        if way == "call":
            found = [predictor(paths[place]).index for place in places]
        elif way == "forward":
            found = predictor.forward(tensors[places])["logits"].argmax(-1).tolist()
        elif way == "predict":
            found = [p.index for p in predictor.predict([paths[place] for place in places])]
        else:
            found = [p.index for p in predictor.stream(paths[place] for place in places)]
        yield from zip(places, found, strict=True)
        done += len(places)


@pytest.mark.slow
def test_sixteen_threads_get_the_answers_of_one(tiny_artifact, digit_paths, seed):
    count = 1000
    with Predictor(tiny_artifact, threads=2, workers=3) as predictor:
        tensors = predictor.preprocess(digit_paths)
        expected = [predictor(path).index for path in digit_paths]
        start = threading.Barrier(16)

        def work(number):
            start.wait()
            return list(mixed_work(predictor, digit_paths, tensors, count, seed + number))

        with ThreadPoolExecutor(16) as pool:
            for answers in pool.map(work, range(16)):
                assert len(answers) >= count
                wrong = [(place, got) for place, got in answers if got != expected[place]]
                assert wrong == []


def test_scores_do_not_depend_on_other_threads(predictor, digit_paths):
    expected = [predictor(path) for path in digit_paths]

    def work(offset):
        places = [(offset * 7 + i) % len(digit_paths) for i in range(60)]
        return [(place, predictor(digit_paths[place])) for place in places]

    with ThreadPoolExecutor(16) as pool:
        for answers in pool.map(work, range(16)):
            assert all(answer == expected[place] for place, answer in answers)


def test_closing_under_streaming_threads_is_an_answer_or_an_error(tiny_artifact, digit_paths):
    predictor = Predictor(tiny_artifact, threads=2, workers=2)
    expected = [predictor(path).index for path in digit_paths]
    begun = threading.Barrier(7)

    def work():
        stream = predictor.stream(itertools.cycle(digit_paths))
        begun.wait()
        for place in itertools.cycle(range(len(digit_paths))):
            try:
                assert next(stream).index == expected[place]
            except InputError as error:
                return str(error)
        raise AssertionError

    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(work) for _ in range(6)]
        begun.wait()
        predictor.close()
        predictor.close()
        assert all("closed" in answer.result(timeout=60) for answer in answers)


def test_many_threads_may_close_at_once(tiny_artifact, digit_paths):
    predictor = Predictor(tiny_artifact, threads=1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: predictor.close(), range(32)))
    with pytest.raises(InputError, match=r"closed.*open a new one"):
        predictor(digit_paths[0])


# ------------------------------------------------------------------ processes


def _indices(predictor, paths):
    return [prediction.index for prediction in predictor.predict(paths)]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_a_pool_take_a_predictor(tiny_artifact, digit_paths, method):
    context = multiprocessing.get_context(method)
    with Predictor(tiny_artifact, threads=1, workers=2) as predictor:
        expected = _indices(predictor, digit_paths)
        with context.Pool(2) as pool:
            found = pool.starmap(_indices, [(predictor, digit_paths)] * 4)
        assert found == [expected] * 4
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            futures = [executor.submit(_indices, predictor, digit_paths) for _ in range(4)]
            assert [future.result(60) for future in futures] == [expected] * 4


def run(code, *arguments, timeout=60):
    """A Python process: its exit status, and what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    return result.returncode, result.stdout.splitlines(), result.stderr


FORKED = """
    import os, signal, sys, threading, warnings
    warnings.simplefilter("ignore")  # Python 3.12 warns of forks with threads
    from levit import Predictor
    images = sys.argv[2:]
    predictor = Predictor(sys.argv[1], threads=2, workers=2)
    expected = predictor.predict(images)
    stream = predictor.stream(images * 20)
    next(stream)
    busy = threading.Thread(target=lambda: [predictor.predict(images) for _ in range(20)])
    busy.start()
    for _ in range(8):  # each at another moment of the threads' work
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            for use in (lambda: list(stream), lambda: predictor.predict(images),
                        lambda: predictor.preprocess(images), lambda: predictor(images[0])):
                try:
                    use()
                    os._exit(1)
                except Exception as error:
                    if "before a fork" not in str(error):
                        os._exit(2)
            del stream
            with Predictor(sys.argv[1], threads=2, workers=2) as own:
                os._exit(0 if own.predict(images) == expected else 3)
        _, status = os.waitpid(child, 0)
        print("child", os.waitstatus_to_exitcode(status))
    busy.join()
    print("parent", predictor.predict(images) == expected, len(list(stream)))
"""


def test_a_fork_under_working_threads_is_an_error_and_not_a_hang(tiny_artifact, digit_paths):
    # As many as make whole batches, so that every prediction is computed alike.
    status, lines, errors = run(FORKED, tiny_artifact, *digit_paths[:16], timeout=120)
    assert lines == ["child 0"] * 8 + ["parent True 319"], errors
    assert status == 0


EXIT = """
    import sys, threading
    from levit import Predictor
    predictor = Predictor(sys.argv[1], threads=2, workers=2)
    images = sys.argv[2:] * 50
    {action}
    print("done", flush=True)
"""


@pytest.mark.parametrize(
    "action",
    [
        "stream = predictor.stream(images); next(stream)",
        "stream = predictor.stream(images); next(stream); predictor.close()",
        "cycle = [predictor.stream(images)]; cycle.append(cycle); next(cycle[0])",
        "threading.Thread(target=predictor.predict, args=(images,)).start()",
        "threading.Thread(target=predictor.predict, args=(images,), daemon=True).start()",
        "predictor.predict(images[:30])",
    ],
)
def test_the_interpreter_ends_whatever_is_under_way(tiny_artifact, digit_paths, action):
    status, lines, errors = run(EXIT.format(action=action), tiny_artifact, *digit_paths[:16])
    assert (status, lines, errors) == (0, ["done"], "")


INTERRUPTED = """
    import signal, sys, threading
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from levit import Predictor
    predictor = Predictor(sys.argv[1], threads=2, workers=2)
    def images():
        for count in range(10**9):
            if count == 300:
                {interrupt}
            yield sys.argv[2]
    try:
        predictor.predict(images())
    except KeyboardInterrupt:
        left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        print("interrupted", [name for name in left if name.startswith("levit")])
    print(predictor(sys.argv[2]).label)
"""


@pytest.mark.parametrize(
    "interrupt",
    [
        "signal.raise_signal(signal.SIGINT)",
        # A moment later: in the network, in a decoder, or waiting for one.
        "signal.setitimer(signal.ITIMER_REAL, 0.05); "
        "signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))",
    ],
)
def test_an_interrupt_ends_the_call_and_its_threads(tiny_artifact, digit_paths, interrupt):
    code = textwrap.dedent(INTERRUPTED).format(interrupt=interrupt)
    status, lines, errors = run(code, tiny_artifact, digit_paths[0])
    assert lines == ["interrupted []", digit_paths[0].parent.name], errors
    assert status == 0


# ------------------------------------------------------------------ memory

GROWTH = """
    import sys, numpy as np
    from levit import Predictor
    predictor = Predictor(sys.argv[1], threads=2, workers=2)
    images = sys.argv[2:]
    tensors = predictor.preprocess(images)
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6
    def work(count):
        sizes = np.random.default_rng(count).integers(1, len(images) + 1, count)
        for size in sizes:
            predictor.forward(tensors[:size])
            predictor.predict([*images[:size], b""], on_error="return")
    work(100)
    before = resident()
    work(200)
    print(before, resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux only")
def test_memory_does_not_grow_with_calls_of_changing_size(tiny_artifact, digit_paths):
    # The whole of it (10,000 calls) is measured by scripts/time_pictures.py.
    _, lines, errors = run(GROWTH, tiny_artifact, *digit_paths, timeout=120)
    assert len(lines) == 1, errors
    before, after = map(float, lines[0].split())
    assert after < before * 1.05


def test_batches_of_changing_size_are_independent(tiny_artifact, digit_paths, rng):
    with Predictor(tiny_artifact, threads=2) as predictor:
        tensors = predictor.preprocess(digit_paths)
        whole = predictor.forward(tensors)["logits"]
        for size in rng.permutation(np.arange(1, 40))[:20]:
            found = predictor.forward(tensors[:size])["logits"]
            np.testing.assert_allclose(found, whole[:size], atol=1e-4)
