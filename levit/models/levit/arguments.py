"""The arguments of a model, as timm's or transformers' files spell them → a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from levit.errors import ConfigError
from levit.json_values import flag, listed, number, number_pair, shown, whole
from levit.models.hints import argument_names, model_arguments, refuse_pooling
from levit.models.layers import activation_name
from levit.models.levit.config import BlockConfig, LevitConfig, StageConfig, levit_config

__all__ = ["check_parts", "config_from_arguments", "holds_arguments", "refuse_parts"]

# Defaults of transformers' LevitConfig, and values that the shapes of a checkpoint would not
# betray if they were otherwise.
_TRANSFORMERS: Final[Mapping[str, Any]] = {
    "hidden_sizes": (128, 256, 384),
    "num_attention_heads": (4, 8, 12),
    "depths": (4, 4, 4),
    "key_dim": (16, 16, 16),
    "attention_ratio": (2, 2, 2),
    "mlp_ratio": (2, 2, 2),
}
_FIXED: Final = {"kernel_size": 3, "stride": 2, "padding": 1, "patch_size": 16}


_WIDTHS: Final = {"embed_dim", "key_dim", "num_heads", "depth"}


def holds_arguments(values: Mapping[str, Any]) -> bool:
    """Tell whether a JSON file holds the widths of a LeViT."""
    return argument_names(values) >= _WIDTHS or values.get("model_type") == "levit"


# Arguments of timm's LeViT that say nothing of the network without the others.
_PARTS: Final = (*sorted(_WIDTHS), "attn_ratio", "mlp_ratio", "stem_type", "distilled", "use_conv")
# Arguments of vision transformers that a LeViT has not.
_FOREIGN: Final = ("norm_eps", "qkv_bias", "patch_size", "class_token", "reg_tokens")


def refuse_parts(values: Mapping[str, Any], name: str) -> None:
    """Raise `ConfigError` for arguments that change the network, where some are not stated.

    Args:
        values: the JSON object of a file that does not hold all of them.
        name: name of the file, for messages.
    """
    said = argument_names(values)
    if parts := [key for key in (*_PARTS, *_FOREIGN) if key in said]:
        raise ConfigError(
            f"{name} states {', '.join(parts)} of a LeViT: state all of embed_dim, key_dim, "
            f"num_heads and depth, or leave that out"
        )


def check_parts(config: LevitConfig, values: Mapping[str, Any], name: str) -> None:
    """Compare some arguments of timm's LeViT, not all of which are stated, with a network.

    Args:
        config: of the weights.

    Raises:
        ConfigError: they contradict each other, or a LeViT has no such argument.
    """
    said = model_arguments(values)
    if said.get("global_pool") not in (None, "avg") and config.num_classes:
        raise ConfigError(
            f"{name}: global_pool is {shown(said['global_pool'])}, and only 'avg' is supported"
        )
    for key in _FOREIGN:
        if said.get(key) is not None:
            raise ConfigError(f"{name}: {key} is no argument of a LeViT: leave it out")
    found: dict[str, list[int | None]] = {
        "embed_dim": [stage.width for stage in config.stages],
        "num_heads": [stage.block.heads if stage.block else None for stage in config.stages],
        "depth": [stage.depth for stage in config.stages],
    }
    for key, numbers in found.items():
        stated = said.get(key)
        if stated is None:
            continue
        entries = stated if isinstance(stated, (list, tuple)) else (stated,) * len(numbers)
        # A stage without blocks has no heads.
        if len(entries) != len(numbers) or any(
            number not in (None, entry) for number, entry in zip(numbers, entries, strict=True)
        ):
            raise ConfigError(
                f"{name} says {key} {shown(stated)}, the weights have {numbers}: correct that, "
                f"or leave it out"
            )


def config_from_arguments(values: Mapping[str, Any], name: str) -> LevitConfig:
    """Read a config from a JSON file with the arguments of timm or of transformers.

    Args:
        values: for timm, at the top or under ``model_args``, ``embed_dim, key_dim, num_heads,
            depth`` and, if they differ from timm's defaults, ``img_size, in_chans,
            num_classes, attn_ratio, mlp_ratio, stem_type, act_layer, distilled, use_conv``;
            for transformers a ``config.json`` whose ``model_type`` is ``levit``.
        name: name of the file, for messages.

    Raises:
        ConfigError: an argument is missing, of the wrong type, or unsupported.
    """
    read = _transformers_config if values.get("model_type") == "levit" else _timm_config
    try:
        return read(values)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise ConfigError(f"{name}: not the arguments of a LeViT ({error!r})") from error


def _timm_config(values: Mapping[str, Any]) -> LevitConfig:
    arguments = model_arguments(values)
    stems = {"s16": 4, "s8": 3}
    refuse_pooling(arguments)
    widths = _wholes(arguments["embed_dim"], "embed_dim")
    activation = activation_name(arguments.get("act_layer", "hard_swish"))

    def per_stage(key: str, default: Any = None) -> tuple[Any, ...]:
        value = arguments.get(key, default) if default is not None else arguments[key]
        entries = tuple(value) if isinstance(value, (list, tuple)) else (value,) * len(widths)
        if len(entries) != len(widths):
            raise ValueError(f"{key} has {len(entries)} entries for {len(widths)} stages")
        return entries

    config = levit_config(
        widths=widths,
        key_dim=whole(arguments["key_dim"], "key_dim"),
        heads=_wholes(per_stage("num_heads"), "num_heads"),
        depths=_wholes(per_stage("depth"), "depth"),
        image_size=_size(arguments.get("img_size", 224), "img_size"),
        in_channels=whole(arguments.get("in_chans", 3), "in_chans"),
        num_classes=whole(arguments.get("num_classes", 1000), "num_classes"),
        attention_ratio=tuple(number(n, "attn_ratio") for n in per_stage("attn_ratio", 2.0)),
        mlp_ratio=tuple(number(n, "mlp_ratio") for n in per_stage("mlp_ratio", 2.0)),
        stem_convs=stems[arguments.get("stem_type", "s16")],
        activation=activation,
        distilled=flag(arguments.get("distilled", True), "distilled"),
        conv=flag(arguments.get("use_conv", False), "use_conv"),
    )
    attention_activation = activation_name(arguments.get("attn_act_layer") or activation)
    return replace(config, attention_activation=attention_activation)


def _transformers_config(values: Mapping[str, Any]) -> LevitConfig:
    for key, only in _FIXED.items():
        if values.get(key, only) not in (only, [only, only]):
            raise ValueError(f"{key} is {values[key]!r}, and the stem of LeViT needs {only}")
    said = {key: values.get(key, default) for key, default in _TRANSFORMERS.items()}
    said = {key: _wholes(entries, key) for key, entries in said.items()}
    widths = said["hidden_sizes"]
    for key, entries in said.items():
        if len(entries) != len(widths):
            raise ValueError(f"{key} has {len(entries)} entries for {len(widths)} stages")
    labels = values.get("num_labels")
    if labels is None:
        # Two classes without names are transformers' default, which it does not write down.
        labels = len(values.get("id2label") or (0, 1))
    architectures = values.get("architectures") or ("LevitForImageClassification",)
    heads = str(listed(architectures, "architectures")[0])
    stages = []
    for i, stage_width in enumerate(widths):
        key_dim, depth = said["key_dim"][i], said["depths"][i]
        block = BlockConfig(
            heads=said["num_attention_heads"][i],
            key_dim=key_dim,
            value_dim=said["attention_ratio"][i] * key_dim,
            mlp_width=said["mlp_ratio"][i] * stage_width,
        )
        stages.append(
            StageConfig(
                width=stage_width,
                depth=depth,
                block=block if depth else None,
                downsample=_transformers_downsample(values, said, i) if i else None,
            )
        )
    return LevitConfig(
        image_size=_size(values.get("image_size", 224), "image_size"),
        in_channels=whole(values.get("num_channels", 3), "num_channels"),
        num_classes=0 if heads == "LevitModel" else whole(labels, "num_labels"),
        distilled=heads.endswith("WithTeacher"),
        stem_widths=tuple(widths[0] // 2**i for i in reversed(range(4))),
        stages=tuple(stages),
    )


def _transformers_downsample(
    values: Mapping[str, Any], said: Mapping[str, Sequence[int]], stage: int
) -> BlockConfig:
    """Read the block with which a stage begins: ``down_ops`` of the stage before."""
    key_dim, before = said["key_dim"][0], said["hidden_sizes"][stage - 1]
    written = listed(values.get("down_ops") or (), "down_ops")
    operation: Sequence[Any] = ["Subsample", key_dim, before // key_dim, 4, 2, 2]
    if stage - 1 < len(written) and len(written[stage - 1]) == len(operation):
        operation = written[stage - 1]
    name, key_dim, heads, attention_ratio, mlp_ratio, stride = operation
    if name != "Subsample" or stride != 2:
        raise ValueError(f"down_ops of stage {stage - 1} is not a Subsample of stride 2")
    return BlockConfig(
        heads=whole(heads, "down_ops"),
        key_dim=whole(key_dim, "down_ops"),
        value_dim=whole(attention_ratio, "down_ops") * key_dim,
        mlp_width=whole(mlp_ratio, "down_ops") * said["hidden_sizes"][stage],
    )


def _wholes(value: Any, key: str) -> tuple[int, ...]:
    return tuple(whole(entry, key) for entry in listed(value, key))


def _size(value: Any, key: str) -> tuple[int, int]:
    """(height, width), stated as one number or as two."""
    return number_pair(value if isinstance(value, (list, tuple)) else [value, value], key)
