"""The arguments of a vision transformer as timm's or transformers' files spell them → a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from levit.errors import ConfigError
from levit.json_values import flag, listed, number, number_pair, shown, text, whole
from levit.models.hints import Hints, argument_names, is_transformers_config, model_arguments
from levit.models.layers import activation_name
from levit.models.transformer.config import TransformerConfig

__all__ = [
    "config_from_arguments",
    "holds_arguments",
    "read_stated",
    "stated_in",
    "with_arguments",
]

_TIMM_WIDTHS: Final = {"embed_dim", "depth", "num_heads"}
# Arguments of timm's VisionTransformer and ConVit, and the values that are built here. Another
# value is another network.
_ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "pool_include_prefix": (False,),
    "pos_embed": ("learn",),
    "qk_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "hybrid_backbone": (None,),
    "position_embedding_type": (None, "absolute"),
    "pooler_act": ("tanh",),
}
# Poolings of timm that are not built here, in words.
_POOLINGS: Final = {
    "": "no pooling",
    "max": "max pooling",
    "avgmax": "the mean of average and max pooling",
    "map": "attention pooling",
    "prr": "attention pooling",
}


def read_stated(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read the fields of a `TransformerConfig` that a JSON file states.

    Args:
        values: transformers' ``config.json``, told by its ``model_type``; or timm's, with arguments
            at the top or under ``model_args``.
        name: name of the file, for messages.

    Raises:
        ConfigError: a value is of the wrong type, or asks for what is not built here.
    """
    try:
        return _read(values)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{name}: not the arguments of a vision transformer ({error})") from error


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    transformers = is_transformers_config(values)
    said = values if transformers else model_arguments(values)
    for key, allowed in _ONLY.items():
        if said.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{key} is {said[key]!r}, which is not supported")
    names = _TRANSFORMERS if transformers else _TIMM
    stated: dict[str, Any] = {
        field: read(said[key], key)
        for key, (field, read) in names.items()
        if key in said and not (said[key] is None and key in _UNSAID)
    }
    if transformers:
        return stated
    if "mlp_ratio" in said and "width" in stated:
        stated["mlp_width"] = int(stated["width"] * number(said["mlp_ratio"], "mlp_ratio"))
    if "local_up_to_layer" in said and "width" in stated:
        # ConVit's embed_dim is of one head.
        stated["width"] *= stated["heads"]
        if "mlp_width" in stated:
            stated["mlp_width"] *= stated["heads"]
    return stated


