"""Options → the model as trained: weights found, read, recognised and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from levit.errors import CheckpointError, ConfigError
from levit.export.options import ExportOptions
from levit.models.checkpoint import Checkpoint, StrictWeights, read_checkpoint
from levit.models.hints import Hints, hints_from_config, read_config
from levit.models.hub import download
from levit.models.levit.config import LevitConfig, config_from_arguments, same_architecture
from levit.models.model import Family, Keymap, Model, Plan
from levit.models.random_weights import random_model
from levit.models.registry import DIGITS, FAMILIES, canonical, find_variant

__all__ = ["Source", "digits_folder", "load_source"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """The model as trained, and what is known of where it came from.

    Attributes:
        variant: its name, also the start of the default output folder's.
        tensors: as the checkpoint names them; empty for random weights.
        keymap: the source format.
        hints: what stood beside the checkpoint.
        origin: for the manifest.
        assumed: choices that nothing stated, in words.
    """

    model: Model
    variant: str
    keymap: Keymap
    tensors: Mapping[str, Any] = field(default_factory=dict)
    hints: Hints
    origin: Mapping[str, Any]
    assumed: tuple[str, ...] = ()


def digits_folder() -> Path:
    """Where the package keeps ``levit_digits``: weights, config, and ``images/``."""
    return Path(str(resources.files("levit"))) / "data" / DIGITS


def load_source(options: ExportOptions) -> Source:
    """Find the weights that the options name and build the model.

    Raises:
        ConfigError: the options name no model, an unknown one, or contradict each other.
        CheckpointError: the checkpoint is missing, damaged, foreign or incomplete.
    """
    if options.random_weights is not None:
        return _random_source(options, options.random_weights)
    if options.checkpoint is not None:
        return _checkpoint_source(options, _fetch(str(options.checkpoint)), options.model)
    if options.model is None:
        raise ConfigError("say what to export: --model NAME, --checkpoint PATH, or both")
    if canonical(options.model) == DIGITS:
        checkpoint = read_checkpoint(digits_folder())
        origin = {**checkpoint.origin, "package": "levit"}
        return _checkpoint_source(options, replace(checkpoint, origin=origin), DIGITS)
    name, _, variant = find_variant(options.model)
    if variant.hub_id is None:
        raise ConfigError(
            f"{name} has no published weights: pass --checkpoint PATH, or --random-weights SEED"
        )
    return _checkpoint_source(options, _fetch(f"hf:{variant.hub_id}"), name)


def _fetch(name: str) -> Checkpoint:
    if not name.startswith("hf:"):
        return read_checkpoint(Path(name))
    folder, origin = download(name.removeprefix("hf:"))
    checkpoint = read_checkpoint(folder)
    return replace(checkpoint, origin={**checkpoint.origin, **origin})


def _user_hints(options: ExportOptions, beside: Hints) -> Hints:
    """What stands beside the checkpoint, overruled by --config, overruled by --image-size."""
    hints = beside
    if options.config is not None:
        path = Path(options.config)
        said = hints_from_config(read_config(path), str(path))
        filled = {name: value for name, value in vars(said).items() if value not in (None, {})}
        hints = replace(hints, **filled)
    if options.size is not None:
        hints = replace(hints, image_size=options.size, image_size_from="--image-size")
    return hints


def _random_source(options: ExportOptions, seed: int) -> Source:
    hints = _user_hints(options, Hints())
    name, family, config = _named_config(options)
    if hints.image_size is not None:
        config = replace(config, image_size=hints.image_size)
    if hints.num_classes is not None:
        config = replace(config, num_classes=hints.num_classes)
    keymap = next(k for k in family.keymaps if k.conv == config.conv)
    return Source(
        model=random_model(family, config, seed),
        variant=name,
        keymap=keymap,
        hints=hints,
        origin={"format": "random", "seed": seed},
    )


def _named_config(options: ExportOptions) -> tuple[str, Family, LevitConfig]:
    if options.config is not None:
        values = read_config(Path(options.config))
        if "embed_dim" in {**values, **(values.get("model_args") or {})}:
            name = str(values.get("architecture") or options.model or "levit_custom")
            return name, FAMILIES["levit"], config_from_arguments(values, str(options.config))
    if options.model is None:
        raise ConfigError(
            "random weights need a --model NAME, or a --config FILE.json with its widths"
        )
    if canonical(options.model) == DIGITS:
        path = digits_folder() / "config.json"
        return DIGITS, FAMILIES["levit"], config_from_arguments(read_config(path), str(path))
    name, family, variant = find_variant(options.model)
    return name, family, variant.config


def _checkpoint_source(options: ExportOptions, checkpoint: Checkpoint, name: str | None) -> Source:
    if name is not None and canonical(name) != DIGITS:
        find_variant(name)  # an unknown name is an error before any work
    file = str(checkpoint.origin["file"])
    family, keymap = _recognise(checkpoint, file)
    hints = _user_hints(options, checkpoint.hints)
    config, assumed = family.infer(checkpoint.shapes, keymap, hints)
    variant = _variant_name(family, config, hints)
    _check_name(family, config, name, variant, file)
    if hints.num_classes not in (None, config.num_classes):
        raise ConfigError(
            f"{file} has {config.num_classes} classes, its config says {hints.num_classes}: "
            f"correct num_classes there"
        )
    weights = StrictWeights(checkpoint.tensors)
    params = family.build(config, keymap, weights)
    weights.finish(file, keymap.ignores)
    _check_variances(checkpoint, file)
    return Source(
        model=Model(family, config, params, Plan(outputs=family.outputs(config)[:1])),
        variant=variant,
        keymap=keymap,
        tensors=checkpoint.tensors,
        hints=hints,
        origin={"format": keymap.source, **checkpoint.origin},
        assumed=tuple(assumed),
    )


def _recognise(checkpoint: Checkpoint, file: str) -> tuple[Family, Any]:
    for family in FAMILIES.values():
        for keymap in family.keymaps:
            if keymap.matches(checkpoint.shapes):
                return family, keymap
    some = ", ".join(list(checkpoint.shapes)[:3])
    known = ", ".join(
        f"{family.title} of {'/'.join(sorted({k.source for k in family.keymaps}))}"
        for family in FAMILIES.values()
    )
    raise CheckpointError(
        f"{file}: not a checkpoint that this release knows ({known}); its tensors are called "
        f"{some}, …"
    )


def _variant_name(family: Family, config: LevitConfig, hints: Hints) -> str:
    for name, variant in family.variants.items():
        if same_architecture(variant.config, config):
            if hints.architecture and canonical(hints.architecture) in family.variants:
                said = canonical(hints.architecture)
                if not same_architecture(family.variants[said].config, config):
                    raise CheckpointError(
                        f"the config beside the checkpoint says {said}, its weights are those of "
                        f"{name}; correct one of them"
                    )
            return name
    return canonical(hints.architecture) if hints.architecture else "levit_custom"


def _check_name(
    family: Family, config: LevitConfig, name: str | None, variant: str, file: str
) -> None:
    if name is None or canonical(name) in (variant, DIGITS):
        return
    wanted = find_variant(name)[0]
    twin = replace(family.variants[wanted].config, conv=config.conv)
    if same_architecture(twin, config):
        return  # levit_conv_256 by name, its linear twin by file: the weights are the same
    raise CheckpointError(
        f"{file} is not a {wanted}: its shapes are those of "
        f"{'another LeViT' if variant == 'levit_custom' else variant}; leave out --model, or "
        f"name the right one"
    )


def _check_variances(checkpoint: Checkpoint, file: str) -> None:
    negative = [
        name
        for name, tensor in checkpoint.tensors.items()
        if name.endswith("running_var") and tensor.size and float(tensor.min()) < 0
    ]
    if negative:
        raise CheckpointError(
            f"{file}: negative variances in {', '.join(negative[:5])}; the file is damaged"
        )
