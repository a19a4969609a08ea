"""OpenVINO without its telemetry."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["import_openvino"]


def import_openvino() -> Any:
    """The module ``openvino``, which would otherwise report its own import over the network.

    It, and NNCF, run without the package that does this, so that one is made out to be missing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
