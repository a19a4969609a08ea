"""DeiT (arXiv:2012.12877), plain or with a distillation token, and DeiT III (arXiv:2204.07118)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from levit.models.model import Variant
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.family import TransformerFamily
from levit.models.transformer.keymap import timm_keymap, transformers_keymaps
from levit.models.transformer.networks import timm_network, transformers_network

__all__ = ["FAMILY"]

_SIZES: Final[Mapping[str, dict[str, Any]]] = {
    "tiny": dict(width=192, depth=12, heads=3, mlp_width=768),
    "small": dict(width=384, depth=12, heads=6, mlp_width=1536),
    "base": dict(width=768, depth=12, heads=12, mlp_width=3072),
}
# (size, distilled, pixels) → ImageNet-1k top-1 and top-5 in percent, from timm's results.
_ACCURACY: Final[Mapping[tuple[str, bool, int], tuple[float, float]]] = {
    ("tiny", False, 224): (72.190, 91.100),
    ("small", False, 224): (79.856, 95.056),
    ("base", False, 224): (81.980, 95.740),
    ("base", False, 384): (83.108, 96.376),
    ("tiny", True, 224): (74.538, 91.898),
    ("small", True, 224): (81.204, 95.378),
    ("base", True, 224): (83.384, 96.492),
    ("base", True, 384): (85.438, 97.332),
}
# DeiT III: size → width, depth, heads; huge is over the limit of weights.
_THIRD: Final[Mapping[str, tuple[int, int, int]]] = {
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def _third() -> dict[str, Variant]:
    variants = {}
    for size, (width, depth, heads) in _THIRD.items():
        for pixels in (224,) if size == "medium" else (224, 384):
            name = f"deit3_{size}_patch16_{pixels}"
            variants[name] = Variant(
                config=TransformerConfig(
                    image_size=(pixels, pixels),
                    patch_size=16,
                    width=width,
                    depth=depth,
                    heads=heads,
                    mlp_width=4 * width,
                    layer_scale=True,
                    token_positions=False,
                ),
                hub_id=f"timm/{name}.fb_in1k",
            )
    return variants


def _variants() -> dict[str, Variant]:
    variants = {}
    for (size, distilled, pixels), (top1, top5) in _ACCURACY.items():
        name = f"deit_{size}{'_distilled' * distilled}_patch16_{pixels}"
        variants[name] = Variant(
            config=TransformerConfig(
                image_size=(pixels, pixels),
                patch_size=16,
                distilled=distilled,
                distilled_head=distilled,
                **_SIZES[size],
            ),
            hub_id=f"timm/{name}.fb_in1k",
            top1=top1,
            top5=top5,
        )
    return variants | _third()


class _Deit(TransformerFamily):
    def preprocessing(self, config: TransformerConfig, source: str) -> Mapping[str, Any]:
        """Timm's ``default_cfgs``; the class that transformers' hub files name."""
        if source == "timm":
            return {"crop_pct": 1.0 if min(config.image_size) >= 384 else 0.9}
        if source == "transformers":
            return {"image_processor_type": "DeiTImageProcessor"}
        return {}


_TEACHER: Final = dict(
    heads=("cls_classifier", "distillation_classifier"), requires=("cls_classifier",)
)

FAMILY: Final = _Deit(
    name="deit",
    title="DeiT",
    variants=_variants(),
    keymaps=(
        timm_keymap(),
        timm_keymap(source="original", archive_keys=("model", "model_ema")),
        timm_keymap(  # DeiT III, as facebookresearch/deit has it
            source="original",
            scales=("gamma_1", "gamma_2"),
            requires=("blocks.0.gamma_1",),
            excludes=(),
            token_positions=False,
        ),
        *transformers_keymaps("deit", distilled=True, **_TEACHER),
        *transformers_keymaps("deit", distilled=True),
        # transformers has the plain ones as ViT.
        *transformers_keymaps("vit", distilled=False),
    ),
    networks={"timm": timm_network, "transformers": transformers_network},
    model_types=("deit", "vit"),
    defaults=dict(patch_size=16),
)
