"""Options → the model as trained: weights found, read, recognised and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from levit.errors import CheckpointError, ConfigError
from levit.export.options import ExportOptions
from levit.models.checkpoint import Checkpoint, StrictWeights, read_checkpoint
from levit.models.containers.state_dict import AVERAGED
from levit.models.hints import Hints, hints_from_config, read_config
from levit.models.hub import download
from levit.models.levit.arguments import config_from_arguments, holds_arguments
from levit.models.levit.config import LevitConfig, same_architecture
from levit.models.model import Family, Keymap, Model, Plan
from levit.models.random_weights import random_model
from levit.models.recognition import recognise
from levit.models.registry import DIGITS, FAMILIES, canonical, find_variant, known_names

__all__ = ["Source", "config_of", "digits_folder", "load_source"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """The model as trained, and what is known of where it came from.

    Attributes:
        variant: its name, also the start of the default output folder's.
        keymap: the source format.
        hints: what stood beside the checkpoint.
        origin: for the manifest.
        assumed: choices that nothing stated, in words.
    """

    model: Model
    variant: str
    keymap: Keymap
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
        if said.image_size is None:
            hints = replace(hints, image_size_from=beside.image_size_from)
    if options.size is not None:
        hints = replace(hints, image_size=options.size, image_size_from="--image-size")
    return hints


def _random_source(options: ExportOptions, seed: int) -> Source:
    hints = _user_hints(options, Hints())
    name, family, config = _named_config(options)
    said = {
        name: getattr(hints, name)
        for name in ("image_size", "in_channels", "num_classes", "activation")
        if getattr(hints, name) is not None
    }
    activation = hints.attention_activation or hints.activation or config.attention_activation
    config = replace(config, **said, attention_activation=activation)
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
        if holds_arguments(values):
            name = _custom_name(options.model or values.get("architecture"))
            config = config_from_arguments(values, str(options.config))
            if name in known_names() and not same_architecture(config_of(name)[2], config):
                raise ConfigError(
                    f"{options.config} holds the widths of another model than {name}: leave out "
                    f"--model, or correct its 'architecture'"
                )
            return name, FAMILIES["levit"], config
    if options.model is None:
        raise ConfigError(
            "random weights need a --model NAME, or a --config FILE.json with its widths"
        )
    return config_of(options.model)


def config_of(name: str) -> tuple[str, Family, LevitConfig]:
    """(name as timm spells it, family, config) of a model's name."""
    if canonical(name) == DIGITS:
        path = digits_folder() / "config.json"
        return DIGITS, FAMILIES["levit"], config_from_arguments(read_config(path), str(path))
    plain, family, variant = find_variant(name)
    return plain, family, variant.config


def _checkpoint_source(options: ExportOptions, checkpoint: Checkpoint, name: str | None) -> Source:
    if name is not None:
        config_of(name)  # an unknown name is an error before any work
    file = str(checkpoint.origin["file"])
    checkpoint, family, keymap = recognise(checkpoint)
    hints = _user_hints(options, checkpoint.hints)
    config, assumed = family.infer(checkpoint.shapes, keymap, hints)
    config = _named_as(config, name, _variant_name(family, config, hints), file)
    variant = _variant_name(family, config, hints)
    _check_stated(hints, family, config, file)
    if checkpoint.origin.get("key") in AVERAGED:
        key = checkpoint.origin["key"]
        assumed = [f"weights: the averaged ones ({key}), as timm takes them", *assumed]
    weights = StrictWeights(checkpoint.tensors)
    params = family.build(config, keymap, weights)
    weights.finish(file, keymap.ignores)
    _check_variances(checkpoint, file)
    return Source(
        model=Model(family, config, params, Plan(outputs=family.outputs(config)[:1])),
        variant=variant,
        keymap=keymap,
        hints=hints,
        origin={"format": keymap.source, **checkpoint.origin},
        assumed=tuple(assumed),
    )


def _check_stated(hints: Hints, family: Family, config: LevitConfig, file: str) -> None:
    """Raise `ConfigError` where the config beside the weights says what they are not."""
    if hints.model_type not in (None, family.name):
        raise ConfigError(
            f"the config beside {file} is of a {hints.model_type!r}, its weights are a "
            f"{family.title}'s: correct that, or leave it out"
        )
    heads = 1 + config.distilled if config.num_classes else 0
    for said, found, what in (
        (hints.num_classes, config.num_classes, "classes"),
        (hints.in_channels, config.in_channels, "input channels"),
        (None if hints.num_classes == 0 else hints.heads, heads, "classifier heads"),
    ):
        if said not in (None, found):
            raise ConfigError(f"{file} has {found} {what}, its config says {said}: correct that")
    if hints.arguments is not None:
        stated = config_from_arguments(hints.arguments, "the config beside the checkpoint")
        if not same_architecture(replace(stated, conv=config.conv), config):
            raise ConfigError(
                f"the config beside {file} holds other widths, heads or depths than its weights: "
                f"correct that, or leave them out"
            )


def _variant_name(family: Family, config: LevitConfig, hints: Hints) -> str:
    """The variant of this architecture, or what its config calls it.

    Raises:
        CheckpointError: the config names a variant of another architecture.
    """
    matching = (n for n, v in family.variants.items() if same_architecture(v.config, config))
    found = next(matching, None)
    said = _custom_name(hints.architecture)
    if said in family.variants or said == DIGITS:
        named = config_of(said)[2]
        if not same_architecture(replace(named, conv=config.conv), config):
            raise CheckpointError(
                f"the config beside the checkpoint says {said}, its weights are those of "
                f"{found or 'another LeViT'}; correct one of them"
            )
    return found or said


def _custom_name(architecture: object) -> str:
    """A name for a model of no variant: it becomes the name of a folder, so letters and digits."""
    name = canonical(str(architecture or ""))
    return name if re.fullmatch(r"[a-z0-9_]{1,64}", name) else "levit_custom"


def _named_as(config: LevitConfig, name: str | None, variant: str, file: str) -> LevitConfig:
    """The config under the name that the user gave, which may be the other twin's.

    Raises:
        CheckpointError: the checkpoint is of another architecture.
    """
    if name is None:
        return config
    wanted, _, named = config_of(name)
    # levit_conv_256 by name and its linear twin by file have the same weights: the name decides
    # the form, in which features are given.
    if same_architecture(replace(named, conv=config.conv), config):
        return replace(config, conv=named.conv)
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
