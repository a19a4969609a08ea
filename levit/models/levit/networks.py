"""The source libraries' own networks of a LeViT, by name: nothing is imported here."""

from __future__ import annotations

from typing import Any, Final

from levit.errors import ExportError
from levit.models.levit.config import BlockConfig, LevitConfig
from levit.models.model import SourceNetwork

__all__ = ["timm_arguments", "timm_network", "transformers_arguments", "transformers_network"]

_STEMS: Final = {4: "s16", 3: "s8"}


def timm_network(config: LevitConfig) -> SourceNetwork:
    """Timm's ``Levit`` or ``LevitDistilled``."""
    return SourceNetwork(
        library="timm",
        module="timm.models.levit",
        name="LevitDistilled" if config.distilled else "Levit",
        arguments=timm_arguments(config),
    )


def transformers_network(config: LevitConfig) -> SourceNetwork:
    """``LevitModel``, ``LevitForImageClassification`` or that with a teacher."""
    name = "LevitModel"
    if config.num_classes:
        name = "LevitForImageClassification" + "WithTeacher" * config.distilled
    return SourceNetwork(
        library="transformers",
        module="transformers",
        name=name,
        config="LevitConfig",
        arguments=transformers_arguments(config),
    )


def timm_arguments(config: LevitConfig) -> dict[str, Any]:
    """The arguments that make timm's ``Levit`` this model.

    Raises:
        ExportError: timm cannot build it (it derives the downsampling blocks' shapes).
    """
    pairs = [(stage.block, stage.downsample) for stage in config.stages]
    key_dims = {block.key_dim for pair in pairs for block in pair if block is not None}
    if len(key_dims) != 1:
        raise ExportError(f"timm has no LeViT with key widths {sorted(key_dims)} in one model")
    if len(config.stem_widths) not in _STEMS:
        raise ExportError(f"timm has no LeViT with {len(config.stem_widths)} stem convolutions")
    (key_dim,) = key_dims
    # What a stage without blocks is called does not matter.
    nothing = BlockConfig(heads=1, key_dim=key_dim, value_dim=2 * key_dim, mlp_width=2)
    known = [stage.block or nothing for stage in config.stages]
    return {
        "img_size": config.image_size,
        "in_chans": config.in_channels,
        "num_classes": config.num_classes,
        "embed_dim": tuple(stage.width for stage in config.stages),
        "key_dim": key_dim,
        "depth": tuple(stage.depth for stage in config.stages),
        "num_heads": tuple(block.heads for block in known),
        "attn_ratio": tuple(block.value_dim / block.key_dim for block in known),
        "mlp_ratio": tuple(
            block.mlp_width / stage.width for block, stage in zip(known, config.stages, strict=True)
        ),
        "stem_type": _STEMS[len(config.stem_widths)],
        "act_layer": config.activation,
        "attn_act_layer": config.attention_activation,
        "use_conv": config.conv,
    }


def transformers_arguments(config: LevitConfig) -> dict[str, Any]:
    """The arguments that make transformers' ``LevitConfig`` this model.

    Raises:
        ExportError: transformers cannot build it.
    """
    height, width = config.image_size
    if height != width or len(config.stem_widths) != 4 or config.activation != "hard_swish":
        raise ExportError("transformers has LeViTs of square images, stride 16 and hard_swish only")
    blocks = [stage.block for stage in config.stages if stage.block is not None]
    if len(blocks) != len(config.stages) or len(config.stages) != 3:
        raise ExportError("transformers has LeViTs of three stages, none empty, only")
    return {
        "image_size": height,
        "num_channels": config.in_channels,
        "hidden_sizes": [stage.width for stage in config.stages],
        "num_attention_heads": [block.heads for block in blocks],
        "depths": [stage.depth for stage in config.stages],
        "key_dim": [block.key_dim for block in blocks],
        "attention_ratio": [block.value_dim // block.key_dim for block in blocks],
        "mlp_ratio": [
            block.mlp_width // stage.width
            for block, stage in zip(blocks, config.stages, strict=True)
        ],
        "num_labels": config.num_classes,
    }
