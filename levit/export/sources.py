"""Options → the model as trained: weights found, read, recognised and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from levit.errors import CheckpointError, ConfigError
from levit.export.live import prove_module, read_module
from levit.export.options import ExportOptions
from levit.export.variants import asked_for, custom_name, in_named_form, variant_name
from levit.models.checkpoint import Checkpoint, StrictWeights, read_checkpoint
from levit.models.heads import with_plain_heads, without_heads
from levit.models.hints import Hints
from levit.models.hints_merging import overruled, without_conflicts
from levit.models.hub import download
from levit.models.model import Config, Family, Keymap, Model, Plan
from levit.models.random_weights import random_model
from levit.models.recognition import recognise
from levit.models.registry import (
    DIGITS,
    FAMILIES,
    canonical,
    config_of,
    digits_folder,
    find_variant,
    known_names,
)
from levit.models.user_config import overrule, read_user_config

__all__ = ["Source", "load_source"]

# Setting of a checkpoint → the option that decides it, whatever the checkpoint says.
_DECIDING: Final = {
    "architecture": "model",
    "image_size": "image_size",
    "label_names": "labels",
    "scores": "scores",
    "mean": "mean",
    "std": "std",
    "crop_pct": "crop_pct",
    "interpolation": "interpolation",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A model as trained, and where it came from.

    Attributes:
        variant: its name, also the start of the default output folder's.
        keymap: the source format.
        hints: settings that stood beside the checkpoint.
        origin: for the manifest.
        assumed: choices that nothing stated, in words.
        choices: names of the models in the checkpoint, where it holds several.
    """

    model: Model
    variant: str
    keymap: Keymap
    hints: Hints
    origin: Mapping[str, Any]
    assumed: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def trained_size(self) -> tuple[int, int]:
        """(height, width) of the images before the model was resized, if it was."""
        resized = self.origin.get("resized")
        height, width = resized["from"] if resized else self.model.config.image_size
        return height, width


def load_source(options: ExportOptions, module: Any = None, family: Family | None = None) -> Source:
    """Find the weights that the options name and build the model.

    Args:
        module: a live ``torch.nn.Module`` that has them.
        family: of a checkpoint whose tensors several families have, and nothing else says which.

    Raises:
        ConfigError: the options name no model, an unknown one, or contradict each other.
        CheckpointError: the checkpoint is missing, damaged, foreign or incomplete.
    """
    if module is not None:
        if options.random_weights is not None or options.checkpoint is not None:
            raise ConfigError("a live model has its weights: leave out checkpoint, random_weights")
        _refuse_weights(options, "a live model")
        return _checkpoint_source(options, read_module(module), options.model, module)
    if options.random_weights is not None:
        _refuse_weights(options, "random weights")
        return _random_source(options, options.random_weights)
    if options.checkpoint is not None:
        checkpoint = _fetch(str(options.checkpoint), options.weights)
        return _checkpoint_source(options, checkpoint, options.model, family=family)
    if options.model is None:
        raise ConfigError("say what to export: --model NAME, --checkpoint PATH, or both")
    if canonical(options.model) == DIGITS:
        _refuse_weights(options, DIGITS)
        checkpoint = read_checkpoint(digits_folder())
        origin = {**checkpoint.origin, "package": "levit"}
        return _checkpoint_source(options, replace(checkpoint, origin=origin), DIGITS)
    name, _, variant = find_variant(options.model)
    if variant.hub_id is None:
        raise ConfigError(
            f"{name} has no published weights: pass --checkpoint PATH, or --random-weights SEED"
        )
    return _checkpoint_source(options, _fetch(f"hf:{variant.hub_id}", options.weights), name)


def _refuse_weights(options: ExportOptions, what: str) -> None:
    if options.weights is not None:
        raise ConfigError(f"weights chooses among those in a checkpoint; leave it out for {what}")


def _fetch(name: str, weights: str | None) -> Checkpoint:
    if not name.startswith("hf:"):
        return read_checkpoint(Path(name), weights)
    folder, origin = download(name.removeprefix("hf:"))
    checkpoint = read_checkpoint(folder, weights)
    return replace(checkpoint, origin={**checkpoint.origin, **origin})


