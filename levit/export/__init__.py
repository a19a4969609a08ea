"""Model → artifact.

::

    from levit.export import ExportOptions, export
    export(ExportOptions(model="levit_128s", checkpoint="model.safetensors"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from levit.export.options import ExportOptions

__all__ = ["ExportOptions", "export"]

if TYPE_CHECKING:
    from levit.export.build import export


def __getattr__(name: str) -> Any:
    # `levit list` and `levit inspect` read sources, and do without the onnx package.
    if name == "export":
        from levit.export.build import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
