"""Errors of one image among many: whose they are, where they stand, and what they hold on to."""

from __future__ import annotations

from levit.errors import InputError
from levit.faults import attributed, raise_handlers

__all__ = ["blamed", "placed", "without_frames"]


def without_frames(error: InputError) -> InputError:
    """Drop the traceback of an error that is kept: its frames hold the image."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def blamed(error: Exception) -> Exception:
    """Find the error of an image's place; raise that of a signal's handler, which has none."""
    raise_handlers(error)
    return attributed(error)


def placed(error: BaseException, position: int) -> BaseException:
    """Add the position to the error of one image among many."""
    if isinstance(error, InputError):
        named = InputError(f"images[{position}]: {error}")
        named.__cause__ = error
        return named
    error.add_note(f"while preparing images[{position}]")
    return error
