"""Exceptions that are not about the picture: of signals' handlers, and of other threads."""

import ctypes
import functools
import io
import random
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image

from levit.errors import InputError
from levit.faults import attributed, from_handler
from levit.pictures.reading import load_image
from levit.runtime.predictor import Predictor


class TimeLimit(Exception):  # noqa: N818
    """As Celery's SoftTimeLimitExceeded: no class that anything else raises."""


RAISED = [TimeLimit, TimeoutError, KeyError, ValueError, SyntaxError, RuntimeError, InputError]


def raising(kind):
    def handler(number, frame):
        deeper(kind)

    return handler


def deeper(kind):
    raise kind("time is up")


@pytest.fixture
def alarm():
    """(kind) → `kind` is raised when SIGALRM comes."""
    before = signal.getsignal(signal.SIGALRM)

    def install(kind, handler=None):
        signal.signal(signal.SIGALRM, handler or raising(kind))

    yield install
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Interrupting(io.BytesIO):
    """A file in which a signal comes at the n-th call of a method."""

    def __init__(self, data, method, at):
        super().__init__(data)
        self.method, self.left = method, at

    def _count(self, method):
        if method == self.method:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGALRM)

    def read(self, *arguments):
        self._count("read")
        return super().read(*arguments)

    def seek(self, *arguments):
        self._count("seek")
        return super().seek(*arguments)

    def tell(self):
        self._count("tell")
        return super().tell()


@pytest.mark.parametrize(
    ("kind", "file_format"),
    # Of TIFF's reading, Pillow itself takes a few classes for an end of the file.
    [*((kind, "PNG") for kind in RAISED), *((kind, "JPEG") for kind in RAISED)]
    + [(TimeLimit, name) for name in ("WEBP", "GIF", "TIFF", "BMP")],
)
def test_handler_is_heard_wherever_a_picture_is_read(predictor, alarm, kind, file_format):
    alarm(kind)
    pixels = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, file_format)
    heard = 0
    for method in ("read", "seek", "tell"):
        for at in range(1, 40):
            file = Interrupting(encoded.getvalue(), method, at)
            try:
                predictor(file)
            except kind as error:
                heard += "time is up" in str(error)
            assert (file.left <= 0) or predictor(encoded.getvalue())
            if file.left > 0:
                break
    assert heard > 3


@pytest.mark.parametrize("on_error", ["raise", "return"])
@pytest.mark.parametrize("kind", RAISED)
def test_handler_is_heard_among_many_images(tiny_artifact, digit_paths, alarm, kind, on_error):
    alarm(kind)
    images = [b"bad", *digit_paths[:3], Interrupting(digit_paths[3].read_bytes(), "read", 1)]
    for workers in (0, 2):
        images[-1].left = 1
        with (
            Predictor(tiny_artifact, threads=1, workers=workers) as predictor,
            pytest.raises(kind, match="time is up") as caught,
        ):
            # In its own words, and before the error of an image that came first.
            predictor.predict(iter(images), on_error=on_error)
        assert "images[" not in str(caught.value)
        assert not getattr(caught.value, "__notes__", ())


# Where one comes in a callback of the collector's, Python says so and goes on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", RAISED)
def test_time_limits_that_end_at_any_moment(tiny_artifact, digit_paths, alarm, kind):
    alarm(kind)
    draw = random.Random(f"{kind}")
    images = [digit_paths[i % 40].read_bytes() for i in range(64)]
    with Predictor(tiny_artifact, threads=1, workers=draw.choice([0, 2])) as predictor:
        start = time.perf_counter()
        expected = predictor.predict(images)
        whole = time.perf_counter() - start
        calls = [
            lambda: predictor.predict(images, on_error="return") == expected,
            lambda: [predictor(image) for image in images[:20]],
            lambda: len(predictor.preprocess(images)) == len(images),
            lambda: predictor.forward(np.zeros((64, 3, 96, 96), np.float32)) is not None,
        ]
        ended = 0
        for _ in range(24):
            call = draw.choice(calls)
            came = False
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.01, 0.9) * whole)
            try:
                assert call()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except kind as error:
                came = str(error.args[0]) == "time is up"
                assert came, "an error about a picture in place of the time limit's"
            ended += came
    assert ended > 3


def test_handlers_of_any_make_are_known():
    class Object:
        def __call__(self, number, frame):
            deeper(KeyError)

        def method(self, number, frame):
            deeper(KeyError)

    def replaced(number, frame):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # as one that undoes itself
        deeper(KeyError)

    def reusing(number, frame, *rest):
        rest = number  # a name that is used again
        deeper(KeyError if rest else ValueError)

    handlers = [
        *(Object(), Object().method, replaced, reusing, lambda *_: deeper(KeyError)),
        functools.partial(lambda more, number, frame: deeper(more), KeyError),
    ]
    before = signal.getsignal(signal.SIGALRM)
    for handler in handlers:
        signal.signal(signal.SIGALRM, handler)
        with pytest.raises(KeyError) as caught:
            signal.raise_signal(signal.SIGALRM)
        assert from_handler(caught.value) is caught.value
    signal.signal(signal.SIGALRM, before)


def test_other_exceptions_are_of_no_handler():
    def plain(number, frame):
        raise KeyError(number, frame)

    for made in (lambda: plain(1, None), lambda: plain(1, object()), lambda: int("x")):
        with pytest.raises((KeyError, ValueError)) as caught:
            made()
        assert from_handler(caught.value) is None
        assert attributed(caught.value) is caught.value


def test_a_handlers_exception_of_before_is_not_raised_again(predictor, alarm):
    """It is the context of an error about a picture, and not its cause."""
    alarm(TimeoutError)
    try:
        signal.raise_signal(signal.SIGALRM)
    except TimeoutError:
        with pytest.raises(InputError, match="not an image"):
            predictor(b"dear diary")


def test_exception_sent_to_a_thread_is_not_about_its_picture(tiny_artifact):
    """As libraries stop a function: PyThreadState_SetAsyncExc."""
    send = ctypes.pythonapi.PyThreadState_SetAsyncExc

    class Sending(io.BytesIO):
        def read(self, *arguments):
            send(ctypes.c_ulong(threading.get_ident()), ctypes.py_object(TimeLimit))
            return super().read(*arguments)

    encoded = io.BytesIO()
    Image.new("RGB", (9, 9)).save(encoded, "PNG")
    with Predictor(tiny_artifact, threads=1) as predictor:
        for call in (predictor, load_image, lambda x: predictor.predict([x], on_error="return")):
            with pytest.raises(TimeLimit):
                call(Sending(encoded.getvalue()))
