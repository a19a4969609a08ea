"""A LeViT at another image size."""

from __future__ import annotations

from dataclasses import replace

from levit.models.layers import RelativeBias
from levit.models.levit.build import relative_index
from levit.models.levit.config import LevitConfig
from levit.models.levit.layers import Attention, LevitBlock, LevitParams, LevitStage
from levit.models.resampling import resample_offsets

__all__ = ["resize"]


def resize(
    config: LevitConfig, params: LevitParams, size: tuple[int, int]
) -> tuple[LevitConfig, LevitParams, tuple[str, ...]]:
    """The network as trained, on images of another size.

    Its attention biases by offset are stretched with the picture, as timm does it to Swin's and
    BEiT's; no library does it to LeViT's.

    Returns:
        Config, params, and what was done, in words.

    Raises:
        ConfigError: the size does not fit the stem, or is over a limit.
    """
    new = replace(config, image_size=size)

    def resized(attention: Attention, grid: tuple[int, int]) -> Attention:
        values = resample_offsets(attention.bias.values, attention.grid, grid)
        bias = RelativeBias(values, relative_index(grid, attention.stride))
        return replace(attention, bias=bias, grid=grid)

    def block(old: LevitBlock, grid: tuple[int, int]) -> LevitBlock:
        return replace(old, attn=resized(old.attn, grid))

    stages, before = [], new.grids[0]
    for stage, grid in zip(params.stages, new.grids, strict=True):
        down = stage.downsample
        stages.append(
            LevitStage(
                # A downsampling block's keys are the tokens of the stage before.
                None if down is None else block(down, before),
                tuple(block(old, grid) for old in stage.blocks),
            )
        )
        before = grid
    done = ("attention biases: bicubic, antialiased, over signed offsets; nobody else does it",)
    return new, replace(params, stages=tuple(stages)), done
