"""``--dump-passes``: the graph after each pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from levit.errors import ArtifactError
from levit.export.onnx.graph import emit_onnx
from levit.export.passes import Applied, relative_difference
from levit.export.prepare import Prepared

__all__ = ["dump_passes"]


def dump_passes(
    prepared: Prepared, applied: Sequence[Applied], folder: Path, opset: int | None
) -> None:
    """Write one plain graph per pass, in fp32, and a table of how often each fired.

    Args:
        opset: of the graphs; None for the default.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    golden = prepared.golden
    models = [("as_trained", 0, prepared.trained), *((a.name, a.count, a.model) for a in applied)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table = []
        for number, (name, count, model) in enumerate(models):
            file = folder / f"{number:02}_{name}.onnx"
            graph = emit_onnx(
                model,
                name=prepared.source.variant,
                batch=prepared.options.static_batch,
                opset=opset,
            )
            file.write_bytes(graph.SerializeToString(deterministic=True))
            difference = relative_difference(name, golden.outputs, model, golden.inputs)
            table.append(
                {"pass": name, "count": count, "relative_difference": difference, "file": file.name}
            )
        (folder / "passes.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written ({error.strerror})") from error
