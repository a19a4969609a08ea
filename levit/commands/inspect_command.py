"""``levit inspect``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from levit.artifact import MANIFEST_FILE, open_artifact
from levit.commands.names import is_model_name
from levit.commands.output import print_json, print_table
from levit.errors import ConfigError
from levit.export.description import describe_checkpoint
from levit.export.options import ExportOptions
from levit.models.counting import count
from levit.models.registry import DIGITS, FAMILIES, config_of
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["run"]

_SHOWN: Final = 5  # labels
# Options of `levit export` that decide what a checkpoint is.
_FOR_CHECKPOINTS: Final = ("model", "weights", "config", "image_size")


def run(arguments: argparse.Namespace) -> int:
    """Describe an artifact by its manifest, a checkpoint as an export would read it, or a model."""
    path = Path(arguments.path)
    if is_model_name(arguments.path):
        _refuse_flags(arguments, "a model's name")
        values = _named(arguments.path)
        rows, header = _named_rows(values), None
    elif os.path.isfile(path / MANIFEST_FILE):
        _refuse_flags(arguments, "an artifact")
        values = _artifact(path)
        rows, header = _artifact_rows(values), None
    else:
        values = _checkpoint(arguments)
        rows, header = _checkpoint_rows(values), ["setting", "value", "stated by"]
    if arguments.json:
        print_json(values)
    else:
        print_table(rows, header)
    return 0


def _refuse_flags(arguments: argparse.Namespace, what: str) -> None:
    if any(getattr(arguments, name) is not None for name in _FOR_CHECKPOINTS):
        flags = [f"--{name.replace('_', '-')}" for name in _FOR_CHECKPOINTS]
        said = f"{', '.join(flags[:-1])} and {flags[-1]}"
        raise ConfigError(f"{said} are for checkpoints, not for {what}")


def _named(name: str) -> dict[str, Any]:
    """Describe a model without its weights."""
    name, family, config = config_of(name)
    counts = count(family, config)
    variant = family.variants.get(name)
    return {
        "family": family.name,
        "variant": name,
        "config": config.to_dict(),
        "outputs": list(family.outputs(config)),
        "parameters": counts.parameters,
        "macs": counts.macs,
        "hub_id": variant.hub_id if variant else None,
        "top1": variant.top1 if variant else None,
        "top5": variant.top5 if variant else None,
    }


def _named_rows(values: Mapping[str, Any]) -> list[list[str]]:
    published = values["hub_id"] or "none published"
    if values["variant"] == DIGITS:
        published = "in this package"
    return [
        *_config_rows(values["variant"], values["config"]),
        *_count_rows(values),
        ["outputs", ", ".join(values["outputs"])],
        ["weights", published],
        *([["top-1, top-5", f"{values['top1']}, {values['top5']}"]] if values["top1"] else []),
    ]


def _artifact(path: Path) -> dict[str, Any]:
    """Show the manifest, and the counts of the model as trained."""
    values = open_artifact(path).manifest.to_dict()
    family = FAMILIES.get(values["family"])
    if family is not None:
        config = family.config_from_dict(values["config"])
        counts = count(family, config)
        values |= {"parameters": counts.parameters, "macs": counts.macs}
        values["config"] = config.to_dict()  # with what an older release did not write
    return values


def _checkpoint(arguments: argparse.Namespace) -> dict[str, Any]:
    return describe_checkpoint(
        ExportOptions(
            checkpoint=arguments.path,
            **{name: getattr(arguments, name) for name in _FOR_CHECKPOINTS},
        )
    )


def _checkpoint_rows(values: Mapping[str, Any]) -> list[list[str]]:
    """Write a checkpoint as lines of (setting, value, the place that states it)."""
    source, config, stated_by = values["source"], values["config"], values["origins"]
    model, size, classes = _config_rows(values["variant"] or values["undecided"], config)
    rows = [
        ["source", f"{source['format']}, {source.get('file', '')}".rstrip(", ")],
        *_weights_row(source, values["weights"]),
        [*model, stated_by["model"]] if values["variant"] else model,
        [*size, stated_by["image_size"]],
        [*classes, stated_by["num_classes"]],
    ]
    if values["labels"]:
        rows.append(["labels", _some(values["labels"]), stated_by["labels"]])
    if values["scores"]:
        rows.append(["scores", values["scores"], stated_by["scores"]])
    rows += _argument_rows(config, stated_by) + _picture_rows(values["preprocess"], stated_by)
    for one in values.get("candidates", ()):
        if one["preprocess"] is not None:
            words = _pictures_in_words(one["preprocess"])
            rows.append(["preprocessing", f"as a {FAMILIES[one['family']].title}: {words}"])
    outputs = ["outputs", ", ".join(values["outputs"])]
    return [*rows, *_count_rows(values), outputs, *_assumed_rows(values)]


def _picture_rows(spec: Mapping[str, Any] | None, stated_by: Mapping[str, str]) -> list[list[str]]:
    """Write the preprocessing, each setting with the place that states it."""
    if spec is None:
        return []
    return [
        ["preprocessing", f"{spec['flavour']}: {_resizing(spec)}", stated_by["crop_pct"]],
        ["interpolation", spec["interpolation"], stated_by["interpolation"]],
        *[[name, _numbers(spec[name]), stated_by[name]] for name in ("mean", "std")],
    ]


def _weights_row(source: Mapping[str, Any], choices: Sequence[str]) -> list[list[str]]:
    """Name the weights that were taken, and the others that --weights takes."""
    if not choices:
        return []
    taken = source["weights"]
    others = ", ".join(name for name in choices if name != taken)
    return [["weights", f"{taken}; others: {others}"]]


def _pictures_in_words(spec: Mapping[str, Any]) -> str:
    """Write a preprocessing in one line, as far as two families differ in it."""
    return f"{_preprocessing(spec)}, mean {_numbers(spec['mean'])}, std {_numbers(spec['std'])}"


def _numbers(values: Sequence[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _artifact_rows(values: Mapping[str, Any]) -> list[list[str]]:
    batch, verification = values["batch"], values["verification"]
    kind = "static" if batch["static"] else "dynamic"
    error = verification.get("max_relative_error")
    fired = ", ".join(f"{p['name']} {p['count']}" for p in values["passes"] if p["count"])
    source = values["source"]
    # The config of a family that this release does not know may hold anything.
    known = values["family"] in FAMILIES
    model = [["model", f"{values['variant']} of {values['family']}, which this release lacks"]]
    return [
        *(_config_rows(values["variant"], values["config"]) if known else model),
        *_count_rows(values),
        ["source", f"{source.get('format', '')}, {source.get('file', source.get('seed', ''))}"],
        ["target", f"{values['target']}, {values['precision']}"],
        ["batch", f"{kind}, {batch['min']}:{batch['opt']}:{batch['max']}"],
        *[["input", _tensor(spec)] for spec in values["inputs"]],
        *[["output", _tensor(spec)] for spec in values["outputs"]],
        ["passes", fired],
        [
            "verification",
            str(verification.get("status")) + ("" if error is None else f", {error:.1e} off"),
        ],
        *_accuracy_row(verification.get("accuracy")),
        ["size", f"{sum(f['size_bytes'] for f in values['files'].values()) / 1e6:.1f} MB"],
        *_shared_rows(values),
    ]


def _argument_rows(config: Mapping[str, Any], stated_by: Mapping[str, str]) -> list[list[str]]:
    """Write arguments of the network that a file states and its shapes do not."""
    names = ("activation", "heads", "norm_eps", "pool")
    found = [name for name in names if name in stated_by and name in config]
    return [[name, str(config[name]), stated_by[name]] for name in found]


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:_SHOWN]) + (", …" if len(labels) > _SHOWN else "")


def _accuracy_row(accuracy: Any) -> list[list[str]]:
    """Write the accuracy of an artifact of low precision."""
    if not isinstance(accuracy, dict):
        return []
    return [["accuracy", f"{accuracy.get('verdict')} on {accuracy.get('images')} images"]]


def _config_rows(variant: str, config: Mapping[str, Any]) -> list[list[str]]:
    (height, width), channels = config["image_size"], config["in_channels"]
    heads = " (two heads)" if config.get("distilled") and config["num_classes"] else ""
    return [
        ["model", variant],
        ["image size", f"{height}x{width}, {channels} channel{'' if channels == 1 else 's'}"],
        ["classes", f"{config['num_classes'] or 'none (headless)'}{heads}"],
    ]


def _count_rows(values: Mapping[str, Any]) -> list[list[str]]:
    """Count parameters and MACs of the model as trained; the passes have saved some of both."""
    if "parameters" not in values:
        return []
    return [
        ["parameters", f"{values['parameters'] / 1e6:.2f} M"],
        ["MACs", f"{values['macs'] / 1e6:.1f} M"],
    ]


def _shared_rows(values: Mapping[str, Any]) -> list[list[str]]:
    spec = values["preprocess"]
    rows = [["scores", values["scores"]]] if values["scores"] else []
    if spec is not None:
        rows.append(["preprocessing", _preprocessing(spec)])
    return [*rows, *_assumed_rows(values)]


def _assumed_rows(values: Mapping[str, Any]) -> list[list[str]]:
    return [["assumed", choice] for choice in values["assumed"]]


def _preprocessing(spec: Mapping[str, Any]) -> str:
    return f"{spec['flavour']}: {spec['interpolation']}, {_resizing(spec)}"


def _resizing(spec: Mapping[str, Any]) -> str:
    """Write how pictures get their size; and their mode, where it is another than RGB."""
    mode = f", image mode {spec['image_mode']}" if "image_mode" in spec else ""
    return f"{PreprocessSpec.from_dict(spec).resizing}, {spec['crop_mode']}{mode}"


def _tensor(spec: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, spec["shape"]))
    return f"{spec['name']} ({shape}) {spec['dtype']} {spec['layout']}"
