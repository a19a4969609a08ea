"""The contents of a file of weights: tensors by name, and what it says beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from levit.models.ops import Array

__all__ = ["Contents"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """Tensors of one set of weights, and everything else that a file states.

    Attributes:
        tensors: by name as the file spells it, half types widened to float32.
        origin: for the manifest: ``file``, ``sha256``, ``size_bytes``; ``key``, under which the
            weights stood in a ``.pth``; ``files`` of shards.
        said: values beside the weights as plain Python (numbers, text, lists, dicts), such as
            ``arch`` and ``args`` of timm's train.py; nothing that the file names was called.
        choices: keys of the sets of weights that the file holds, where it holds several.
        notes: parts of the file that were left out, in words.
    """

    tensors: Mapping[str, Array]
    origin: Mapping[str, Any]
    said: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
