"""The config that a user gives: a file, JSON text or a mapping. It overrules what lies beside."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from levit.errors import ConfigError
from levit.json_values import shown
from levit.models.hints import (
    Hints,
    argument_names,
    hints_from_config,
    is_transformers_config,
)
from levit.models.hints_merging import overruled
from levit.models.json_files import json_object, read_config

__all__ = ["UserConfig", "is_json_text", "overrule", "read_user_config"]

UserConfig: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any]"

_INLINE: Final = "--config"
# timm's name of an argument → transformers' name of the same.
_SPELLINGS: Final[Mapping[str, str]] = {
    "num_heads": "num_attention_heads",
    "norm_eps": "layer_norm_eps",
    "act_layer": "hidden_act",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "img_size": "image_size",
    "in_chans": "num_channels",
    "num_classes": "num_labels",
    "label_names": "id2label",
}
# Names that are easily misspelt: a file's other keys are its library's business, but what a user
# types is meant.
_TYPED: Final = (
    *_SPELLINGS,
    *_SPELLINGS.values(),
    *("architecture", "architectures", "distilled", "attn_act_layer", "label_names", "id2label"),
    *("qkv_bias", "patch_size", "mlp_ratio", "attn_ratio", "hidden_sizes", "depths", "stem_type"),
)
_ALIKE: Final = 0.88


def is_json_text(config: object) -> bool:
    """Tell JSON text, such as ``{"num_heads": 6}``, from the path of a file."""
    return isinstance(config, str) and config.lstrip().startswith("{")


def read_user_config(config: UserConfig) -> tuple[dict[str, Any], str]:
    """Read a config from a JSON file, from JSON text, or from a mapping.

    ::

        values, name = read_user_config('{"num_heads": 6}')

    Returns:
        (the JSON object, what messages call it: the file's path, or ``--config``).

    Raises:
        ConfigError: the file is missing, what it or the text holds is no JSON object, or a key
            that the user typed is nearly one that is known.
    """
    if not isinstance(config, Mapping) and not is_json_text(config):
        return read_config(Path(config)), str(config)
    values = dict(config) if isinstance(config, Mapping) else json_object(str(config), _INLINE)
    for key in argument_names(values) - set(_TYPED):
        if not isinstance(key, str):
            raise ConfigError(f"config has the key {shown(key)}, and keys are names")
        near = difflib.get_close_matches(key, _TYPED, n=1, cutoff=_ALIKE)
        if near:
            raise ConfigError(f"{_INLINE}: unknown key {shown(key)}; did you mean {near[0]!r}?")
    return values, _INLINE


def overrule(beside: Hints, values: Mapping[str, Any], name: str) -> Hints:
    """Overrule the hints beside a checkpoint with a user's config, setting by setting.

    The user may spell an argument as timm or as transformers does, whoever wrote the file beside.

    Args:
        beside: hints of the checkpoint.
        values: the user's config, whole or in part.
        name: what messages call it.

    Raises:
        ConfigError: a value is not what it should be.
    """
    foreign = is_transformers_config(beside.arguments or {})
    origin = name if name == _INLINE else f"{_INLINE} {name}"
    said = hints_from_config(_spelled(values, transformers=False, name=name), name, origin)
    if not is_transformers_config(values):
        said = replace(said, arguments=_spelled(values, transformers=foreign, name=name))
    hints = overruled(beside, said)
    labels = beside.label_names
    if said.num_classes is not None and labels is not None and len(labels) != said.num_classes:
        # They name the classes of another head.
        hints = replace(hints, label_names=said.label_names)
    return hints


def _spelled(values: Mapping[str, Any], *, transformers: bool, name: str) -> dict[str, Any]:
    """The same arguments under the names of one library; a whole config keeps its own."""
    if is_transformers_config(values):
        return dict(values)
    theirs = _SPELLINGS if transformers else {value: key for key, value in _SPELLINGS.items()}
    nested = values.get("model_args")
    levels = [values, nested] if isinstance(nested, Mapping) else [values]
    found: dict[str, Any] = {}
    for said in levels:  # those under `model_args` overrule those at the top, as in timm
        level: dict[str, Any] = {}
        for key, value in said.items():
            spelt = theirs.get(key, key)
            if level.setdefault(spelt, value) != value:
                raise ConfigError(
                    f"{name}: {shown(level[spelt])} and {shown(value)} are two values of one "
                    f"setting, {spelt} or {key}: leave one out"
                )
        found |= level
    if len(levels) > 1:
        del found["model_args"]
    return found
