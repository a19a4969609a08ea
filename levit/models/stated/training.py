"""``args`` of timm's train.py, and of facebookresearch's DeiT, LeViT and ConViT.

Source: timm's ``CheckpointSaver``, train.py (what becomes an argument of ``create_model``) and
``timm.data.resolve_data_config(vars(args), model=…)``; DeiT's main.py and datasets.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from levit.json_values import number, shown, table, text, whole
from levit.models.hints import bare_name
from levit.models.stated.statement import Statement, colours, image_size

__all__ = ["read_training"]

# Modes of Pillow that timm's loaders convert pictures to.
_PICTURE_MODES: Final = ("RGB", "RGBA", "L")


def read_training(args: Mapping[str, Any]) -> Statement:
    """Translate the arguments of a training, as ``vars(args)``.

    ::

        read_training({"model": "vit_tiny_patch16_224", "gp": "avg", "mean": [0.5]})

    An argument that is None or empty says nothing, as in timm.

    Raises:
        TypeError, ValueError: a known argument is not what it should be.
    """
    said = {key: value for key, value in args.items() if value not in (None, "", (), [])}
    model = dict(table(said.get("model_kwargs", {}), "model_kwargs"))
    channels = said.get("in_chans", said.get("chans", model.get("in_chans")))
    size = said.get("img_size")
    if "input_size" in said:  # N in DeiT's, [C, H, W] in timm's, where it overrules img_size
        first, size = image_size(said["input_size"], "input_size")
        channels = first if channels is None else channels
    if channels is not None:
        model["in_chans"] = whole(channels, "in_chans", least=1)
    # With dynamic_img_size the model keeps its own size, and pictures have any.
    if size is not None and not model.get("dynamic_img_size"):
        model.setdefault("img_size", size)
    if "gp" in said:
        model.setdefault("global_pool", text(said["gp"], "gp"))
    for key in ("global_pool", "act_layer"):  # of scripts like timm's; MAE's global_pool is a flag
        if isinstance(said.get(key), str):
            model.setdefault(key, said[key])
    classes = said.get("num_classes", said.get("nb_classes"))
    values: dict[str, Any] = {}
    if "model" in said:
        values["architecture"] = bare_name(text(said["model"], "model"))
    if classes is not None:
        values["num_classes"] = whole(classes, "num_classes", least=0)
    if model:
        values["model_args"] = model
    return Statement(
        values=values,
        transform=_transform(said, model.get("in_chans", 3)),
        class_map=text(said["class_map"], "class_map") if "class_map" in said else None,
    )


def _transform(said: Mapping[str, Any], channels: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: colours(said[key], key, channels) for key in ("mean", "std") if key in said
    }
    for key in ("crop_pct", "eval_crop_ratio"):  # the second is DeiT's
        if said.get(key):  # 0 says nothing, as in timm
            found["crop_pct"] = number(said[key], key)
    for key in ("interpolation", "crop_mode"):
        if key in said:
            found[key] = text(said[key], key)
    if "input_img_mode" in said:
        mode = said["input_img_mode"]
        if mode not in _PICTURE_MODES:
            raise ValueError(f"input_img_mode {shown(mode)}: only RGB, RGBA and L are supported")
        found["image_mode"] = mode
    return found
