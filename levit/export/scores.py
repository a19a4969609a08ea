"""Activation of the scores of an artifact: from the options, the checkpoint, or the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from levit.errors import ConfigError
from levit.export.options import ExportOptions
from levit.export.sources import Source

__all__ = ["choose_scores"]

_ONE_LOGIT: Final = (
    "scores: a sigmoid, because there is one logit (--scores none for a value that is no "
    "probability)"
)


def choose_scores(
    options: ExportOptions, source: Source, labels: Sequence[str]
) -> tuple[str | None, tuple[str, ...]]:
    """The activation of the logits, and what had to be assumed, in words.

    ::

        choose_scores(ExportOptions(checkpoint="tagger", scores="sigmoid"), source, labels)

    It is the one that the options name; that of the config's ``problem_type``; a sigmoid of one
    logit; a softmax. transformers' pipeline for images has the same rule: there too one logit is a
    sigmoid unless the config says ``regression``.

    A loss of binary cross-entropy in timm's arguments (``bce_loss``) does not decide: it also
    trains models of one class a picture (mixup's targets), which timm ranks by softmax.

    Args:
        source: with the outputs that are asked for.
        labels: class names.

    Returns:
        ``softmax``, ``sigmoid``, ``none``; or None where the logits are no output.

    Raises:
        ConfigError: the activation has no meaning for such logits, or for so many names.
    """
    if "logits" not in source.model.plan.outputs:
        if options.scores is not None:
            raise ConfigError(
                "scores are made of logits, which are no output here: add logits to --outputs, or "
                "leave out --scores"
            )
        return None, ()
    one = source.model.config.num_classes == 1
    if one and options.scores == "softmax":
        raise ConfigError(
            "a softmax of one logit is 1 for every picture: --scores sigmoid, or none for values"
        )
    said = options.scores or source.hints.scores
    assumed: tuple[str, ...] = ()
    if said is None or (one and said == "softmax"):
        said, assumed = ("sigmoid", (_ONE_LOGIT,)) if one else ("softmax", ())
    if one and len(labels) == 2 and said != "sigmoid":
        raise ConfigError(
            f"two names for one logit are those below and above one half of a sigmoid, here its "
            f"scores are {said!r}: give one name"
        )
    return said, assumed
