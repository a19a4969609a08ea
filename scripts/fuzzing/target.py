"""Definition of a target, and the judgement of one input."""

from __future__ import annotations

import resource
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from hypothesis import strategies as st

from fuzzing.damage import one_of
from levit.errors import MAX_MESSAGE, LevitError

__all__ = ["FAILURES", "Outcome", "Target", "WrongAnswerError", "examine", "inputs_of"]

# Kinds of failure, in the order in which a table shows them.
FAILURES: Final = ("exception", "message", "wrong", "warning", "memory", "hang", "crash")


class WrongAnswerError(Exception):
    """An input was answered, and the answer is not what it should be."""


class Target(Protocol):
    """One way into levit.

    Attributes:
        name: what the command line calls it.
        memory_bytes: address space that an attempt may add.
        seconds: time that an attempt and its judgement may take, on a busy machine too.
    """

    name: str
    memory_bytes: int
    seconds: float

    def prepare(self, folder: Path) -> None:
        """Make what every attempt needs; `folder` is this target's own and stays."""

    def seeds(self) -> Sequence[bytes]:
        """Inputs as they should be."""

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        """Inputs that are `data` with something wrong with it."""

    def attempt(self, data: bytes, folder: Path) -> Any:
        """Run levit on an input; `folder` is empty. It may raise `LevitError`, nothing else."""

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        """Raise `WrongAnswerError` if `answer` is not what `data` says."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of one input.

    Attributes:
        kind: ``answered``, ``refused``, or one of `FAILURES`.
        place: where a failure was raised, so that the same ones count as one.
        detail: the message, and the traceback of a failure.
    """

    kind: str
    place: str = ""
    detail: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """True if levit did what it must not."""
        return self.kind in FAILURES


def inputs_of(target: Target) -> st.SearchStrategy[bytes]:
    """Seeds of a target with something wrong with them."""
    return one_of(target.seeds()).flatmap(target.damaged)


def examine(target: Target, data: bytes, folder: Path) -> Outcome:
    """Attempt an input and judge what comes out."""
    started = time.monotonic()
    kind, place, detail = _examine(target, data, folder)
    return Outcome(kind=kind, place=place, detail=detail, seconds=time.monotonic() - started)


def _examine(target: Target, data: bytes, folder: Path) -> tuple[str, str, str]:
    try:
        with warnings.catch_warnings(record=True) as caught, _memory(target.memory_bytes):
            warnings.simplefilter("always")
            answer = target.attempt(data, folder)
    except LevitError as error:
        return _judge_refusal(error, str(folder))
    except MemoryError as error:
        return "memory", _place(error), _traceback(error)
    except Exception as error:
        return "exception", f"{type(error).__name__} {_place(error)}", _traceback(error)
    for warning in caught:
        # Pillow warns where a file is odd; levit itself has no right to.
        if "levit" in Path(warning.filename).parts:
            where = f"{Path(warning.filename).name}:{warning.lineno}"
            return "warning", where, f"{warning.category.__name__}: {warning.message}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.judge(data, folder, answer)
    except WrongAnswerError as error:
        return "wrong", str(error).partition(":")[0], str(error)
    except Exception as error:  # of what the answer is compared with
        return "exception", f"judging: {type(error).__name__} {_place(error)}", _traceback(error)
    return "answered", "", ""


def _judge_refusal(error: LevitError, folder: str) -> tuple[str, str, str]:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return "memory", _place(cause), _traceback(error)
        cause = cause.__cause__ or cause.__context__
    message = str(error).replace(folder, ".")
    if not message or not message.isprintable() or len(message) > MAX_MESSAGE:
        return "message", f"{type(error).__name__} {_place(error)}", repr(message)
    return "refused", _place(error), f"{type(error).__name__}: {message}"


def _place(error: BaseException) -> str:
    """The innermost line of levit's own that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "levit" in Path(frame.filename).parts] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-6000:]


@contextmanager
def _memory(more: int) -> Iterator[None]:
    """Let this process's address space grow by `more` bytes and no further."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
