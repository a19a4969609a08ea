"""A predictor's end: freed with its last reference, and harmless in a forked child."""

import contextlib
import gc
import random
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest

from levit.errors import LevitError
from levit.runtime.predictor import Predictor

TARGETS = [
    "onnx",
    "openvino",
    pytest.param("native", marks=pytest.mark.native),
]


@pytest.fixture(params=TARGETS)
def target(request):
    return request.param


@pytest.fixture
def artifact(make_artifact, target):
    return make_artifact(f"release-{target}", target=target, outputs=("logits", "embedding"))


@pytest.fixture
def uncollected():
    """No garbage collector: what is freed now is freed by its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


GOOD = np.zeros((40, 40, 3), np.uint8)


def failing(images):
    yield from images
    raise RuntimeError("of the iterable")


def in_threads(predictor):
    def work():
        with contextlib.suppress(LevitError):
            predictor.predict([GOOD] * 9)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


USES = {
    "one image": lambda p: p(GOOD),
    "a bad one": lambda p: p(b"bad"),
    "many": lambda p: p.predict([GOOD] * 20),
    "a bad one among many": lambda p: p.predict([*[GOOD] * 11, b"bad", *[GOOD] * 20]),
    "bad ones in several batches": lambda p: p.predict([b"bad", *[GOOD] * 9, b"bad"] * 3),
    "a bad one that is kept": lambda p: p.predict([GOOD, b"bad", GOOD], on_error="return"),
    "embed with a bad one": lambda p: p.embed([*[GOOD] * 9, b"bad"]),
    "preprocess with a bad one": lambda p: p.preprocess([GOOD, 3]),
    "a bad batch": lambda p: p.forward(np.zeros((1, 3))),
    "a bad option": lambda p: p.predict([GOOD], top_k=0),
    "an iterable that fails": lambda p: p.predict(failing([GOOD] * 9)),
    "a stream that is dropped": lambda p: next(p.stream([GOOD] * 40)),
    "a stream with a bad one": lambda p: list(p.stream(iter([GOOD, b"bad", GOOD]))),
    "its proof": lambda p: p.check(),
    "threads": in_threads,
    "closed": lambda p: (p.close(), p(GOOD)),
    "with": lambda p: p.__enter__().__exit__(),
}


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_last_reference_frees_it_whatever_it_has_done(artifact, target, workers):
    draw = random.Random(f"{target} {workers}")
    # Each use by itself, and some that follow each other.
    plans = [[name] for name in USES] + [draw.sample([*USES], 4) for _ in range(8)]
    for plan in plans:
        predictor = Predictor(artifact, threads=1, workers=workers)
        watched = weakref.ref(predictor), weakref.ref(predictor._session)
        for name in plan:
            with contextlib.suppress(LevitError, RuntimeError):
                USES[name](predictor)
        del predictor
        # A worker of a stream that is dropped ends the batch that it computes.
        until = time.monotonic() + 10
        while any(ref() for ref in watched) and time.monotonic() < until:
            time.sleep(0.01)
        assert [ref() for ref in watched] == [None, None], plan


FORK = """
    import ctypes, gc, os, signal, sys, time
    import numpy as np
    from levit import Predictor
    from levit.errors import LevitError

    artifact, end, mode = sys.argv[1:]
    image = np.zeros((40, 40, 3), np.uint8)
    predictor = Predictor(artifact, threads=2, mode=mode)
    expected = predictor.predict([image] * 9)[0].label
    time.sleep(0.3)  # until no thread waits for the interpreter's lock, which the child would keep
    # As a server in C does: none of Python's hooks is called.
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        signal.alarm(20)
        if end in ("used", "exit"):
            try:
                assert predictor(image).label == expected
            except LevitError as error:
                assert "open a Predictor in the child" in str(error), error
        if end == "dropped":
            del predictor
            gc.collect()
        if end == "closed":
            predictor.close()
        if end in ("own", "own, exit"):
            assert Predictor(artifact, threads=2, mode=mode)(image).label == expected
        if "exit" in end:
            sys.exit(7)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), predictor(image).label == expected)
"""


@pytest.mark.parametrize("end", ["used", "exit", "dropped", "closed", "own", "own, exit"])
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_forks_without_pythons_hooks_do_not_hang(artifact, end, mode):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORK), str(artifact), end, mode],
        capture_output=True,
        text=True,
        timeout=120,
    )
    # A child that hangs is ended by its alarm: -14.
    assert (done.stdout, done.returncode) == ("7 True\n", 0), done.stderr
