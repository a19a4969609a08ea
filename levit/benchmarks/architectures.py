"""Architectures that take part, by the beginning of timm's names."""

from __future__ import annotations

from typing import Final

__all__ = ["ARCHITECTURES", "OTHER", "architecture", "architecture_title"]

# Key (of colours and markers), title, and how timm's names begin.
ARCHITECTURES: Final = (
    ("levit", "LeViT", ("levit",)),
    ("efficientnet", "EfficientNet", ("efficientnet", "tf_efficientnet")),
    ("deit", "DeiT", ("deit",)),
    ("convit", "ConViT", ("convit",)),
    ("resnet", "ResNet", ("resnet",)),
    ("mobilenetv4", "MobileNetV4", ("mobilenetv4",)),
    ("fastvit", "FastViT", ("fastvit",)),
    ("repvit", "RepViT", ("repvit",)),
    # Two architectures of one name: Microsoft's, arXiv:2305.07027, and MIT's, arXiv:2205.14756.
    ("efficientvit-m", "EfficientViT-M", ("efficientvit_m",)),
    ("efficientvit", "EfficientViT", ("efficientvit_b", "efficientvit_l")),
    ("hgnetv2", "HGNetV2", ("hgnetv2",)),
)
OTHER: Final = ("other", "other", ())


def architecture(model: str) -> str:
    """Key of the architecture that timm's name belongs to."""
    name = model.lower()
    for key, _, beginnings in ARCHITECTURES:
        if name.startswith(beginnings):
            return key
    return OTHER[0]


def architecture_title(key: str) -> str:
    """Name that people use."""
    return next((title for k, title, _ in ARCHITECTURES if k == key), OTHER[1])
