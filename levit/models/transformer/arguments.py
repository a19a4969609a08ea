"""The arguments of a vision transformer as timm's or transformers' files spell them → a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from levit.errors import ConfigError
from levit.models.hints import Hints, whole
from levit.models.layers import activation_name
from levit.models.transformer.config import TransformerConfig

__all__ = ["Stated", "config_from_arguments", "read_stated"]

_TIMM_WIDTHS: Final = {"embed_dim", "depth", "num_heads"}
# What timm's VisionTransformer and ConVit can be told, and what of it is built here. Another value
# is another network.
_ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "global_pool": ("token",),
    "class_token": (True,),
    "no_embed_class": (False,),
    "reg_tokens": (0,),
    "pre_norm": (False,),
    "fc_norm": (None, False),
    "qk_norm": (False,),
    "init_values": (None,),
    "dynamic_img_size": (False,),
    "hybrid_backbone": (None,),
    "proj_bias": (True,),
    "final_norm": (True,),
    "position_embedding_type": (None, "absolute"),
    "pooler_act": ("tanh",),
}

Stated = Mapping[str, Any]


def read_stated(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of a `TransformerConfig` that a JSON file states.

    Args:
        values: transformers' ``config.json``, told by its ``model_type``; or timm's, with arguments
            at the top or under ``model_args``.
        name: of the file, for messages.

    Raises:
        ConfigError: a value is of the wrong type, or asks for what is not built here.
    """
    try:
        return _read(values)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{name}: not the arguments of a vision transformer ({error})") from error


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    transformers = values.get("model_type", "timm_wrapper") != "timm_wrapper"
    said = values if transformers else {**values, **(values.get("model_args") or {})}
    for key, allowed in _ONLY.items():
        if said.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{key} is {said[key]!r}, which is not supported")
    names = _TRANSFORMERS if transformers else _TIMM
    stated: dict[str, Any] = {
        field: read(said[key]) for key, (field, read) in names.items() if key in said
    }
    if transformers:
        stated.setdefault("norm_eps", 1e-12)
        return stated
    if "mlp_ratio" in said and "width" in stated:
        stated["mlp_width"] = int(stated["width"] * float(said["mlp_ratio"]))
    if "local_up_to_layer" in said and "width" in stated:
        # ConVit's embed_dim is of one head.
        stated["width"] *= stated["heads"]
        if "mlp_width" in stated:
            stated["mlp_width"] *= stated["heads"]
    return stated


def _side(value: Any) -> int:
    """Of a square."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(set(sides)) != 1:
        raise ValueError(f"patches of {value!r} pixels, which are not square, are not supported")
    return whole(sides[0])


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, not {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, not {value!r}")
    return float(value)


# Key of the file → field of the config, and how it is read.
_TIMM: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "embed_dim": ("width", whole),
    "depth": ("depth", whole),
    "num_heads": ("heads", whole),
    "patch_size": ("patch_size", _side),
    "qkv_bias": ("qkv_bias", _truth),
    "act_layer": ("activation", activation_name),
    "norm_eps": ("norm_eps", _number),
    "local_up_to_layer": ("local_depth", whole),
    "use_pos_embed": ("positions", _truth),
}
_TRANSFORMERS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "hidden_size": ("width", whole),
    "num_hidden_layers": ("depth", whole),
    "num_attention_heads": ("heads", whole),
    "intermediate_size": ("mlp_width", whole),
    "patch_size": ("patch_size", _side),
    "qkv_bias": ("qkv_bias", _truth),
    "hidden_act": ("activation", activation_name),
    "layer_norm_eps": ("norm_eps", _number),
}


def holds_arguments(values: Mapping[str, Any], *, local: bool) -> bool:
    """Whether a JSON file states the widths of a vision transformer.

    Args:
        local: of one with local blocks, or of one without.
    """
    said = {**values, **(values.get("model_args") or {})}
    if ("local_up_to_layer" in said) != local or "key_dim" in said:  # which only LeViT has
        return False
    return set(said) >= _TIMM_WIDTHS or set(said) >= {"hidden_size", "num_hidden_layers"}


def config_from_arguments(
    values: Mapping[str, Any], name: str, defaults: Mapping[str, Any]
) -> TransformerConfig:
    """A whole config from a JSON file.

    Args:
        values: as for `read_stated`.
        name: of the file, for messages.
        defaults: of the family, for what the file leaves out.

    Raises:
        ConfigError: a width is missing, of the wrong type, or unsupported.
    """
    stated = {**defaults, **read_stated(values, name)}
    missing = {"width", "depth", "heads"} - set(stated)
    if missing:
        raise ConfigError(f"{name}: says nothing of {', '.join(sorted(missing))}")
    stated.setdefault("mlp_width", 4 * stated["width"])
    said = {**values, **(values.get("model_args") or {})}
    try:
        size = said.get("img_size", said.get("image_size", 224))
        sides = size if isinstance(size, (list, tuple)) else (size, size)
        channels = said.get("in_chans", said.get("num_channels", 3))
        classes = said.get("num_classes", said.get("num_labels"))
        if classes is None:
            # Two classes without names are transformers' default, which it does not write down.
            unnamed = (0, 1) if "model_type" in said else range(1000)
            classes = len(said.get("id2label") or unnamed)
        height, width = sides
        if classes and _is_distilled(said):
            stated |= {"distilled": True, "distilled_head": _has_teacher(said)}
        stated |= {
            "image_size": (whole(height), whole(width)),
            "in_channels": whole(channels),
            "num_classes": whole(classes),
        }
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from error
    return TransformerConfig(**stated)


def _is_distilled(said: Mapping[str, Any]) -> bool:
    """Transformers' DeiTs all are; timm's say so in their name."""
    return said.get("model_type") == "deit" or "_distilled" in str(said.get("architecture"))


def _has_teacher(said: Mapping[str, Any]) -> bool:
    """Whether a head of its own reads the distillation token."""
    if "model_type" not in said:
        return True
    return str((said.get("architectures") or ("",))[0]).endswith("WithTeacher")


def stated_in(hints: Hints) -> dict[str, Any]:
    """What the config beside a checkpoint states."""
    if hints.arguments is None:
        return {}
    return read_stated(hints.arguments, hints.image_size_from)
