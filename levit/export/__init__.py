"""Model → artifact.

::

    from levit.export import ExportOptions, export

    export(ExportOptions(model="levit_128s", checkpoint="model.safetensors"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from levit.errors import BackendUnavailableError
from levit.export.options import ExportOptions

__all__ = ["ExportOptions", "export"]

if TYPE_CHECKING:
    from levit.export.api import export


def __getattr__(name: str) -> Any:
    # `levit list` and `levit inspect` read sources, and do without the onnx package.
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        # Not at the top of any module: files in PyTorch's own format are read without it.
        import safetensors  # noqa: F401

        from levit.export.api import export
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "levit":
            raise
        raise BackendUnavailableError(
            f"exporting needs {package}: pip install 'levit[export]'"
        ) from error
    return export
