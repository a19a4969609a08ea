"""The source libraries' own networks of a config, by name: nothing is imported here."""

from __future__ import annotations

from levit.errors import ExportError
from levit.models.model import SourceNetwork
from levit.models.transformer.config import TransformerConfig

__all__ = ["convit_network", "timm_network", "transformers_network"]


def timm_network(config: TransformerConfig) -> SourceNetwork:
    """Timm's ``VisionTransformer``, or ``VisionTransformerDistilled``.

    Raises:
        ExportError: timm cannot build it.
    """
    if config.distilled and config.num_classes and not config.distilled_head:
        raise ExportError("timm has no DeiT whose only head reads the class token")
    if config.pooler_width:
        raise ExportError("timm has no DeiT or ViT with a pooler")
    if config.activation != "gelu":
        raise ExportError(f"compared with timm is gelu only, not {config.activation}")
    module, name = "timm.models.vision_transformer", "VisionTransformer"
    if config.distilled:
        module, name = "timm.models.deit", "VisionTransformerDistilled"
    return SourceNetwork(
        library="timm",
        module=module,
        name=name,
        arguments={
            "img_size": config.image_size,
            "patch_size": config.patch_size,
            "in_chans": config.in_channels,
            "num_classes": config.num_classes,
            "embed_dim": config.width,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": config.mlp_width / config.width,
            "qkv_bias": config.qkv_bias,
            "proj_bias": config.proj_bias,
            "init_values": 1e-5 if config.layer_scale else None,  # any number: weights follow
            "class_token": config.class_token,
            "no_embed_class": not config.token_positions,
            "reg_tokens": config.registers,
            "pre_norm": config.pre_norm,
            "global_pool": config.pool,
            "final_norm": config.final_norm,
            "fc_norm": config.fc_norm,
        },
        norm_eps=config.norm_eps,
    )


def convit_network(config: TransformerConfig) -> SourceNetwork:
    """Timm's ``ConVit``.

    Raises:
        ExportError: timm cannot build it.
    """
    height, width = config.image_size
    if height != width:
        raise ExportError("timm has ConViTs of square images only")
    if config.activation != "gelu":
        raise ExportError(f"compared with timm is gelu only, not {config.activation}")
    return SourceNetwork(
        library="timm",
        module="timm.models.convit",
        name="ConVit",
        arguments={
            "img_size": config.image_size,
            "patch_size": config.patch_size,
            "in_chans": config.in_channels,
            "num_classes": config.num_classes,
            "embed_dim": config.width // config.heads,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": config.mlp_width / config.width,
            "qkv_bias": config.qkv_bias,
            "global_pool": config.pool,
            "local_up_to_layer": config.local_depth,
            "use_pos_embed": config.positions,
        },
        norm_eps=config.norm_eps,
    )


def transformers_network(config: TransformerConfig) -> SourceNetwork:
    """``DeiTModel``, ``ViTForImageClassification`` and the like.

    Raises:
        ExportError: transformers cannot build it.
    """
    if not _is_plain(config):
        raise ExportError(
            "transformers has ViT and DeiT with a class token, which its classifier reads, and "
            "without registers, layer scale and further norms"
        )
    height, width = config.image_size
    kind = "DeiT" if config.distilled else "ViT"
    head = "ForImageClassification" if config.num_classes else "Model"
    return SourceNetwork(
        library="transformers",
        module="transformers",
        name=kind + head + "WithTeacher" * (config.classifier_heads > 1),
        config=f"{kind}Config",
        arguments={
            "image_size": height if height == width else [height, width],
            "patch_size": config.patch_size,
            "num_channels": config.in_channels,
            "hidden_size": config.width,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.heads,
            "intermediate_size": config.mlp_width,
            "hidden_act": config.activation,
            "layer_norm_eps": config.norm_eps,
            "qkv_bias": config.qkv_bias,
            "num_labels": config.num_classes or 2,
            **({"pooler_output_size": config.pooler_width} if config.pooler_width else {}),
        },
        pooler=bool(config.pooler_width),
        headless_output="features",  # transformers has no mean of tokens
    )


def _is_plain(config: TransformerConfig) -> bool:
    """Tell whether it is the network of the papers, as transformers has it alone."""
    return (
        config.class_token
        and config.token_positions
        and config.final_norm
        and config.proj_bias
        and config.pool == "token"
        and not (config.registers or config.pre_norm or config.layer_scale or config.fc_norm)
    )