def _side(value: Any, key: str) -> int:
    """Side of a square patch, stated once or twice."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(set(map(repr, sides))) != 1:
        raise ValueError(
            f"patches of {shown(value)} pixels, which are not square, are not supported"
        )
    return whole(sides[0], key)


def _activation(value: Any, key: str) -> str:
    return activation_name(text(value, key))


def _pooling(value: Any, key: str) -> str:
    name = text(value, key)
    if name in _POOLINGS:
        raise ValueError(f"{key} is {name!r} ({_POOLINGS[name]}), which is not supported")
    return name


def _not(value: Any, key: str) -> bool:
    return not flag(value, key)


def _has_scale(value: Any, key: str) -> bool:
    """Tell whether there is a layer scale: timm has none for an initial value of zero."""
    return number(value, key) != 0


# Arguments that say nothing where they are null.
_UNSAID: Final = ("global_pool", "fc_norm", "init_values", "act_layer", "norm_eps")

# Key of the file → field of the config, and how it is read.
_TIMM: Final[Mapping[str, tuple[str, Callable[[Any, str], Any]]]] = {
    "embed_dim": ("width", whole),
    "depth": ("depth", whole),
    "num_heads": ("heads", whole),
    "patch_size": ("patch_size", _side),
    "qkv_bias": ("qkv_bias", flag),
    "act_layer": ("activation", _activation),
    "norm_eps": ("norm_eps", number),
    "local_up_to_layer": ("local_depth", whole),
    "use_pos_embed": ("positions", flag),
    "global_pool": ("pool", _pooling),
    "class_token": ("class_token", flag),
    "no_embed_class": ("token_positions", _not),
    "reg_tokens": ("registers", whole),
    "pre_norm": ("pre_norm", flag),
    "final_norm": ("final_norm", flag),
    "fc_norm": ("fc_norm", flag),
    "init_values": ("layer_scale", _has_scale),
    "proj_bias": ("proj_bias", flag),
}
_TRANSFORMERS: Final[Mapping[str, tuple[str, Callable[[Any, str], Any]]]] = {
    "hidden_size": ("width", whole),
    "num_hidden_layers": ("depth", whole),
    "num_attention_heads": ("heads", whole),
    "intermediate_size": ("mlp_width", whole),
    "patch_size": ("patch_size", _side),
    "qkv_bias": ("qkv_bias", flag),
    "hidden_act": ("activation", _activation),
    "layer_norm_eps": ("norm_eps", number),
}


def holds_arguments(values: Mapping[str, Any], *, local: bool) -> bool:
    """Tell whether a JSON file states the widths of a vision transformer.

    Args:
        local: ask for a network with local blocks, or for one without.
    """
    said = argument_names(values)
    if ("local_up_to_layer" in said) != local or "key_dim" in said:  # which only LeViT has
        return False
    return said >= _TIMM_WIDTHS or said >= {"hidden_size", "num_hidden_layers"}


def config_from_arguments(
    values: Mapping[str, Any], name: str, defaults: Mapping[str, Any]
) -> TransformerConfig:
    """Read a whole config from a JSON file.

    Args:
        values: the JSON object, as `read_stated` takes it.
        name: name of the file, for messages.
        defaults: defaults of the family, where the file states nothing.

    Raises:
        ConfigError: a width is missing, of the wrong type, or unsupported.
    """
    stated = {**defaults, **read_stated(values, name)}
    if values.get("model_type") in ("deit", "vit"):
        stated.setdefault("norm_eps", 1e-12)  # which a config of transformers may leave out
    missing = {"width", "depth", "heads"} - set(stated)
    if missing:
        raise ConfigError(f"{name}: says nothing of {', '.join(sorted(missing))}")
    stated.setdefault("mlp_width", 4 * stated["width"])
    if stated.get("pool") == "avg" and not stated.get("local_depth"):
        stated.setdefault("fc_norm", stated.get("final_norm", True))  # as timm has it
    try:
        said = model_arguments(values)
        size = said.get("img_size", said.get("image_size", 224))
        sides = size if isinstance(size, (list, tuple)) else [size, size]
        channels = said.get("in_chans", said.get("num_channels", 3))
        classes = said.get("num_classes", said.get("num_labels"))
        if classes is None:
            # Two classes without names are transformers' default, which it does not write down.
            unnamed = (0, 1) if is_transformers_config(said) else range(1000)
            classes = len(said.get("id2label") or unnamed)
        if classes and _is_distilled(said):
            stated |= {"distilled": True, "distilled_head": _has_teacher(said)}
        stated |= {
            "image_size": number_pair(sides, "image_size"),
            "in_channels": whole(channels, "in_chans"),
            "num_classes": whole(classes, "num_classes"),
        }
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from error
    return TransformerConfig(**stated)


def with_arguments(
    config: TransformerConfig, values: Mapping[str, Any], name: str
) -> TransformerConfig:
    """Change what a JSON file states of a network; its MLPs and its norms follow, as in timm."""
    stated = read_stated(values, name)
    if stated.get("width", config.width) != config.width:
        stated.setdefault("mlp_width", config.mlp_width * stated["width"] // config.width)
    if stated.get("pool") == "avg" and not config.local_depth:
        stated.setdefault("fc_norm", stated.get("final_norm", config.final_norm))
    return replace(config, **stated)


def _is_distilled(said: Mapping[str, Any]) -> bool:
    """Tell whether it is distilled: transformers' DeiTs all are, timm's have it in their name."""
    return said.get("model_type") == "deit" or "_distilled" in str(said.get("architecture"))


def _has_teacher(said: Mapping[str, Any]) -> bool:
    """Tell whether a head of its own reads the distillation token."""
    if not is_transformers_config(said):
        return True
    names = listed(said.get("architectures") or ("",), "architectures")
    return str(names[0]).endswith("WithTeacher")


def stated_in(hints: Hints) -> dict[str, Any]:
    """Read the fields that the config beside a checkpoint states."""
    if hints.arguments is None:
        return {}
    return read_stated(hints.arguments, hints.arguments_from)
