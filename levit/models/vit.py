"""ViT (arXiv:2010.11929): the plain vision transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from levit.models.model import Variant
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.family import TransformerFamily
from levit.models.transformer.keymap import timm_keymap, transformers_keymaps
from levit.models.transformer.networks import timm_network, transformers_network

__all__ = ["FAMILY"]

# Width, heads, tag of timm's default weights, ImageNet-1k top-1 and top-5 from its results.
_SIZES: Final[Mapping[str, tuple[int, int, str, float, float]]] = {
    "tiny": (192, 3, "augreg_in21k_ft_in1k", 75.452, 92.858),
    "small": (384, 6, "augreg_in21k_ft_in1k", 81.402, 96.150),
    "base": (768, 12, "augreg2_in21k_ft_in1k", 85.108, 97.530),
}

_VARIANTS: Final = {
    f"vit_{size}_patch16_224": Variant(
        config=TransformerConfig(
            image_size=(224, 224),
            patch_size=16,
            width=width,
            depth=12,
            heads=heads,
            mlp_width=4 * width,
        ),
        hub_id=f"timm/vit_{size}_patch16_224.{tag}",
        top1=top1,
        top5=top5,
    )
    for size, (width, heads, tag, top1, top5) in _SIZES.items()
}


class _Vit(TransformerFamily):
    def preprocessing(self, config: TransformerConfig, source: str) -> Mapping[str, Any]:
        if source == "transformers":
            return {"image_processor_type": "ViTImageProcessor"}
        half = (0.5, 0.5, 0.5)
        return {"crop_pct": 0.9, "mean": half, "std": half} if source == "timm" else {}


FAMILY: Final = _Vit(
    name="vit",
    title="ViT",
    variants=_VARIANTS,
    keymaps=(timm_keymap(distilled=False), *transformers_keymaps("vit", distilled=False)),
    networks={"timm": timm_network, "transformers": transformers_network},
    model_types=("vit",),
    defaults=dict(patch_size=16),
)
