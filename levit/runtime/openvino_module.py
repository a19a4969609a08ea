"""OpenVINO without its telemetry, and one core of it for the process."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Final

from levit.runtime.ownership import owned

__all__ = ["import_openvino", "openvino_core"]

# By process: a forked child has none of its parent's threads, and must not end its core either.
_cores: Final[dict[int, Any]] = {}
_making = threading.Lock()


def _renew_lock() -> None:
    """Renew the lock in a forked child, where its holder is not there to release it."""
    global _making
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def import_openvino() -> Any:
    """Import ``openvino`` so that it does not report its own import over the network.

    It, and NNCF, run without the package that does this, so that one is made out to be missing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def openvino_core() -> Any:
    """Return the process's ``openvino.Core``; it is never released.

    Each core that loads the CPU plugin moves the stack on which signals are handled, and puts
    back what it found when it ends. Of two whose lives overlap, the second puts back memory that
    the first has freed, and the next Ctrl-C is a segmentation fault (OpenVINO 2026.4).
    """
    with _making:
        core = _cores.get(os.getpid())
        if core is None:
            core = _cores[os.getpid()] = import_openvino().Core()
            owned(openvino_core, core)
        return core
