"""Words of the command line that may be a path or a model's name."""

from __future__ import annotations

import os

from levit.models.registry import canonical, known_names

__all__ = ["is_model_name"]


def is_model_name(word: str) -> bool:
    """Tell whether a word names a model; a file or folder that is called so comes first.

    ::

        is_model_name("levit_128s")    # True, unless such a file lies here
    """
    if word.startswith("hf:") or os.path.exists(word):
        return False
    return canonical(word) in known_names()
