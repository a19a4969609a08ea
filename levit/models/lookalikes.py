"""Architectures that no family takes, guessed from tensor names for error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["DINO", "PLAIN_VIT", "looks_like"]

DINO: Final = "a DINO checkpoint, with a projection head beside its backbone"
PLAIN_VIT: Final = "a plain vision transformer, such as ViT or DeiT without distillation token"

# (what it looks like, patterns that must each be found in some key), the first that fits. Keys
# are those of timm, transformers, torchvision, mmpretrain or the original code, with or without
# the name of a wrapper in front. A wrong guess is worse than none: only telling names are here.
_SIGNS: Final[Sequence[tuple[str, Sequence[str]]]] = (
    (
        "a LeViT whose BatchNorms are folded already: pass the checkpoint as it was trained",
        (r"attention_biases$", r"(mlp\.ln1|\.m\.0|block\.linear1|linear_up)\.bias$"),
    ),
    (
        DINO,
        (r"(^|\.)(dino_)?head\.last_layer\.(weight_g|weight_v|weight|parametrizations)",),
    ),
    ("an optimizer's state, not a model's", (r"(^|\.)(exp_avg|momentum_buffer)",)),
    ("LoRA weights, not a whole model: merge them first", (r"(^|\.)lora_[AB]\b",)),
    ("a ConViT", (r"attn\.gating_param$",)),
    (
        "a TinyViT, EfficientViT or EfficientFormer",
        (r"attention_biases$", r"\.(local_conv|dws|ls1|layer_scale_1)\."),
    ),
    ("a distilled DeiT", (r"(^|\.)(dist_token|distillation_token)$",)),
    ("a CaiT", (r"(^|\.)blocks_token_only\.",)),
    ("a CLIP model", (r"(^|\.)logit_scale$", r"(^|\.)(visual|vision_model)\.")),
    (
        "a ViT of torchvision, which is not read: rename its tensors as timm's VisionTransformer "
        "has them (in_proj_weight is attn.qkv.weight), and save that",
        (r"(^|\.)class_token$", r"(^|\.)conv_proj\.weight$", r"encoder_layer_0\."),
    ),
    (
        PLAIN_VIT,
        (r"(^|\.)(cls_token|class_token)$", r"patch_embed|conv_proj"),
    ),
    ("a Swin Transformer", (r"relative_position_bias_table$",)),
    ("a language model", (r"(^|\.)(word_embeddings|wte|embed_tokens)\.weight$",)),
    (
        "a ConvNeXt",
        (r"stages\.0\.(blocks|layers)\.0\.(conv_dw|dwconv)\.weight$", r"(gamma|layer_scale)"),
    ),
    ("a MobileNet or EfficientNet", (r"(^|\.)conv_stem\.weight$", r"\.conv_dw\.weight$")),
    ("a MobileNet or EfficientNet", (r"(^|\.)features\.0\.0\.weight$", r"block\.1|conv\.0\.0")),
    ("a ResNet", (r"(^|\.)layer1\.0\.conv1\.weight$",)),
    ("a ResNet", (r"encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight$",)),
    ("a DenseNet", (r"(^|\.)features\.denseblock1\.",)),
    ("a VGG or AlexNet", (r"(^|\.)features\.0\.weight$", r"features\.3\.weight$")),
    ("a YOLO detector", (r"(^|\.)model\.0\.conv\.weight$",)),
    ("an MLP-Mixer", (r"(^|\.)blocks\.0\.mlp_tokens\.",)),
)


def looks_like(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Describe in a few words the network that these tensors look like, or None.

    Args:
        shapes: by tensor name.
    """
    for words, patterns in _SIGNS:
        if all(any(re.search(pattern, key) for key in shapes) for pattern in patterns):
            return words
    return None
