"""Description of the model that an export would make of a checkpoint, without making it."""

from __future__ import annotations

from typing import Any, Final

from levit.export.options import ExportOptions
from levit.export.origins import origins_of
from levit.export.preprocessing import choose_preprocess
from levit.export.scores import choose_scores
from levit.export.settings import choose_labels
from levit.export.sources import Source, load_source
from levit.models.counting import count
from levit.models.recognition import SeveralFamiliesError

__all__ = ["describe_checkpoint"]

# Answers that two families of one network do not share.
_APART: Final = ("family", "variant", "preprocess", "assumed")


def describe_checkpoint(options: ExportOptions) -> dict[str, Any]:
    """Describe the model, its preprocessing and labels, and the place that states each setting.

    ::

        describe_checkpoint(ExportOptions(checkpoint="model.safetensors"))["variant"]

    Returns:
        A JSON-ready dictionary. Of a network that two families share and that nothing decides,
        ``family`` and all that depends on it are None, ``undecided`` says what decides, and
        ``candidates`` holds the answers of each.

    Raises:
        LevitError: the checkpoint cannot be exported.
    """
    try:
        return _describe(options, load_source(options))
    except SeveralFamiliesError as error:
        found = [_describe(options, load_source(options, family=f)) for f in error.families]
        titles = " or ".join(family.title for family in error.families)
        return {
            **{k: None if k in _APART else v for k, v in found[0].items()},
            "undecided": f"{titles}: say which with --model",
            "candidates": [{key: one[key] for key in _APART} for one in found],
            "assumed": [text for text in found[0]["assumed"] if text in found[1]["assumed"]],
        }


def _describe(options: ExportOptions, source: Source) -> dict[str, Any]:
    model = source.model
    counts = count(model.family, model.config)
    spec, assumed = choose_preprocess(options, source)
    labels, unnamed = choose_labels(options, source)
    scores, unsaid = choose_scores(options, source, labels)
    return {
        "source": dict(source.origin),
        "weights": list(source.choices),
        "family": model.family.name,
        "variant": source.variant,
        "config": model.config.to_dict(),
        "outputs": list(model.family.outputs(model.config)),
        "parameters": counts.parameters,
        "macs": counts.macs,
        "labels": list(labels),
        "scores": scores,
        "preprocess": None if spec is None else spec.to_dict(),
        "assumed": [*source.assumed, *assumed, *unnamed, *unsaid],
        "origins": origins_of(options, source, spec),
    }
