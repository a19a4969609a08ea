"""Features of other vision transformers, told by their tensors, so that a refusal names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from levit.errors import CheckpointError
from levit.models.transformer.keymap import TransformerKeymap

__all__ = ["find_feature", "refuse_features"]

Shapes = Mapping[str, tuple[int, ...]]

# Words of a feature, and a pattern of a name that no network without it has.
_FEATURES: Final[Sequence[tuple[str, str]]] = (
    ("a hybrid (convolutional) stem", r"^patch_embed\.(backbone|conv\d*|stem)\."),
    ("a norm in the patch embedding", r"^patch_embed\.norm\."),
    ("parallel blocks", r"^blocks\.0\.(attns|ffns|in_proj|attn_out_proj|mlp_out_proj|norm)\b"),
    ("relative position biases", r"relative_position_(bias|index)|\brel_pos"),
    ("rotary embeddings", r"(^|\.)(rope|rotary\w*|freqs\w*|inv_freq)(\.|$)"),
    ("differential attention", r"attn\.lambda_"),
    ("an attention gate", r"attn\.gate\b"),
    ("normalised queries and keys (qk_norm)", r"attn\.(q_norm|k_norm|q_ln|k_ln)\."),
    ("a norm inside the attention (scale_attn_norm)", r"attn\.(norm|inner_attn_ln)\."),
    ("a norm inside the MLP (scale_mlp_norm)", r"mlp\.(norm|ffn_ln)\."),
    ("a gated MLP (SwiGLU)", r"mlp\.(w12|w1|w3|fc1_g|gate_proj|weights_in)\b"),
    ("talking heads", r"attn\.proj_[lw]\."),
    ("class attention", r"^(blocks_token_only|cls_attn_blocks)\."),
    ("biases of queries and values alone (BEiT)", r"attn\.(q_bias|v_bias)$"),
    ("attention pooling (global_pool='map')", r"^attn_pool\."),
    ("layer scale under names of transformers' DINOv2 or BEiT", r"(lambda1|lambda_1)$"),
)


def find_feature(names: Iterable[str]) -> str | None:
    """Name the feature of other vision transformers that some tensors belong to, or None.

    ::

        find_feature(["blocks.0.attn.q_norm.weight"])    # "normalised queries and keys (qk_norm)"

    Args:
        names: of tensors, without a prefix.
    """
    names = list(names)
    for words, pattern in _FEATURES:
        if any(re.search(pattern, name) for name in names):
            return words
    return None


def refuse_features(shapes: Shapes, keymap: TransformerKeymap) -> None:
    """Raise where tensors are of a feature that is not built here.

    ::

        refuse_features({"blocks.0.attn.q_norm.weight": (64,), …}, keymap)

    Args:
        shapes: of every tensor.

    Raises:
        CheckpointError: the feature, in words.
    """
    words = find_feature(name.removeprefix(keymap.prefix) for name in shapes)
    if words is not None:
        raise _refusal(words)
    first = keymap.block_name(0)
    up = shapes.get(f"{first}{keymap.up}.weight", ())
    down = shapes.get(f"{first}{keymap.down}.weight", ())
    if len(up) == len(down) == 2 and up[0] == 2 * down[1]:
        raise _refusal("a gated MLP (SwiGLU)")
    norms = [name for name in shapes if name.endswith(f".{keymap.norm1}.weight")]
    if norms and not any(name.removesuffix("weight") + "bias" in shapes for name in norms):
        raise _refusal("norms without biases (RMSNorm)")
    if len({shapes[name] for name in norms}) > 1:
        raise _refusal("blocks of several widths")


def _refusal(words: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint's vision transformer has {words}, which is not supported"
    )
