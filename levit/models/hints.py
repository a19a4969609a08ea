"""Answers from a config beside a checkpoint, or from the user, where shapes cannot decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from levit.errors import ConfigError
from levit.json_values import listed, number_pair, shown, table, text, whole
from levit.models.layers import activation_name

__all__ = [
    "Hints",
    "argument_names",
    "bare_name",
    "hints_from_config",
    "is_transformers_config",
    "model_arguments",
    "refuse_pooling",
]

# Settings in timm's pretrained_cfg.
_PREPROCESSING = {"input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode"}


@dataclass(frozen=True, kw_only=True)
class Hints:
    """Answers to questions that a checkpoint's shapes leave open.

    Attributes:
        image_size: (height, width) in pixels, which the model must have.
        resize_to: the size that the user wants; it decides where shapes leave a choice, and the
            model is resized where they leave none.
        input_size: (height, width) that decides only where shapes leave a choice: timm's
            ``pretrained_cfg`` keeps the size of the weights that training began with.
        activation, attention_activation: names of this package.
        named: the name that the user gives to the model, as timm spells it.
        architecture: the name that a config gives to the model.
        repository: repository that it was copied from (transformers' ``_name_or_path``).
        in_channels, num_classes: the numbers that a config gives.
        label_names: class names in the order of the logits.
        scores: activation of the logits: ``softmax``, ``sigmoid`` or ``none``.
        pretrained_cfg: timm's preprocessing settings.
        model_type: transformers' name of the family.
        heads: the number of classifier heads that transformers' class has.
        preprocessor_config: transformers' preprocessing settings.
        data_preprocessor: mmpretrain's preprocessing settings.
        transform: settings of the evaluation transform (``mean``, ``std``, ``crop_pct``,
            ``crop_mode``, ``interpolation``, ``resize_size``, ``image_mode``) that a training
            stated; they overrule those of `pretrained_cfg`, as in timm.
        class_map: the file of class names that a training used, which is not in the checkpoint.
        arguments: the whole config, for the family to read.
        origins: name of a field above → where it was said, such as ``config.json``.
        argument_origins: the same of each name among `arguments`.
        conflicts: name of a setting → the line that says which places contradict each other.
    """

    image_size: tuple[int, int] | None = None
    resize_to: tuple[int, int] | None = None
    input_size: tuple[int, int] | None = None
    activation: str | None = None
    attention_activation: str | None = None
    named: str | None = None
    architecture: str | None = None
    repository: str | None = None
    in_channels: int | None = None
    num_classes: int | None = None
    label_names: tuple[str, ...] | None = None
    scores: str | None = None
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    model_type: str | None = None
    heads: int | None = None
    preprocessor_config: Mapping[str, Any] = field(default_factory=dict)
    data_preprocessor: Mapping[str, Any] = field(default_factory=dict)
    transform: Mapping[str, Any] = field(default_factory=dict)
    class_map: str | None = None
    arguments: Mapping[str, Any] | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    argument_origins: Mapping[str, str] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)

    @property
    def image_size_from(self) -> str:
        """The place that states the image size, or else the arguments, for messages."""
        return self.origins.get("image_size", self.arguments_from)

    @property
    def arguments_from(self) -> str:
        """The places that state `arguments`, for messages."""
        places = dict.fromkeys(where for _, where in sorted(self.argument_origins.items()))
        return " and ".join(places) or "the config"

    def origin(self, name: str) -> str:
        """The place that states a field, for messages."""
        return self.origins.get(name, "the config")

    @property
    def stated(self) -> dict[str, Any]:
        """Every answer that is there, by name."""
        apart = ("origins", "argument_origins", "conflicts")
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in apart}
        return {name: value for name, value in named.items() if value not in (None, {})}

    def said_in(self, origin: str) -> Hints:
        """The same with `origin` as the place of every answer."""
        return replace(
            self,
            origins=dict.fromkeys(self.stated, origin),
            argument_origins=dict.fromkeys(argument_names(self.arguments or {}), origin),
        )


def hints_from_config(values: Mapping[str, Any], name: str, origin: str | None = None) -> Hints:
    """Read a ``config.json`` of timm (hub repositories, ``push_to_hf_hub``) or transformers.

    Args:
        values: the parsed file. timm: ``architecture``, ``num_classes``, ``label_names``,
            ``pretrained_cfg``, ``model_args``; arguments of the model may also stand at
            the top, as the ``pretrained_cfg`` did in older timm. transformers:
            ``model_type``, ``architectures``, ``id2label``, ``image_size``,
            ``num_channels`` and the widths of the network.
        name: name of the file, for messages.
        origin: how `Hints.origins` calls it; `name` where it is None.

    Raises:
        ConfigError: a value is not what it should be.
    """
    return _hints(values, name).said_in(origin or name)


def _hints(values: Mapping[str, Any], name: str) -> Hints:
    if "architectures" in values and "model_type" not in values:
        raise ConfigError(
            f"{name}: has 'architectures' of transformers and no 'model_type'; correct it, such as "
            f'"model_type": "levit" or "deit"'
        )
    if is_transformers_config(values):
        return _transformers_hints(values, name)
    try:
        arguments = model_arguments(values)
        pretrained = table(values.get("pretrained_cfg") or {}, "pretrained_cfg")
        if "pretrained_cfg" not in values and _PREPROCESSING & set(values):
            pretrained = {key: values[key] for key in _PREPROCESSING & set(values)}
        input_size = listed(pretrained.get("input_size") or (), "input_size")
        refuse_pooling(arguments)
        labels = values.get("label_names", pretrained.get("label_names", values.get("labels")))
        return Hints(
            image_size=_size(arguments.get("img_size"), "img_size"),
            input_size=_size(input_size[1:] or None, "input_size"),
            activation=_activation(arguments.get("act_layer")),
            attention_activation=_activation(arguments.get("attn_act_layer")),
            architecture=_text(values.get("architecture"), "architecture"),
            in_channels=_number(arguments.get("in_chans"), "in_chans"),
            num_classes=_number(arguments.get("num_classes"), "num_classes"),
            label_names=None if labels is None else _labels(labels, "label_names"),
            scores=_scores(values.get("problem_type")),
            pretrained_cfg=pretrained,
            arguments=values or None,
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{name}: {error}") from error


# Classifier heads by what a class's name ends with.
_HEADS = {
    **{"Model": 0, "ForMaskedImageModeling": 0},
    **{"ForImageClassification": 1, "ForImageClassificationWithTeacher": 2},
}


def _heads(name: str | None) -> int | None:
    return next((heads for end, heads in _HEADS.items() if name and name.endswith(end)), None)


def _transformers_hints(values: Mapping[str, Any], name: str) -> Hints:
    try:
        classes = listed(values.get("architectures") or (None,), "architectures")
        heads = _heads(_text(classes[0], "architectures"))
        labels = values.get("id2label")
        label_names = None if labels is None or heads == 0 else _labels(labels, "id2label")
        number = _number(values.get("num_labels"), "num_labels")
        if number is None and label_names is not None:
            number = len(label_names)
        return Hints(
            image_size=_size(values.get("image_size"), "image_size"),
            in_channels=_number(values.get("num_channels"), "num_channels"),
            num_classes=None if heads == 0 else number,
            label_names=label_names,
            scores=None if heads == 0 else _scores(values.get("problem_type")),
            model_type=_text(values["model_type"], "model_type"),
            repository=_text(values.get("_name_or_path"), "_name_or_path"),
            heads=heads,
            arguments=values,
        )
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise ConfigError(f"{name}: {error}") from error


def refuse_pooling(arguments: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for timm's ``use_pool``, which no variant of it can reach."""
    if arguments.get("use_pool") or arguments.get("down_op", "subsample") != "subsample":
        raise ValueError("the pooling subsample (use_pool) is not supported")


def bare_name(name: str) -> str:
    """Write a model's name as timm's tables do, without its owner and the tag of its weights.

    ::

        bare_name("timm/ViT-Tiny_patch16_224.augreg_in21k")    # "vit_tiny_patch16_224"
    """
    plain = name.rpartition("/")[2].rpartition(":")[2].partition(".")[0]
    return plain.lower().replace("-", "_")


def is_transformers_config(values: Mapping[str, Any]) -> bool:
    """Tell a config in the words of transformers, whose wrapper of timm's models keeps timm's."""
    return values.get("model_type") not in (None, "timm_wrapper")


def model_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the arguments at the top of a config with those under ``model_args``.

    Raises:
        TypeError: ``model_args`` is no object.
    """
    return {**values, **table(values.get("model_args") or {}, "model_args")}


def argument_names(values: Mapping[str, Any]) -> set[str]:
    """List the names that `model_arguments` merges, whatever ``model_args`` is."""
    nested = values.get("model_args")
    return {*values, *(nested if isinstance(nested, Mapping) else ())}


def _size(value: Any, key: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        value = [value, value]
    return number_pair(value, key)


def _number(value: Any, key: str) -> int | None:
    return None if value is None else whole(value, key)


def _text(value: Any, key: str) -> str | None:
    return None if value is None else text(value, key)


def _activation(value: Any) -> str | None:
    return None if value is None else activation_name(value)


# By transformers' kind of problem, as its pipeline for images applies them.
_SCORES = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}


def _scores(value: Any) -> str | None:
    if value is None:
        return None
    problem = text(value, "problem_type")
    if problem not in _SCORES:
        raise ValueError(
            f"problem_type: expected one of {', '.join(_SCORES)}, not {shown(problem)}"
        )
    return _SCORES[problem]


def _labels(value: Any, key: str) -> tuple[str, ...]:
    if isinstance(value, Mapping):  # {index: name}, as timm writes it too
        if sorted(map(str, value)) != sorted(map(str, range(len(value)))):
            raise TypeError(f"{key!r} by index must have the indices from 0")
        value = [name for _, name in sorted(value.items(), key=lambda item: int(item[0]))]
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{key!r} must be a list of names, or names by index")
    if any(isinstance(name, bool) or not isinstance(name, (str, int, float)) for name in value):
        raise TypeError(f"{key!r} must be names")
    return tuple(map(str, value))
