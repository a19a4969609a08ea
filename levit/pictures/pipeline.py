"""Images → batches, prepared by threads while the network runs.

The calling thread reads the iterable, runs the network, and gets the batches in order; worker
threads prepare the batches behind the one that it is at. Pillow's decoders and its resizing let
go of the interpreter lock, so they really run beside it.

Life of the threads: they belong to one call and end with it, however it ends (an answer, an
error, Ctrl-C, an iterator that is dropped). Those that find nothing to do for :data:`LINGER_S`
end by themselves, so that an iterator that nobody goes on with holds none. All calls of a
pipeline together have at most ``workers`` of them; a call that gets none prepares its batches
in its own thread, as does a call with a single image.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from levit.errors import InputError, LevitError
from levit.faults import attributed, raise_handlers

if TYPE_CHECKING:
    from levit.pictures.preparation import Preparation

__all__ = ["AHEAD", "LINGER_S", "Batch", "Batches", "Pipeline", "Rows"]

_log: Final = logging.getLogger("levit.pictures")

Rows: TypeAlias = tuple[NDArray[Any], dict[int, InputError]]

# Batches that are read from the iterable beyond the one that the network is at. With one, workers
# would idle while its last image is prepared.
AHEAD: Final = 2

# Longer than a network needs for a batch, so that threads live as long as the call.
LINGER_S: Final = 0.5


@dataclass(eq=False)
class Batch:
    """Images that are being prepared together.

    Attributes:
        start: position of its first image in the iterable.
        rows: the network's input, a row per image; that of an image with an error is not
            filled.
        errors: errors by row.
        waiting: number of rows that are neither filled nor failed yet.
    """

    start: int
    rows: NDArray[Any]
    errors: dict[int, BaseException] = field(default_factory=dict)
    waiting: int = 0


class Pipeline:
    """Batches of images, prepared by worker threads that all calls share.

    ::

        pipeline = Pipeline(preparation, batch=8, workers=2)
        with pipeline.batches(paths) as batches:
            for rows, errors in batches:
                ...

    Args:
        preparation: maker of rows from images. It receives each image in the calling thread,
            before the next one is read, and prepares it in any thread.
        batch: images per batch.
        workers: threads at most, over all calls; 0 for none.
    """

    def __init__(self, preparation: Preparation, *, batch: int, workers: int) -> None:
        self.preparation = preparation
        self.batch = batch
        self.workers = workers
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def batches(
        self, images: Iterable[Any], on_error: Literal["raise", "return"] = "raise"
    ) -> Batches:
        """Prepare batches of `images`, in order; to be used in a ``with`` statement.

        Args:
            on_error: ``raise`` the first error in its place, with its position; or ``return``
                those of unreadable images beside the rows of the others.
        """
        return Batches(self, images, keep_errors=on_error == "return")

    def start(self, thread: threading.Thread) -> bool:
        """Start a worker thread, unless there are as many as there may be."""
        if sys.is_finalizing():
            return False  # it would never run, and Python waits for it to begin
        with self._lock:
            # Counted, not kept count of: an interrupt at any place leaves this right.
            self._threads = [other for other in self._threads if other.is_alive()]
            if len(self._threads) >= self.workers:
                return False
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:  # the system gives no more
                _log.info("pictures are prepared by %d threads: %s", len(self._threads), error)
                return False
            self._threads.append(thread)
        return True


class Batches:
    """Batches of one call: an iterator of :data:`Rows`.

    When one is handed out, at most ``AHEAD`` more batches of images have been read, and none
    where there are no workers to prepare them. Every error comes in its place, after the rows of
    the images before it.
    """

    def __init__(self, pipeline: Pipeline, images: Iterable[Any], *, keep_errors: bool) -> None:
        self._pipeline = pipeline
        self._keep_errors = keep_errors
        # Of these no code of the caller's runs from one image to the next.
        self._lent = type(images) not in (list, tuple) and not isinstance(images, np.ndarray)
        self._images = iter(images)
        self._read = 0
        self._failure: BaseException | None = None
        self._exhausted = False
        self._ahead: deque[Batch] = deque()
        self._tasks: deque[tuple[Batch, int, Any]] = deque()
        self._lock = threading.Lock()
        self._added = threading.Condition(self._lock)  # to the tasks
        self._finished = threading.Condition(self._lock)  # a batch
        self._threads: set[threading.Thread] = set()
        self._ended = False
        self._pid = os.getpid()

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended = True
        # Here, and not where the last thread lets go of this: a generator's end is its caller's.
        self._images = iter(())
        self._tasks, self._ahead = deque(), deque()
        if isinstance(error, GeneratorExit) or os.getpid() != self._pid:
            # Perhaps the garbage collector's doing, in whatever thread and with whatever lock
            # held: nothing to wait for here. The threads see it, and end.
            return
        with self._lock:
            self._added.notify_all()
            threads = list(self._threads)
        for thread in threads:  # what they have in hand may be an array of the caller's
            thread.join()

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        if os.getpid() != self._pid:
            raise LevitError(
                "this iterator was begun before a fork and its threads are not in this process: "
                "begin another in the child"
            )
        most = AHEAD + 1 if self._pipeline.workers else 1
        while not self._exhausted and len(self._ahead) < most:
            self._read_batch()
        if self._ahead:
            batch = self._ahead.popleft()
            self._finish(batch)
            end = self._end(batch)
            if end:
                return _rows(batch, end)
        failure, self._failure = self._failure, None
        try:
            raise StopIteration if failure is None else failure
        finally:
            del failure  # its traceback holds this frame

    def _end(self, batch: Batch) -> int:
        """Count the rows of a batch before an error that ends it all."""
        fatal = [
            row
            for row, error in batch.errors.items()
            if not (self._keep_errors and isinstance(error, InputError))
        ]
        if not fatal:
            return len(batch.rows)
        end = min(fatal)
        self._failure = _placed(batch.errors[end], batch.start + end)
        self._exhausted = True
        self._ahead.clear()
        # Its traceback leads to this batch, and by way of the frames to whoever asked for it.
        for row in fatal:
            del batch.errors[row]
        return end

    # ------------------------------------------------------------------ the calling thread

    def _read_batch(self) -> None:
        received: list[Any] = []
        errors: dict[int, BaseException] = {}
        while len(received) < self._pipeline.batch:
            try:
                image = next(self._images)
            except StopIteration:
                self._exhausted = True
                break
            except Exception as error:
                raise_handlers(error)
                self._exhausted, self._failure = True, error
                break
            try:
                received.append(self._pipeline.preparation.receive(image, lent=self._lent))
            except Exception as error:
                errors[len(received)] = _blamed(error)
                received.append(None)
        if not received:
            return
        batch = Batch(self._read, self._pipeline.preparation.allocate(len(received)), errors)
        batch.waiting = len(received) - len(errors)
        self._read += len(received)
        self._ahead.append(batch)
        self._add([(batch, row, x) for row, x in enumerate(received) if row not in errors])

    def _add(self, tasks: list[tuple[Batch, int, Any]]) -> None:
        with self._lock:
            self._tasks.extend(tasks)
            self._added.notify(len(tasks))
            # One task is the calling thread's: a single image starts no thread.
            wanted = min(self._pipeline.workers, len(self._tasks) - 1)
            missing = wanted - len(self._threads)
        for _ in range(missing):
            thread = threading.Thread(target=self._work, name="levit worker")
            if not self._pipeline.start(thread):
                return

    def _finish(self, batch: Batch) -> None:
        """Wait for a batch, with a hand in it, as there may be no thread for it."""
        while True:
            with self._lock:
                if not self._tasks or self._tasks[0][0] is not batch:
                    while batch.waiting:
                        self._finished.wait()
                    return
                task = self._tasks.popleft()
            self._run(*task)

    # ------------------------------------------------------------------ worker threads

    def _work(self) -> None:
        with self._lock:
            self._threads.add(threading.current_thread())
        while (task := self._next_task()) is not None:
            self._run(*task)
            del task  # an image is large

    def _next_task(self) -> tuple[Batch, int, Any] | None:
        with self._lock:
            while not self._ended:
                tasks = self._tasks  # at any moment there may be others, that are none
                if tasks:
                    return tasks.popleft()
                if not self._waited():
                    break
            self._threads.discard(threading.current_thread())
        return None

    def _waited(self) -> bool:
        try:
            return self._added.wait(LINGER_S)
        except RuntimeError:  # no memory for a lock: the calling thread does without this one
            return False

    def _run(self, batch: Batch, row: int, image: Any) -> None:
        try:
            self._pipeline.preparation.prepare(image, batch.rows[row])
        except BaseException as error:
            batch.errors[row] = error
            if not isinstance(error, Exception):
                raise
            batch.errors[row] = _blamed(error)
        finally:
            with self._lock:
                batch.waiting -= 1
                if not batch.waiting:
                    self._finished.notify_all()
            # The error's traceback holds this frame, and must not hold what that error is in.
            del batch, image


def _rows(batch: Batch, end: int) -> Rows:
    errors: dict[int, InputError] = {}
    for row, error in batch.errors.items():
        if row < end and isinstance(error, InputError):
            errors[row] = _without_frames(error)
    if not errors:
        return batch.rows[:end], errors
    return batch.rows[[row for row in range(end) if row not in errors]], errors


def _without_frames(error: InputError) -> InputError:
    """Drop the traceback of an error that is kept: its frames hold the image."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _blamed(error: Exception) -> Exception:
    """Find the error of an image's place; raise that of a signal's handler, which has none."""
    raise_handlers(error)
    return attributed(error)


def _placed(error: BaseException, position: int) -> BaseException:
    """Add the position to the error of one image among many."""
    if isinstance(error, InputError):
        placed = InputError(f"images[{position}]: {error}")
        placed.__cause__ = error
        return placed
    error.add_note(f"while preparing images[{position}]")
    return error
