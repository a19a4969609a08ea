"""Agreement of a manifest with the network beside it, and with this machine.

The hashes in a manifest hold for the other files; nothing holds for the manifest itself. Its
inputs, outputs and preprocessing decide the answers, and the network states them too: where the
two differ, one of them is damaged or belongs to another artifact. Its requirements name the
backend and the CPU that the artifact was made for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from levit.artifact import Artifact, TensorSpec
from levit.errors import BackendUnavailableError, ConfigError, CorruptArtifactError
from levit.pictures.preprocess import PreprocessSpec
from levit.runtime.cpus import cpu_features, is_x86

__all__ = [
    "Tensor",
    "check_interface",
    "checked_labels",
    "numbers_of",
    "require_cpu_features",
    "require_version",
]

# As far as it is read: what follows two numbers may be of a development release.
_VERSION: Final = re.compile(r"\d+(\.\d+)?([.+a-z-].*)?")

# Of a version's number: there are releases that are dates.
_MOST_DIGITS: Final = 8

# Of inputs: tensors, or pixels.
_LAYOUTS: Final = {"float32": "NCHW", "uint8": "NHWC"}

# Of outputs, by their rank: classes or features, tokens, maps.
_OUTPUT_LAYOUTS: Final = {2: "NC", 3: "NLC", 4: "NCHW"}

# (name, dtype, shape), with "batch" where any number may stand.
Tensor: TypeAlias = tuple[str, str, tuple[int | str, ...]]


def check_interface(
    artifact: Artifact,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Raise where the manifest states another interface than the network has.

    Args:
        inputs, outputs: tensors of the network, in its order.
        metadata: written into the network by `levit export`; ``levit.preprocess`` is JSON,
            ``levit.scores`` the activation of the scores where that is no softmax, ``levit.batch``
            the profile of a batch, and ``levit.precision``: older releases wrote neither.

    Raises:
        CorruptArtifactError: they differ.
    """
    manifest = artifact.manifest
    batch = manifest.batch
    profile = f"{batch.min}:{batch.opt}:{batch.max}"
    first = manifest.inputs[0].shape[0]
    said = metadata.get("levit.preprocess")
    scores = metadata.get("levit.scores", "softmax")  # which is not written
    differences = {
        "inputs": [_tensor(spec) for spec in manifest.inputs] != list(inputs)
        or any(spec.layout != _LAYOUTS.get(spec.dtype) for spec in manifest.inputs),
        "outputs": [_tensor(spec) for spec in manifest.outputs] != list(outputs)
        or any(o.layout != _OUTPUT_LAYOUTS.get(len(o.shape)) for o in manifest.outputs),
        "batch sizes": (batch.static and batch.max != first)
        or batch.static == (first == "batch")
        or metadata.get("levit.batch", profile) != profile,
        "precision": metadata.get("levit.precision", manifest.precision) != manifest.precision,
        "scores": (manifest.scores or "softmax") != scores,
        "preprocessing": manifest.preprocess != (None if said is None else _spec(said)),
    }
    wrong = [name for name, differs in differences.items() if differs]
    if wrong:
        raise CorruptArtifactError(
            f"{artifact.path}: the {' and the '.join(wrong)} that it states are not those of "
            f"{artifact.manifest.payload}; copy it again, or export again"
        )


def checked_labels(artifact: Artifact) -> tuple[str, ...]:
    """Read the class names, as many as the network has classes.

    The sigmoid of one logit may have two: of the class below one half, and of the one above.

    Raises:
        CorruptArtifactError: there are more, or fewer.
    """
    labels, manifest = artifact.labels(), artifact.manifest
    for output in manifest.outputs:
        if output.name != "logits":
            continue
        binary = manifest.scores == "sigmoid" and output.shape[-1] == 1 and len(labels) == 2
        if output.shape[-1:] != (len(labels),) and not binary:
            raise CorruptArtifactError(
                f"{artifact.path}: {len(labels)} labels for logits of shape {output.shape}; "
                f"export again"
            )
    return labels


def _tensor(spec: TensorSpec) -> Tensor:
    return spec.name, spec.dtype, spec.shape


def _spec(text: str) -> PreprocessSpec | str:
    """Read the network's preprocessing; its text, which equals no spec, where it is damaged."""
    try:
        return PreprocessSpec.from_dict(json.loads(text))
    except (ValueError, TypeError, AttributeError, RecursionError, ConfigError):
        return text


def require_version(artifact: Artifact, backend: str, present: str, install: str) -> None:
    """Raise where the artifact asks for a newer backend than there is.

    Args:
        backend: name of the backend.
        present: its version here.
        install: the command that brings a newer one.

    Raises:
        BackendUnavailableError: it is too old; says which is needed.
        CorruptArtifactError: the artifact asks for no version.
    """
    wanted = artifact.manifest.requirements.get("backend_version", "")
    needed = str(wanted).removeprefix(">=")
    if wanted and not _VERSION.fullmatch(needed):
        raise CorruptArtifactError(
            f"{artifact.path}: requirements.backend_version is no version of {backend}; copy it "
            f"again, or export again"
        )
    if numbers_of(present) < numbers_of(needed):
        raise BackendUnavailableError(
            f"{artifact.path.name} needs {backend} {needed} or newer, here is {present}: {install}"
        )


def numbers_of(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version, as far as they are ones."""
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts if part.isdecimal() and len(part) <= _MOST_DIGITS)


def require_cpu_features(artifact: Artifact) -> None:
    """Raise where an x86 has none of what the manifest's ``cpu_features`` name.

    For int8 they are the instructions that add products in 32 bits: without them kernels add in
    16, saturate, and answer wrongly in silence. Other CPUs have no such kernels.

    Raises:
        BackendUnavailableError: says what is missing, and what to do.
    """
    wanted = artifact.manifest.requirements.get("cpu_features") or []
    present = cpu_features()
    if not wanted or not present or not is_x86():
        return
    if set(map(str, wanted)).isdisjoint(present):
        raise BackendUnavailableError(
            f"{artifact.path.name} computes in {artifact.manifest.precision}, for which this CPU "
            f"needs {' or '.join(map(str, wanted))}: export it with --reduce-range, or in fp32"
        )
