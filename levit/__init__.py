"""Deployment compiler and runtime for the LeViT family of vision transformers.

``levit.Predictor`` answers; ``levit.export`` makes the artifacts that it opens.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# From 1.29 on, ONNX Runtime reports its use to its maker and keeps a number for the machine in the
# user's cache folder, unless this is set before it is first imported, and so before any module of
# this package. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "__version__"]

if TYPE_CHECKING:
    from levit.runtime.predictor import Prediction, Predictor


def __getattr__(name: str) -> Any:
    # NumPy alone takes 0.1 s to import: `levit --help` does without it.
    if name in ("Prediction", "Predictor"):
        from levit.runtime import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
