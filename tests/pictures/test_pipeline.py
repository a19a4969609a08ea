import gc
import itertools
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from levit.errors import InputError, LevitError
from levit.pictures import pipeline as module
from levit.pictures.pipeline import AHEAD, Pipeline


class Stop(BaseException):
    """As Ctrl-C is: no Exception."""


def write(image, row):
    """An image is a number here; a callable one does what it likes first."""
    row[...] = image() if callable(image) else image


def make(workers=2, batch=4, prepare=write, receive=lambda image: image):
    preparation = SimpleNamespace(
        receive=lambda image, lent: receive(image),
        prepare=prepare,
        allocate=lambda count: np.full((count, 3), -1, np.int64),
    )
    return Pipeline(preparation, batch=batch, workers=workers)


def run(pipeline, images, on_error="raise"):
    """Everything, one entry per image: its number or its error."""
    answers = []
    with pipeline.batches(images, on_error) as batches:
        for rows, errors in batches:
            numbers = iter(rows[:, 0].tolist())
            answers += [
                errors[place] if place in errors else next(numbers)
                for place in range(len(rows) + len(errors))
            ]
    return answers


def until_error(pipeline, images):
    """What came before it, and the error."""
    before = []
    try:
        with pipeline.batches(images) as batches:
            for rows, _ in batches:
                before += rows[:, 0].tolist()
    except Exception as error:
        return before, error
    raise AssertionError("no error")


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name == "levit worker"]


