"""Deployment compiler and runtime for the LeViT family of vision transformers.

``levit.Predictor`` answers; ``levit.export`` makes the artifacts that it opens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
