"""Texts that a payload carries so that it stands by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping

__all__ = ["metadata_of"]


def metadata_of(
    preprocess: Mapping[str, object] | None,
    labels: tuple[str, ...],
    variant: str,
    scores: str | None = None,
    profile: tuple[int, int, int] | None = None,
    precision: str | None = None,
) -> dict[str, str]:
    """Entries by name, for those who have the file without its manifest.

    Args:
        scores: activation of the logits; a softmax is not written, as in files of older releases.
        profile: least, usual and largest batch, by which the runtime makes its own.
        precision: of the artifact, in which OpenVINO computes.
    """
    values = {"levit.variant": variant}
    if profile is not None:
        values["levit.batch"] = ":".join(map(str, profile))
    if precision is not None:
        values["levit.precision"] = precision
    if preprocess is not None:
        values["levit.preprocess"] = json.dumps(preprocess)
    if labels:
        values["levit.labels"] = json.dumps(list(labels), ensure_ascii=False)
    if scores not in (None, "softmax"):
        values["levit.scores"] = scores
    return values