def soon(condition, seconds=10.0):
    """Whether a condition comes true within a time that no healthy machine needs."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert soon(lambda: not own_threads())


def failing(error):
    def fail():
        raise error

    return fail


def after(seconds, action):
    def wait():
        time.sleep(seconds)
        return action() if callable(action) else action

    return wait


# ------------------------------------------------------------------ order


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 12, 13, 41])
def test_every_image_is_answered_in_its_place(workers, count):
    assert run(make(workers), range(count)) == list(range(count))


def test_order_is_kept_whichever_is_ready_first(seed):
    delays = random.Random(seed)
    images = [after(delays.choice([0, 0.001, 0.004]), number) for number in range(60)]
    assert run(make(workers=5, batch=7), images) == list(range(60))


def test_batches_have_their_size_and_the_last_the_rest():
    with make(batch=4).batches(range(10)) as batches:
        assert [len(rows) for rows, _ in batches] == [4, 4, 2]


# ------------------------------------------------------------------ how far it reads


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_endless_iterable_is_read_only_as_far_as_needed(workers):
    read = []
    endless = (read.append(number) or number for number in itertools.count())
    ahead = AHEAD if workers else 0
    with make(workers, batch=4).batches(endless) as batches:
        for place, (rows, _) in enumerate(itertools.islice(batches, 50)):
            assert rows[:, 0].tolist() == list(range(4 * place, 4 * place + 4))
            assert len(read) == 4 * (place + 1 + ahead)


def test_the_iterable_is_read_in_the_calling_thread_only():
    threads = set()

    def images():
        for number in range(40):
            threads.add(threading.get_ident())
            yield number
        threads.add(threading.get_ident())

    run(make(), images())
    assert threads == {threading.get_ident()}


def test_images_are_received_one_by_one_as_they_are_read():
    events = []

    def images():
        for number in range(6):
            events.append(("read", number))
            yield number

    def receive(image):
        events.append(("received", image))
        return image

    run(make(receive=receive), images())
    assert events == [(what, n) for n in range(6) for what in ("read", "received")]


def test_rows_of_unread_images_are_not_handed_out_before_they_are_filled():
    gate = threading.Event()
    images = [0, 1, 2, lambda: gate.wait(10) and 3]
    threading.Timer(0.05, gate.set).start()
    assert run(make(workers=3), images) == [0, 1, 2, 3]


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize("workers", [0, 3])
def test_the_first_error_in_order_is_raised_with_its_position(workers):
    images = [*range(6), after(0.05, failing(InputError("slow"))), failing(InputError("quick"))]
    with pytest.raises(InputError, match=r"^images\[6\]: slow$"):
        run(make(workers), images)


def test_images_before_an_error_are_handed_out_first():
    images = [0, 1, 2, 3, 4, failing(InputError("bad")), 6]
    before, error = until_error(make(batch=4), images)
    assert (before, str(error)) == ([0, 1, 2, 3, 4], "images[5]: bad")


def test_an_error_in_the_first_place_leaves_nothing_before_it():
    with make().batches([failing(InputError("bad")), 1]) as batches:
        with pytest.raises(InputError, match=r"images\[0\]: bad"):
            next(batches)
        assert list(batches) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_returned_errors_stand_in_their_places(workers):
    bad = {n: InputError(f"bad {n}") for n in (0, 5, 6, 7, 8, 9, 22)}
    images = [failing(bad[n]) if n in bad else n for n in range(23)]
    assert run(make(workers, batch=3), images, "return") == [bad.get(n, n) for n in range(23)]


def test_only_errors_of_images_are_returned():
    images = [0, failing(InputError("bad")), 2, 3, failing(ZeroDivisionError("a bug"))]
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        run(make(), images, "return")
    assert caught.value.__notes__ == ["while preparing images[4]"]


def test_an_image_that_cannot_be_received_is_an_error_in_its_place():
    def receive(image):
        if image == 5:
            raise InputError("gone")
        return image

    pipeline = make(receive=receive)
    answers = run(pipeline, range(9), "return")
    assert str(answers.pop(5)) == "gone"
    assert answers == [0, 1, 2, 3, 4, 6, 7, 8]
    with pytest.raises(InputError, match=r"images\[5\]: gone"):
        run(pipeline, range(9))


@pytest.mark.parametrize("at", [0, 3, 4, 30])
def test_what_the_iterable_raises_comes_after_the_images_before_it(at):
    error = OSError("the camera is gone")

    def images():
        yield from range(at)
        raise error

    before, caught = until_error(make(), images())
    assert caught is error
    assert before == list(range(at))


def test_an_earlier_image_counts_before_the_iterable():
    def images():
        yield 0
        yield after(0.03, failing(InputError("bad")))
        raise OSError("the camera is gone")

    with pytest.raises(InputError, match=r"images\[1\]: bad"):
        run(make(), images())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupt_while_reading_ends_it_at_once(workers):
    def images():
        yield from range(9)
        raise Stop

    with pytest.raises(Stop):
        run(make(workers), images())


def test_an_interrupt_while_preparing_ends_it():
    # In the calling thread, as Ctrl-C is.
    with pytest.raises(Stop):
        run(make(workers=0), [0, failing(Stop()), 2])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_is_killed_is_no_answer():
    main = threading.get_ident()

    def image():
        if threading.get_ident() != main:
            raise Stop
        return 7

    # One of them surely meets a worker: the calling thread is kept busy.
    images = [*range(4), *[after(0.05, image)] * 8]
    with pytest.raises(Stop):
        run(make(workers=2), images)


def test_returned_errors_do_not_hold_the_images():
    class Large:
        def __call__(self):
            try:
                raise ValueError("the cause")
            except ValueError as error:
                raise InputError("bad") from error

    image = Large()
    gone = weakref.ref(image)
    images = [0, image, 2]
    answers = run(make(), images, "return")
    del image, images
    assert str(answers[1]) == "bad"
    assert isinstance(answers[1].__cause__, ValueError)
    assert soon(lambda: not own_threads())
    assert gone() is None


def test_images_are_let_go_of_when_they_are_done():
    class Image:
        def __call__(self):
            return 1

    gone = []

    def images():
        for _ in range(40):
            image = Image()
            gone.append(weakref.ref(image))
            yield image
            del image

    with make(workers=2, batch=4).batches(images()) as batches:
        for _ in itertools.islice(batches, 5):
            pass
        alive = sum(reference() is not None for reference in gone)
        assert alive <= (AHEAD + 1) * 4 + 2


# ------------------------------------------------------------------ threads


@pytest.mark.parametrize("workers", [1, 4])
def test_a_single_image_starts_no_thread(workers):
    seen = []
    run(make(workers, prepare=lambda image, row: seen.append(threading.get_ident())), [1])
    assert seen == [threading.get_ident()]


def test_without_workers_there_are_none():
    seen = set()
    run(make(0, prepare=lambda image, row: seen.add(threading.get_ident())), range(30))
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("workers", [1, 3])
def test_images_are_prepared_beside_the_caller(workers):
    # Nothing but a worker can have done it before the second batch is asked for.
    done = threading.Semaphore(0)
    prepare = lambda image, row: (write(image, row), done.release())  # noqa: E731
    with make(workers, batch=2, prepare=prepare).batches(range(6)) as batches:
        next(batches)
        for _ in range(6):
            assert done.acquire(timeout=10)
        assert 1 <= len(own_threads()) <= workers


def test_all_calls_together_have_no_more_threads_than_the_pipeline():
    busy, most, lock = 0, 0, threading.Lock()
    callers = set()

    def prepare(image, row):
        nonlocal busy, most
        if threading.get_ident() not in callers:
            with lock:
                busy += 1
                most = max(most, busy)
            time.sleep(0.001)
            with lock:
                busy -= 1
        write(image, row)

    pipeline = make(workers=3, prepare=prepare)

    def call(_):
        callers.add(threading.get_ident())
        return run(pipeline, range(100))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(16))) == [list(range(100))] * 16
        assert 1 <= most <= 3
        assert len(own_threads()) <= 3


def test_a_dropped_iterator_lets_its_threads_go():
    batches = make().batches(itertools.count())
    generator = (rows for rows, _ in _within(batches))
    next(generator)
    assert own_threads()
    del generator, batches
    assert soon(lambda: not own_threads())


def _within(batches):
    with batches:
        yield from batches


def test_an_iterator_in_a_cycle_lets_its_threads_go():
    class Holder:
        pass

    holder = Holder()
    holder.itself, holder.batches = holder, _within(make().batches(itertools.count()))
    next(holder.batches)
    del holder
    gc.collect()
    assert soon(lambda: not own_threads())


def test_an_iterator_that_nobody_goes_on_with_holds_no_thread(monkeypatch):
    monkeypatch.setattr(module, "LINGER_S", 0.05)
    pipeline = make()
    with pipeline.batches(itertools.count()) as batches:
        next(batches)
        assert soon(lambda: not own_threads())
        # It goes on where it was, with new ones.
        for place, (rows, _) in enumerate(itertools.islice(batches, 20), start=1):
            assert rows[0, 0] == 4 * place
        assert own_threads()


def test_nothing_is_touched_after_the_call():
    busy = threading.Event()
    ended = False
    late = []

    def slow():
        busy.set()
        time.sleep(0.1)
        late.append(ended)
        return 1

    def images():
        yield from range(3)
        yield lambda: busy.wait(10) and 3
        yield from [slow] * 8

    with pytest.raises(KeyError), make(workers=2).batches(images()) as batches:
        raise KeyError(next(batches))
    ended = True
    assert not own_threads()
    count = len(late)
    assert count < 8
    time.sleep(0.15)
    assert late == [False] * count


def test_the_callers_generator_is_closed_in_the_callers_thread():
    closed = []

    def images():
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.get_ident())

    with make().batches(images()) as batches:
        next(batches)
    assert closed == [threading.get_ident()]
    generator = _within(make(prepare=lambda image, row: time.sleep(0.01)).batches(images()))
    next(generator)
    del generator
    assert closed == [threading.get_ident()] * 2


def test_a_system_without_threads_left_does_without(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run(make(workers=4), range(30)) == list(range(30))


def test_an_iterable_may_use_the_same_pipeline():
    pipeline = make(workers=1)

    def images():
        for number in range(10):
            assert run(pipeline, range(9)) == list(range(9))
            yield number

    assert run(pipeline, images()) == list(range(10))


def test_a_forked_child_does_not_wait_for_threads_that_are_not_there(monkeypatch):
    with make().batches(itertools.count()) as batches:
        next(batches)
        with monkeypatch.context() as child:
            child.setattr(module.os, "getpid", lambda: -1)
            with pytest.raises(LevitError, match="before a fork"):
                next(batches)
        next(batches)
