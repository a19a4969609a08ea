"""The command line: parses, imports lazily, calls a module of `commands`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn

from levit import __version__
from levit.commands.arguments import add_commands
from levit.commands.bench_arguments import add_bench
from levit.commands.output import print_note
from levit.errors import LevitError, printable
from levit.interruption import RECEIVED
from levit.standard_streams import open_standard_streams

__all__ = ["build_parser", "main", "main_bench", "main_export"]


_DESCRIPTION = "Compile LeViT, DeiT, ConViT and ViT checkpoints for deployment, and run them."
_EXIT_STATUS = (
    "Exit status: 0 when all went well, 1 after an error or a check that failed, 2 after a mistake "
    "in the command line, 130 after Ctrl-C."
)


class _Parser(argparse.ArgumentParser):
    """A parser whose messages repeat words as a terminal can show them."""

    def _print_message(self, message: str, file: Any = None) -> None:
        lines = (printable(line) for line in message.split("\n"))
        super()._print_message("\n".join(lines), file)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    parser: argparse.ArgumentParser = _Parser(
        prog="levit", description=_DESCRIPTION, epilog=_EXIT_STATUS, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"levit {__version__}")
    parser.set_defaults(command=None, debug=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    add_commands(commands)
    add_bench(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of ``levit`` and return the exit status.

    ::

        main(["predict", "levit_128-onnx-fp32", "cat.jpg"])    # 0
    """
    debug = False
    open_standard_streams()
    try:
        arguments = _parse(argv)
        debug = arguments.debug
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except LevitError as error:
        if debug:
            raise
        if RECEIVED:
            return _stopped()
        print_note(f"error: {' '.join(str(error).split())}")
        return 1
    except KeyboardInterrupt:
        if debug:
            raise
        print_note("error: interrupted")
        return 130
    except BrokenPipeError:
        # The reader has left (`levit list | head`).
        _discard_output()
        return 141
    except MemoryError:
        if debug:
            raise
        print_note("error: out of memory; try smaller images, batches or models")
        return 1
    except OSError as error:
        # Standard output on a full disk; whatever else fails is translated where it does.
        if debug:
            raise
        _discard_output()
        print_note(f"error: {error.strerror or error} (--debug shows where)")
        return 1
    except Exception as error:
        if debug:
            raise
        if RECEIVED:
            return _stopped()
        # A bug of ours, and still one line: scripts read this.
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print_note(f"error: internal: {text}; --debug shows where, please report it")
        return 1
    finally:
        RECEIVED.clear()  # a later call in this process is another run


def _stopped() -> int:
    """Exit status of a signal that came while C++ was being loaded, which made an error of it."""
    if signal.SIGINT in RECEIVED:
        print_note("error: interrupted")
    return 128 + RECEIVED[0]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Labels and file names that the terminal's encoding lacks are no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return build_parser().parse_args(argv)
    except SystemExit:
        sys.stdout.flush()  # the help; at the interpreter's end an error would show
        raise


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command is None:
        build_parser().print_help()
        return 0
    # The reference's many small products gain nothing from BLAS threads, and on a busy machine
    # lose a factor of five to their spinning. Read once, when NumPy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    RECEIVED.clear()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if arguments.debug:
        sys.excepthook = _show_traceback
    else:
        warnings.simplefilter("ignore")  # Pillow's, beside our own line about the same picture
    module = importlib.import_module(f"levit.commands.{arguments.command}_command")
    status: int = module.run(arguments)
    return status


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an exception as Python does, without what foreign messages would do to a terminal."""
    for line in "".join(traceback.format_exception(kind, error, trace)).rstrip().split("\n"):
        print_note(line)


def _discard_output() -> None:
    """Send buffered output nowhere, so that the interpreter's last flush does not fail."""
    with contextlib.suppress(OSError, ValueError):  # stdout of a test has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main_export() -> int:
    """Entry point of ``levit-export``."""
    return main(["export", *sys.argv[1:]])


def main_bench() -> int:
    """Entry point of ``levit-bench``."""
    return main(["bench", *sys.argv[1:]])


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    RECEIVED.append(number)
    # An exception, so that half-written folders go.
    raise SystemExit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    RECEIVED.append(number)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
