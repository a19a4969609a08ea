"""TensorRT's own messages, kept for ours."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["error_log", "shortened"]

_SHOWN: Final = 3
# Where in its own code something failed comes first, what it was comes late.
_LENGTH: Final = 320


def shortened(text: str) -> str:
    """Shorten a message of TensorRT to a part of one line."""
    return " ".join(text.split())[:_LENGTH]


def error_log(trt: Any) -> Any:
    """Make a logger that shows nothing and keeps errors; ``told()`` ends a line with them.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx_bindings``.
    """

    class ErrorLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            # Not INTERNAL_ERROR, which RTX also says, once a process, where nothing is wrong.
            if severity == trt.ILogger.ERROR:
                self.errors.append(shortened(msg))

        def told(self) -> str:
            if not self.errors:
                return ", and does not say why"
            return f": {'; '.join(self.errors[:_SHOWN])}"

    return ErrorLog()
