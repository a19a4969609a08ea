"""The exceptions that this package raises.

::

    LevitError
    ├── ConfigError               an option, model name or config that cannot be used
    ├── CheckpointError           a checkpoint that is missing, damaged, foreign or incomplete
    ├── ExportError               a model that cannot become an artifact
    ├── VerificationError         an artifact whose answers are out of tolerance
    ├── ArtifactError             an artifact that cannot be opened or written
    │   ├── ManifestVersionError      written by a newer release
    │   └── CorruptArtifactError      a file is missing or its hash is wrong
    ├── BackendUnavailableError   the backend or device is not on this machine
    ├── ResourceError             no memory, threads or open files to be had: try again later
    ├── InputError                an image or array that the model cannot take
    └── CalibrationError          calibration data that cannot be used

Every message is one line that says what is wrong and what to do: names and values that come
from files are shown with their control characters escaped, and very long messages lose their
middle. Exceptions of third-party libraries are translated where they enter, with ``from``.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ArtifactError",
    "BackendUnavailableError",
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "CorruptArtifactError",
    "ExportError",
    "InputError",
    "LevitError",
    "ManifestVersionError",
    "ResourceError",
    "VerificationError",
]


MAX_MESSAGE: Final = 1000


class LevitError(Exception):
    """Base of every error that this package raises on purpose.

    Its text is one line that a terminal can show, whatever a file name or a file has put into
    it: the fault stands at the beginning and the remedy at the end, so a long middle goes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_one_line(message))


def _one_line(message: str) -> str:
    line = printable(message)
    if len(line) <= MAX_MESSAGE:
        return line
    # The remedy stands at the end.
    kept = MAX_MESSAGE - 3
    return f"{line[: kept * 2 // 3]} … {line[len(line) - kept // 3 :]}"


def printable(text: str) -> str:
    """Write control characters, line breaks and lone surrogates of `text` as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class ConfigError(LevitError):
    """An option, a model name or a config that cannot be used."""


class CheckpointError(LevitError):
    """A checkpoint that is missing, damaged, foreign or incomplete."""


class ExportError(LevitError):
    """A model that cannot become an artifact."""


class VerificationError(LevitError):
    """An artifact whose answers are out of tolerance."""


class ArtifactError(LevitError):
    """An artifact that cannot be opened or written."""


class ManifestVersionError(ArtifactError):
    """An artifact that a newer release has written."""


class CorruptArtifactError(ArtifactError):
    """A file of the artifact is missing, or its contents are not what was written."""


class BackendUnavailableError(LevitError):
    """The backend or the device that was asked for is not on this machine."""


class ResourceError(LevitError):
    """The machine has no more memory, threads or open files to give.

    Neither the input's fault nor the artifact's: the same call may succeed later (HTTP 503).
    """


class InputError(LevitError):
    """An image or array that the model cannot take, or a predictor that is closed."""


class CalibrationError(LevitError):
    """Calibration data that cannot be used."""


def brief(error: BaseException) -> str:
    """Shorten a foreign exception's text to a part of one line of ours."""
    return " ".join(str(error).split())[:160] or type(error).__name__
