"""A vision transformer at another image size."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from levit.models.layers import transform
from levit.models.resampling import resample_grid
from levit.models.transformer.config import TransformerConfig, with_image_size
from levit.models.transformer.layers import PositionAttention, TransformerParams

__all__ = ["resize"]


def resize(
    config: TransformerConfig, params: TransformerParams, size: tuple[int, int]
) -> tuple[TransformerConfig, TransformerParams, tuple[str, ...]]:
    """The network as trained, on images of another size.

    Position embeddings of patches are resampled as timm does; those of tokens stay. Positional
    projections (ConViT) are functions of the offset in patches and stay as they are, so that
    attention reaches as many patches as before; timm does the same.

    Returns:
        Config, params, and what was done, in words.

    Raises:
        ConfigError: the size does not divide into patches, or is over a limit.
    """
    new = with_image_size(config, size)
    done = []
    embed = replace(params.embed, grid=new.grid)
    if embed.positions is not None:
        count = len(embed.positions) - math.prod(config.grid)
        first, others = np.split(embed.positions, [count])
        others = resample_grid(others, config.grid, new.grid)
        embed = replace(embed, positions=np.concatenate([first, others]))
        done.append("position embeddings: bicubic, antialiased, as timm")
    params = replace(params, embed=embed)
    params, count = transform(
        params, PositionAttention, lambda _, position: replace(position, grid=new.grid)
    )
    if count:
        done.append("positional projections: as they are, by offset in patches, as timm")
    return new, params, tuple(done)
