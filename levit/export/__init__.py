"""Model → artifact.

::

    from levit.export import ExportOptions, export
    export(ExportOptions(model="levit_128s", checkpoint="model.safetensors"))
"""

from __future__ import annotations

from levit.export.build import export
from levit.export.options import ExportOptions

__all__ = ["ExportOptions", "export"]