def _user_hints(options: ExportOptions, beside: Hints) -> Hints:
    """Overrule what a checkpoint and the files beside it say by --config and by flags.

    Raises:
        ConfigError: two places contradict each other, and the user decides between them nowhere.
    """
    hints = beside
    if options.config is not None:
        hints = overrule(beside, *read_user_config(options.config))
    if options.size is not None:
        hints = replace(hints, resize_to=options.size)
    hints = without_conflicts(hints, _decided(options))
    if hints.conflicts:
        raise ConfigError(next(iter(hints.conflicts.values())))
    return hints


def _decided(options: ExportOptions) -> set[str]:
    """List the settings that flags decide, whatever the checkpoint and its files say."""
    decided = {name for name, option in _DECIDING.items() if getattr(options, option) is not None}
    if options.preprocess is not None:
        decided |= {"mean", "std", "crop_pct", "crop_mode", "interpolation"}
    if options.model is not None and canonical(options.model) in FAMILIES:
        decided.remove("architecture")  # any of a family's models may be meant
    return decided


def _random_source(options: ExportOptions, seed: int) -> Source:
    hints = _user_hints(options, Hints())
    name, family, config = _named_config(options)
    stated = {
        "image_size": options.size or hints.image_size,
        "in_channels": hints.in_channels,
        "num_classes": hints.num_classes,
        "activation": hints.activation,
        "attention_activation": hints.attention_activation or hints.activation,
    }
    own = {field.name for field in fields(config)}
    stated = {key: value for key, value in stated.items() if value is not None and key in own}
    if hints.arguments is not None and not family.holds_arguments(hints.arguments):
        named = config
        config = family.with_arguments(named, hints.arguments, hints.arguments_from)
        if not family.same_architecture(named, config):
            name = f"{family.name}_custom"
    config = replace(config, **stated)
    return Source(
        model=random_model(family, config, seed),
        variant=name,
        keymap=family.keymap_for(config),
        hints=hints,
        origin={"format": "random", "seed": seed},
    )


def _named_config(options: ExportOptions) -> tuple[str, Family, Any]:
    if options.config is not None:
        values, file = read_user_config(options.config)
        family = _family_of_arguments(values, file, options.model)
        if family is not None:
            name = custom_name(options.model or values.get("architecture"), family)
            config = family.config_from_arguments(values, file)
            if name in known_names():
                _, other, named = config_of(name)
                if other is not family or not family.same_architecture(named, config):
                    raise ConfigError(
                        f"{file} holds the widths of another model than {name}: leave "
                        f"out --model, or correct its 'architecture'"
                    )
            return name, family, config
    if options.model is None:
        raise ConfigError("random weights need a --model NAME, or a --config with its widths")
    return config_of(options.model)


def _family_of_arguments(values: Mapping[str, Any], file: str, model: str | None) -> Family | None:
    """Find the family whose widths a config states; None where it states none."""
    holding = [family for family in FAMILIES.values() if family.holds_arguments(values)]
    if len(holding) < 2:
        return next(iter(holding), None)
    model_type = values.get("model_type")
    for said in (model, values.get("architecture")):
        if said is not None:
            name = canonical(str(said))
            for family in holding:
                if name in family.variants or name.startswith(family.name):
                    return family
    for family in holding:
        if family.model_types and model_type == family.model_types[0]:
            return family
    raise ConfigError(
        f"{file} holds the widths of a vision transformer of some family: say which with "
        f"{' or '.join(f'--model {family.name}' for family in holding)}"
    )


def _with_heads(
    checkpoint: Checkpoint, keymap: Keymap, user: Hints, *, live: bool
) -> tuple[Checkpoint, list[str]]:
    """Give classifiers their source's names, and leave out those that the user does not want.

    Nothing is assumed of a live network's: it proves itself.
    """
    tensors, said = checkpoint.tensors, user.arguments or {}
    left_out: list[str] = []
    if user.num_classes == 0:
        tensors, left_out = without_heads(tensors, keymap)
    elif said.get("distilled") is False:
        tensors, left_out = without_heads(tensors, keymap, first=1)
    tensors, assumed = with_plain_heads(tensors, keymap, str(checkpoint.origin["file"]))
    return replace(checkpoint, tensors=tensors), [*left_out, *([] if live else assumed)]


