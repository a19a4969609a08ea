"""The whole path on one screen: checkpoint → model → passes → target → verified artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from levit.artifact import Artifact
from levit.export.auto import write_fastest
from levit.export.options import AUTO, ExportOptions
from levit.export.prepare import prepare
from levit.export.progress import Progress, silent
from levit.export.staging import check_destination
from levit.export.targets import find_target
from levit.export.write import write
from levit.faults import attributing

__all__ = ["export"]


@attributing()
def export(options: ExportOptions, *, model: Any = None, progress: Progress = silent) -> Artifact:
    """Compile a checkpoint, or a live network, into an artifact.

    ::

        artifact = export(ExportOptions(model="levit_128s", checkpoint="model.safetensors"))
        Predictor(artifact.path)("cat.jpg").label

        network = timm.create_model("levit_128s", pretrained=True)
        export(ExportOptions(target="openvino", output="cats"), model=network)

    Args:
        options: every choice of the export.
        model: a ``torch.nn.Module`` of timm, transformers or mmpretrain, in place of a checkpoint.
            Its ``pretrained_cfg`` or ``config`` is read too; it is not changed.
        progress: called as ``progress(step, done, total)`` when a step begins or goes on; `done`
            and `total` are 0 where nothing can be counted.

    Returns:
        The artifact, opened.

    Raises:
        LevitError: whatever is wrong, in one line; nothing is written then.
    """
    # Before any work.
    target = None if options.target == AUTO else find_target(options.target, options.precision)
    if options.output is not None:
        check_destination(Path(options.output), force=options.force)
    prepared = prepare(options, model=model, progress=progress)
    if target is None:
        return write_fastest(prepared, progress=progress)
    return write(prepared, target, options, progress=progress)
