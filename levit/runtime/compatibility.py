"""Whether a manifest and the network beside it speak of the same thing.

The hashes in a manifest hold for the other files; nothing holds for the manifest itself. Of what
it says, its inputs, outputs and preprocessing decide what comes out, and the network has them too:
where the two differ, one of them is damaged or belongs to another artifact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from levit.artifact import Artifact, TensorSpec
from levit.errors import ConfigError, CorruptArtifactError
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["Tensor", "check_interface", "checked_labels"]

# (name, dtype, shape), with "batch" where any number may stand.
Tensor: TypeAlias = tuple[str, str, tuple[int | str, ...]]


def check_interface(
    artifact: Artifact,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Compare what the manifest says with what the network is.

    Args:
        inputs, outputs: of the network, in its order.
        metadata: what `levit export` wrote into the network; ``levit.preprocess`` is JSON.

    Raises:
        CorruptArtifactError: they differ.
    """
    manifest = artifact.manifest
    batch = manifest.batch
    first = manifest.inputs[0].shape[0]
    said = metadata.get("levit.preprocess")
    differences = {
        "inputs": [_tensor(spec) for spec in manifest.inputs] != list(inputs),
        "outputs": [_tensor(spec) for spec in manifest.outputs] != list(outputs),
        "batch sizes": (batch.static and batch.max != first) or batch.static == (first == "batch"),
        "preprocessing": manifest.preprocess != (None if said is None else _spec(said)),
    }
    wrong = [name for name, differs in differences.items() if differs]
    if wrong:
        raise CorruptArtifactError(
            f"{artifact.path}: the {' and the '.join(wrong)} that it states are not those of "
            f"{artifact.manifest.payload}; copy it again, or export again"
        )


def checked_labels(artifact: Artifact) -> tuple[str, ...]:
    """Class names, as many as the network has classes.

    Raises:
        CorruptArtifactError: there are more, or fewer.
    """
    labels = artifact.labels()
    for output in artifact.manifest.outputs:
        if output.name == "logits" and output.shape[-1:] != (len(labels),):
            raise CorruptArtifactError(
                f"{artifact.path}: {len(labels)} labels for logits of shape {output.shape}; "
                f"export again"
            )
    return labels


def _tensor(spec: TensorSpec) -> Tensor:
    return spec.name, spec.dtype, spec.shape


def _spec(text: str) -> PreprocessSpec | str:
    """The network's preprocessing; where it is damaged its text, which no manifest's equals."""
    try:
        return PreprocessSpec.from_dict(json.loads(text))
    except (ValueError, TypeError, AttributeError, RecursionError, ConfigError):
        return text
