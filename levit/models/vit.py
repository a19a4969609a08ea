"""ViT (arXiv:2010.11929): the plain vision transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from levit.models.model import Variant
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.family import TransformerFamily
from levit.models.transformer.keymap import timm_keymap, transformers_keymaps
from levit.models.transformer.networks import timm_network, transformers_network
from levit.pictures.preprocess import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["FAMILY"]

# Mean and deviation of Google's training, and of those who took ImageNet's.
_HALF: Final = (0.5, 0.5, 0.5)
_IMAGENET: Final = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}

# Width, depth, heads, width of the MLP.
_SIZES: Final[Mapping[str, tuple[int, int, int, int]]] = {
    "tiny": (192, 12, 3, 768),
    "wee": (256, 14, 4, 1280),
    "little": (320, 14, 5, 1792),
    "small": (384, 12, 6, 1536),
    "medium": (512, 12, 8, 2048),
    "mediumd": (512, 20, 8, 2048),
    "betwixt": (640, 12, 10, 2560),
    "base": (768, 12, 12, 3072),
    "so150m": (896, 18, 14, 2304),
    "so150m2": (832, 21, 13, 2176),
    "large": (1024, 24, 16, 4096),
}
# Accuracy of the weights that timm's bare names stand for, from its results: top-1, top-5.
_ACCURACY: Final[Mapping[str, tuple[float, float]]] = {
    "vit_tiny_patch16_224": (75.452, 92.858),
    "vit_small_patch16_224": (81.402, 96.150),
    "vit_base_patch16_224": (85.108, 97.530),
}

_AUGREG: Final = "augreg_in21k_ft_in1k"
_HEADLESS: Final = {"num_classes": 0}
_GAP: Final = {"class_token": False, "pool": "avg"}
_SCALED: Final = {"layer_scale": True}
# Trainings of timm with registers (arXiv:2309.16588), whose number is in the name: reg4.
_SBB: Final = {**_GAP, **_SCALED, "token_positions": False, "fc_norm": True}
_SO150M2: Final = {**_GAP, **_SCALED, "fc_norm": True, "qkv_bias": False}
_DINO: Final = {**_HEADLESS, **_SCALED}
_DINO_REGISTERS: Final = {**_DINO, "token_positions": False}
_MEDIUM: Final = {**_GAP, **_SCALED, "qkv_bias": False}

# Name behind "vit_" → size, patch, pixels, tag of timm's default weights, other fields of the
# config, and settings of preprocessing that are not the family's.
_Row: TypeAlias = tuple[str, int, int, str, Mapping[str, Any], Mapping[str, Any]]
_ROWS: Final[Mapping[str, _Row]] = {
    "tiny_patch16_224": ("tiny", 16, 224, _AUGREG, {}, {}),
    "tiny_patch16_384": ("tiny", 16, 384, _AUGREG, {}, {"crop_pct": 1.0}),
    "small_patch32_224": ("small", 32, 224, _AUGREG, {}, {}),
    "small_patch32_384": ("small", 32, 384, _AUGREG, {}, {"crop_pct": 1.0}),
    "small_patch16_224": ("small", 16, 224, _AUGREG, {}, {}),
    "small_patch16_384": ("small", 16, 384, _AUGREG, {}, {"crop_pct": 1.0}),
    "small_patch8_224": ("small", 8, 224, "dino", _HEADLESS, _IMAGENET),
    "base_patch32_224": ("base", 32, 224, _AUGREG, {}, {}),
    "base_patch32_384": ("base", 32, 384, _AUGREG, {}, {"crop_pct": 1.0}),
    "base_patch16_224": ("base", 16, 224, "augreg2_in21k_ft_in1k", {}, {}),
    "base_patch16_384": ("base", 16, 384, _AUGREG, {}, {"crop_pct": 1.0}),
    "base_patch8_224": ("base", 8, 224, "augreg2_in21k_ft_in1k", {}, {}),
    "large_patch32_224": ("large", 32, 224, "orig_in21k", _HEADLESS, {}),
    "large_patch32_384": ("large", 32, 384, "orig_in21k_ft_in1k", {}, {"crop_pct": 1.0}),
    "large_patch16_224": ("large", 16, 224, _AUGREG, {}, {}),
    "large_patch16_384": ("large", 16, 384, _AUGREG, {}, {"crop_pct": 1.0}),
    "medium_patch16_gap_256": (
        "medium", 16, 256, "sw_in12k_ft_in1k", _MEDIUM, {"crop_pct": 0.95}
    ),
    "medium_patch16_gap_384": (
        "medium", 16, 384, "sw_in12k_ft_in1k", _MEDIUM, {"crop_pct": 0.95, "crop_mode": "squash"}
    ),
    "wee_patch16_reg1_gap_256": ("wee", 16, 256, "sbb_in1k", _SBB, {"crop_pct": 0.95}),
    "little_patch16_reg1_gap_256": (
        "little", 16, 256, "sbb_in12k_ft_in1k", _SBB, {"crop_pct": 0.95}
    ),
    "little_patch16_reg4_gap_256": ("little", 16, 256, "sbb_in1k", _SBB, {"crop_pct": 0.95}),
    "medium_patch16_reg1_gap_256": ("medium", 16, 256, "sbb_in1k", _SBB, {"crop_pct": 0.95}),
    "medium_patch16_reg4_gap_256": (
        "medium", 16, 256, "sbb_in12k_ft_in1k", _SBB, {"crop_pct": 0.95}
    ),
    "mediumd_patch16_reg4_gap_256": (
        "mediumd", 16, 256, "sbb2_e200_in12k_ft_in1k", _SBB, {"crop_pct": 0.95}
    ),
    "mediumd_patch16_reg4_gap_384": (
        "mediumd", 16, 384, "sbb2_e200_in12k_ft_in1k", _SBB, {"crop_pct": 1.0}
    ),
    "betwixt_patch16_reg1_gap_256": ("betwixt", 16, 256, "sbb_in1k", _SBB, {"crop_pct": 0.95}),
    "betwixt_patch16_reg4_gap_256": (
        "betwixt", 16, 256, "sbb2_e200_in12k_ft_in1k", _SBB, {"crop_pct": 0.95}
    ),
    "betwixt_patch16_reg4_gap_384": (
        "betwixt", 16, 384, "sbb2_e200_in12k_ft_in1k", _SBB, {"crop_pct": 1.0}
    ),
    "so150m_patch16_reg4_gap_256": (
        "so150m", 16, 256, "sbb_e250_in12k_ft_in1k", _GAP, {"crop_pct": 0.95}
    ),
    "so150m_patch16_reg4_gap_384": (
        "so150m", 16, 384, "sbb_e250_in12k_ft_in1k", _GAP, {"crop_pct": 1.0}
    ),
    "so150m2_patch16_reg1_gap_256": (
        "so150m2", 16, 256, "sbb_e200_in12k_ft_in1k", _SO150M2, {"crop_pct": 1.0}
    ),
    "so150m2_patch16_reg1_gap_384": (
        "so150m2", 16, 384, "sbb_e200_in12k_ft_in1k", _SO150M2, {"crop_pct": 1.0}
    ),
    "so150m2_patch16_reg1_gap_448": (
        "so150m2", 16, 448, "sbb_e200_in12k_ft_in1k", _SO150M2,
        {"crop_pct": 1.0, "crop_mode": "squash"},
    ),
    "small_patch14_dinov2": ("small", 14, 518, "lvd142m", _DINO, {**_IMAGENET, "crop_pct": 1.0}),
    "base_patch14_dinov2": ("base", 14, 518, "lvd142m", _DINO, {**_IMAGENET, "crop_pct": 1.0}),
    "large_patch14_dinov2": ("large", 14, 518, "lvd142m", _DINO, {**_IMAGENET, "crop_pct": 1.0}),
    "small_patch14_reg4_dinov2": (
        "small", 14, 518, "lvd142m", _DINO_REGISTERS, {**_IMAGENET, "crop_pct": 1.0}
    ),
    "base_patch14_reg4_dinov2": (
        "base", 14, 518, "lvd142m", _DINO_REGISTERS, {**_IMAGENET, "crop_pct": 1.0}
    ),
    "large_patch14_reg4_dinov2": (
        "large", 14, 518, "lvd142m", _DINO_REGISTERS, {**_IMAGENET, "crop_pct": 1.0}
    ),
}  # fmt: skip


def _variant(name: str, row: _Row) -> Variant:
    size, patch, pixels, tag, fields, preprocessing = row
    width, depth, heads, mlp_width = _SIZES[size]
    registers = re.search(r"_reg(\d)_", name)
    top1, top5 = _ACCURACY.get(name, (None, None))
    return Variant(
        config=TransformerConfig(
            image_size=(pixels, pixels),
            patch_size=patch,
            width=width,
            depth=depth,
            heads=heads,
            mlp_width=mlp_width,
            registers=int(registers[1]) if registers else 0,
            **fields,
        ),
        hub_id=f"timm/{name}.{tag}",
        top1=top1,
        top5=top5,
        preprocessing=preprocessing,
    )


_VARIANTS: Final = {f"vit_{name}": _variant(f"vit_{name}", row) for name, row in _ROWS.items()}


class _Vit(TransformerFamily):
    def preprocessing(self, config: TransformerConfig, source: str) -> Mapping[str, Any]:
        if source == "transformers":
            return {"image_processor_type": "ViTImageProcessor"}
        if source != "timm":
            return {}
        common = {"crop_pct": 0.9, "mean": _HALF, "std": _HALF}
        return common | self.preprocessing_of_variant(config)


FAMILY: Final = _Vit(
    name="vit",
    title="ViT",
    variants=_VARIANTS,
    keymaps=(timm_keymap(distilled=False), *transformers_keymaps("vit", distilled=False)),
    networks={"timm": timm_network, "transformers": transformers_network},
    model_types=("vit",),
    defaults=dict(patch_size=16),
)
