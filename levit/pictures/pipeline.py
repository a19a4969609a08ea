"""Images → batches, or a network's answers to them, by one pool of threads.

The calling thread reads the iterable and gets the batches in order; worker threads prepare those
behind the one that it is at. Decoders and resizing let go of the interpreter lock, so they really
run beside it. A network that a single thread can run is run by the worker that has prepared the
last image of a batch: no thread waits for another, and no two work with all cores at once. Any
other is run by the calling thread.

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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from levit.errors import InputError, LevitError
from levit.faults import raise_handlers
from levit.pictures.image_errors import blamed, placed, without_frames

if TYPE_CHECKING:
    from levit.pictures.preparation import Preparation

__all__ = ["AHEAD", "ALONE", "LINGER_S", "Batch", "Batches", "Compute", "Pipeline"]

_log: Final = logging.getLogger("levit.pictures")

# Rows of a batch, and whether the thread that calls is to compute alone → an answer to them.
Compute: TypeAlias = Callable[[NDArray[Any], bool], Any]
# What there is for the rows that could be prepared, and the errors of the others by row.
Answer: TypeAlias = tuple[Any, dict[int, InputError]]

# Batches that are read from the iterable beyond the one that the network is at. With one, workers
# would idle while its last image is prepared.
AHEAD: Final = 2

# Images of a batch that one thread computes alone: with 8 the native engine is no faster.
ALONE: Final = 4

# Longer than a network needs for a batch, so that threads live as long as the call.
LINGER_S: Final = 0.5


@dataclass(eq=False)
class Batch:
    """Images that are being prepared together.

    Attributes:
        start: position of its first image in the iterable.
        count: number of its images.
        rows: the network's input, a row per image; that of an image with an error is not
            filled.
        errors: errors by row.
        waiting: number of rows that are neither filled nor failed yet.
        answer: what is computed of them.
        failure: the error of computing it.
        done: True once there is nothing left to do for it.
    """

    start: int
    count: int
    rows: NDArray[Any]
    errors: dict[int, BaseException] = field(default_factory=dict)
    waiting: int = 0
    answer: Any = None
    failure: BaseException | None = None
    done: bool = False


class Pipeline:
    """Batches of images, prepared by worker threads that all calls share.

    ::

        pipeline = Pipeline(preparation, batch=8, workers=2)
        with pipeline.batches(paths) as batches:
            for rows, errors in batches:
                ...
        with pipeline.batches(paths, compute=run) as batches:
            for logits, errors in batches:
                ...

    Args:
        preparation: maker of rows from images. It receives each image in the calling thread,
            before the next one is read, and prepares it in any thread.
        batch: images per batch.
        workers: threads at most, over all calls; 0 for none.
        spread: let workers compute, each alone on a batch of its own, of at most :data:`ALONE`.
    """

    def __init__(
        self, preparation: Preparation, *, batch: int, workers: int, spread: bool = False
    ) -> None:
        self.preparation = preparation
        self.batch = batch
        self.workers = workers
        self.spread = spread and workers > 0
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def unit(self) -> int:
        """Images that are computed together."""
        return min(ALONE, self.batch) if self.spread else self.batch

    def batches(
        self,
        images: Iterable[Any],
        on_error: Literal["raise", "return"] = "raise",
        *,
        compute: Compute | None = None,
        preparation: Preparation | None = None,
    ) -> Batches:
        """Prepare batches of `images`, in order; to be used in a ``with`` statement.

        Args:
            on_error: ``raise`` the first error in its place, with its position; or ``return``
                those of unreadable images beside the rows of the others.
            compute: turns rows into an answer, which then comes in their place.
            preparation: in place of the pipeline's own.
        """
        return Batches(
            self,
            images,
            keep_errors=on_error == "return",
            compute=compute,
            preparation=preparation or self.preparation,
        )

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
    """Batches of one call: an iterator of (rows or what was computed of them, errors by row).

    When one is handed out, at most ``AHEAD`` more batches of images have been read, and none
    where there are no workers to prepare them. Where workers compute too, as many images are
    read, or a batch of each worker's and one more. Every error comes in its place, after the rows
    of the images before it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        images: Iterable[Any],
        *,
        keep_errors: bool,
        compute: Compute | None,
        preparation: Preparation,
    ) -> None:
        self._pipeline = pipeline
        self._keep_errors = keep_errors
        self._compute = compute
        self._preparation = preparation
        self._spread = pipeline.spread and compute is not None
        self._size, self._most = pipeline.batch, AHEAD + 1 if pipeline.workers else 1
        if self._spread:
            self._size = pipeline.unit
            images_ahead = self._most * pipeline.batch
            self._most = max(images_ahead // self._size, pipeline.workers + 1)
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
        self._busy = 0  # threads that prepare or compute
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
        self._compute = None
        if isinstance(error, GeneratorExit) or os.getpid() != self._pid:
            # Perhaps the garbage collector's doing, in whatever thread and with whatever lock
            # held: nothing to wait for here. The threads see it, and end.
            return
        with self._lock:
            self._added.notify_all()
            threads = list(self._threads)
        for thread in threads:  # what they have in hand may be an array of the caller's
            thread.join()

    def __iter__(self) -> Iterator[Answer]:
        return self

    def __next__(self) -> Answer:
        if os.getpid() != self._pid:
            raise LevitError(
                "this iterator was begun before a fork and its threads are not in this process: "
                "begin another in the child"
            )
        while not self._exhausted and len(self._ahead) < self._most:
            self._read_batch()
        if self._ahead:
            batch = self._ahead.popleft()
            self._finish(batch)
            if batch.failure is not None:
                self._exhausted, self._failure = True, batch.failure
                batch.failure = None
                self._ahead.clear()
            elif end := self._end(batch):
                return batch.answer, _errors(batch, end)
        failure, self._failure = self._failure, None
        try:
            raise StopIteration if failure is None else failure
        finally:
            del failure  # its traceback holds this frame

    def _fatal(self, batch: Batch) -> list[int]:
        """List the rows whose errors end it all."""
        return [
            row
            for row, error in batch.errors.items()
            if not (self._keep_errors and isinstance(error, InputError))
        ]

    def _end(self, batch: Batch) -> int:
        """Count the rows of a batch before an error that ends it all."""
        fatal = self._fatal(batch)
        if not fatal:
            return batch.count
        end = min(fatal)
        self._failure = placed(batch.errors[end], batch.start + end)
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
        while len(received) < self._size:
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
                received.append(self._preparation.receive(image, lent=self._lent))
            except Exception as error:
                errors[len(received)] = blamed(error)
                received.append(None)
        if not received:
            return
        rows = self._preparation.allocate(len(received))
        batch = Batch(self._read, len(received), rows, errors)
        batch.waiting = len(received) - len(errors)
        self._read += len(received)
        self._ahead.append(batch)
        if not batch.waiting:
            self._prepared(batch)
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
                    while not batch.done:
                        self._finished.wait()
                    break
                task = self._tasks.popleft()
                self._busy += 1
            self._run(*task)
        if not self._spread:
            self._complete(batch, alone=False)

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
                    self._busy += 1
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
            self._preparation.prepare(image, batch.rows[row])
        except BaseException as error:
            batch.errors[row] = error
            if not isinstance(error, Exception):
                raise
            batch.errors[row] = blamed(error)
        finally:
            del image
            with self._lock:
                batch.waiting -= 1
                last = not batch.waiting
            if last:
                self._prepared(batch)
            with self._lock:
                self._busy -= 1
            # The error's traceback holds this frame, and must not hold what that error is in.
            del batch

    def _prepared(self, batch: Batch) -> None:
        """Compute a batch, where that is its worker's work, and hand it to the calling thread."""
        try:
            if self._spread:
                with self._lock:
                    others = bool(self._threads) and (bool(self._tasks) or self._busy > 1)
                self._complete(batch, alone=others)
        finally:
            with self._lock:
                batch.done = True
                self._finished.notify_all()

    def _complete(self, batch: Batch, *, alone: bool) -> None:
        """Compute the answer to the rows before the first error that ends it all."""
        end = min(self._fatal(batch), default=batch.count)
        compute, rows = self._compute, batch.rows[:end]
        if any(row < end for row in batch.errors):
            rows = batch.rows[[row for row in range(end) if row not in batch.errors]]
        try:
            batch.answer = rows if compute is None else compute(rows, alone)
        except Exception as error:
            raise_handlers(error)
            batch.failure = error


def _errors(batch: Batch, end: int) -> dict[int, InputError]:
    """Take the errors that are handed out from a batch."""
    return {
        row: without_frames(error)
        for row, error in batch.errors.items()
        if row < end and isinstance(error, InputError)
    }
