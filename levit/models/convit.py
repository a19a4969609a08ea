"""ConViT (arXiv:2103.10697): local blocks of gated positional attention, then plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from levit.models.model import Variant
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.family import TransformerFamily
from levit.models.transformer.keymap import timm_keymap
from levit.models.transformer.networks import convit_network

__all__ = ["FAMILY"]

# Heads, ImageNet-1k top-1 and top-5 in percent, from timm's results.
_SIZES: Final[Mapping[str, tuple[int, float, float]]] = {
    "tiny": (4, 73.140, 91.704),
    "small": (9, 81.412, 95.740),
    "base": (16, 82.296, 95.936),
}
_HEAD_WIDTH: Final = 48

_VARIANTS: Final = {
    f"convit_{size}": Variant(
        config=TransformerConfig(
            image_size=(224, 224),
            patch_size=16,
            width=heads * _HEAD_WIDTH,
            depth=12,
            heads=heads,
            mlp_width=4 * heads * _HEAD_WIDTH,
            qkv_bias=False,
            local_depth=10,
        ),
        hub_id=f"timm/convit_{size}.fb_in1k",
        top1=top1,
        top5=top5,
    )
    for size, (heads, top1, top5) in _SIZES.items()
}


class _Convit(TransformerFamily):
    def preprocessing(self, config: TransformerConfig, source: str) -> Mapping[str, Any]:
        return {"crop_pct": 0.875} if source == "timm" else {}


_GATED: Final = dict(
    gated=(("attn.qk", 0, 2), ("attn.qk", 1, 2), ("attn.v", 0, 1)),
    gate="attn.gating_param",
    position="attn.pos_proj",
    heads=("head",),
    distilled=False,
    # The offsets follow from the grid; some releases of timm store them.
    ignored=("n_averaged", "*.rel_indices"),
)

FAMILY: Final = _Convit(
    name="convit",
    title="ConViT",
    variants=_VARIANTS,
    keymaps=(
        timm_keymap(**_GATED),
        timm_keymap(source="original", archive_keys=("model", "model_ema"), **_GATED),
    ),
    networks={"timm": convit_network},
    defaults=dict(patch_size=16, qkv_bias=False, local_depth=3),
)