def _checkpoint_source(
    options: ExportOptions,
    checkpoint: Checkpoint,
    name: str | None,
    module: Any = None,
    family: Family | None = None,
) -> Source:
    asked, named = asked_for(name)  # an unknown one is an error before any work
    file = str(checkpoint.origin["file"])
    hints = _user_hints(options, checkpoint.hints)
    checkpoint, family, keymap = recognise(replace(checkpoint, hints=hints), asked or family)
    if asked not in (None, family):
        raise CheckpointError(
            f"{file} is not a {name}: its tensors are those of a {family.title}; say --model "
            f"{family.name}"
        )
    if named is not None:
        hints = overruled(hints, Hints(architecture=named[0], named=named[0]).said_in("--model"))
    user = _user_hints(options, Hints())
    checkpoint, replaced = _with_heads(checkpoint, keymap, user, live=module is not None)
    with _named_in_errors(file):
        config, inferred = family.infer(checkpoint.shapes, keymap, hints)
    assumed = [*checkpoint.notes, *replaced, *inferred]
    if named is not None:
        config = in_named_form(config, family, named, hints, file)
    variant = variant_name(family, config, hints, live=module is not None)
    _check_stated(hints, family, config, file)
    weights = StrictWeights(checkpoint.tensors)
    params = family.build(config, keymap, weights)
    weights.finish(file, keymap.ignores)
    _check_variances(checkpoint, file)
    model = Model(family, config, params, Plan(outputs=family.outputs(config)[:1]))
    if module is not None:
        prove_module(module, model)
    source = Source(
        model=model,
        variant=variant,
        keymap=keymap,
        hints=hints,
        origin={"format": keymap.source, **checkpoint.origin},
        assumed=tuple(assumed),
        choices=checkpoint.choices,
    )
    size = hints.resize_to
    return source if size in (None, config.image_size) else _resized(source, size)


def _resized(source: Source, size: tuple[int, int]) -> Source:
    """Resize the model to other images, and record it."""
    model, trained = source.model, source.model.config.image_size
    config, params, how = model.family.resize(model.config, model.params, size)
    record = {"from": list(trained), "to": list(size), "how": list(how)}
    before, after = ("x".join(map(str, sides)) for sides in (trained, size))
    return replace(
        source,
        model=Model(model.family, config, params, model.plan),
        origin={**source.origin, "resized": record},
        assumed=(*source.assumed, f"resized from {before} to {after}: {'; '.join(how)}"),
    )


@contextmanager
def _named_in_errors(file: str) -> Iterator[None]:
    """Name the file in errors about its tensors."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{file}: {error}") from error


def _check_stated(hints: Hints, family: Family, config: Config, file: str) -> None:
    """Raise `ConfigError` where the config beside the weights says what they are not."""
    if hints.model_type not in (None, *family.model_types):
        raise ConfigError(
            f"{hints.origin('model_type')} beside {file} is of a {hints.model_type!r}, its weights "
            f"are a {family.title}'s: correct that, or leave it out"
        )
    alone = hints.num_classes == 0 or (hints.arguments or {}).get("distilled") is False
    for name, found, what, key in (
        ("num_classes", config.num_classes, "classes", "num_classes"),
        ("in_channels", config.in_channels, "input channels", "in_chans"),
        ("heads", config.classifier_heads, "classifier heads", None),
    ):
        said = getattr(hints, name)
        if said not in (None, found) and not (name == "heads" and alone):
            origin = hints.origin(name)
            overrules = key is not None and not origin.startswith("--")
            way = f", or say --config '{{\"{key}\": {found}}}'" if overrules else ""
            raise ConfigError(f"{file} has {found} {what}, {origin} says {said}: correct that{way}")


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
