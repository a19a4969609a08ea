"""The pooling of a vision transformer, which its tensors show in part only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from levit.models.transformer.keymap import TransformerKeymap
from levit.models.transformer.names import Named

__all__ = ["choose_pooling"]


def choose_pooling(
    found: Mapping[str, Any], stated: Mapping[str, Any], named: Named, keymap: TransformerKeymap
) -> tuple[str, list[str]]:
    """Choose between the class token and the mean of the patches.

    The file's words decide, then the tensors (a norm behind the pooling, or no class token, is of a
    mean), then the model's name, then the source's code.

    Args:
        found: fields of the config that the shapes decide.
        stated: fields that a file states.

    Returns:
        ``token`` or ``avg``, and what had to be assumed, in words.
    """
    if "pool" in stated:
        return stated["pool"], []
    if found["distilled"]:
        return "token", []
    variant = named.config
    if found["fc_norm"] or not found["class_token"]:
        if variant is not None and variant.pool == "avg":
            return "avg", []
        return "avg", [
            "pooling: the average over the patches, as no file says otherwise (their maximum has "
            "the same tensors)"
        ]
    if variant is not None:
        return ("token" if variant.class_token else "avg"), []
    if keymap.source == "transformers":
        return "token", []  # its classes have no other
    return "token", [
        "pooling: the class token, as no file says otherwise (an average over the patches has the "
        "same tensors)"
    ]
