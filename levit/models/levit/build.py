"""Named tensors → LeViT's layers."""

from __future__ import annotations

import numpy as np

from levit.models.layers import BatchNorm, Conv, Linear, Mlp, RelativeBias
from levit.models.levit.config import BlockConfig, LevitConfig
from levit.models.levit.keymap import BlockNames, DownsampleNames, LevitKeymap
from levit.models.levit.layers import Attention, LevitBlock, LevitParams, LevitStage
from levit.models.model import Weights
from levit.models.ops import Array

__all__ = ["build", "relative_index"]


class _Builder:
    """Reads layers out of named tensors."""

    def __init__(self, keymap: LevitKeymap, weights: Weights) -> None:
        self._keymap = keymap
        self._weights = weights

    def conv(self, layer: str, out_channels: int, in_channels: int) -> Conv:
        weight = self._weights.tensor(
            layer + self._keymap.stem_weight, (out_channels, in_channels, 3, 3)
        )
        return Conv(weight, norm=self._norm(layer, out_channels))

    def linear(self, layer: str, out_features: int, in_features: int) -> Linear:
        return Linear(
            self._matrix(layer, out_features, in_features), norm=self._norm(layer, out_features)
        )

    def head(self, which: int, classes: int, width: int, *, norm: bool) -> Linear:
        names = self._keymap.head_names(which, norm=norm)
        return Linear(
            # The heads are Linears in the conv twins too.
            self._weights.tensor(names.weight, (classes, width)),
            self._weights.tensor(names.bias, (classes,)),
            norm_before=self._norm(self._keymap.heads[which], width) if norm else None,
        )

    def heads_of(self, layer: str, heads: int, widths: tuple[int, ...], width: int) -> list[Linear]:
        """A fused projection → one Linear per part; rows are stored head by head."""
        fused = self.linear(layer, heads * sum(widths), width)
        ends = np.cumsum(widths)
        rows = np.arange(heads * sum(widths)).reshape(heads, -1)  # (H, sum of widths)
        return [
            _rows(fused, rows[:, end - part : end].reshape(-1))
            for part, end in zip(widths, ends, strict=True)
        ]

    def bias(
        self, names: BlockNames | DownsampleNames, heads: int, grid: tuple[int, int], stride: int
    ) -> RelativeBias:
        values = self._weights.tensor(names.bias, (heads, grid[0] * grid[1]))
        index = relative_index(grid, stride)
        # They follow from the grid; some sources store them all the same.
        self._weights.constant(names.index, index)
        return RelativeBias(values, index)

    def _matrix(self, layer: str, out_features: int, in_features: int) -> Array:
        key = layer + self._keymap.weight
        if self._keymap.conv:
            return self._weights.tensor(key, (out_features, in_features, 1, 1))[:, :, 0, 0]
        return self._weights.tensor(key, (out_features, in_features))

    def _norm(self, layer: str, width: int) -> BatchNorm:
        weight, bias, mean, var = (
            self._weights.tensor(layer + self._keymap.norm[part], (width,))
            for part in ("weight", "bias", "mean", "var")
        )
        return BatchNorm(weight, bias, mean, var)


def _rows(linear: Linear, rows: Array) -> Linear:
    norm = linear.norm
    assert norm is not None
    part = BatchNorm(norm.weight[rows], norm.bias[rows], norm.mean[rows], norm.var[rows], norm.eps)
    return Linear(linear.weight[rows], norm=part)


def relative_index(grid: tuple[int, int], stride: int) -> Array:
    """Index of the bias table's entry for each query and key.

    Entry ``|Δrow| * width + |Δcolumn|``, for queries at every `stride`-th row and column.

    Returns:
        (Nq, Nk) int64.
    """
    height, width = grid
    rows, columns = np.divmod(np.arange(height * width), width)
    chosen = (rows % stride == 0) & (columns % stride == 0)
    delta_rows = np.abs(rows[chosen][:, None] - rows[None, :])
    delta_columns = np.abs(columns[chosen][:, None] - columns[None, :])
    index: Array = delta_rows * width + delta_columns
    return index


def build(config: LevitConfig, keymap: LevitKeymap, weights: Weights) -> LevitParams:
    """Assemble the layers from tensors named as `keymap` says."""
    make = _Builder(keymap, weights)
    inputs = (config.in_channels, *config.stem_widths)
    stem = tuple(
        make.conv(keymap.stem_name(i), width, inputs[i])
        for i, width in enumerate(config.stem_widths)
    )
    depths = [stage.depth for stage in config.stages]
    stages = []
    before, width_before = config.grids[0], config.stages[0].width
    for s, (stage, grid) in enumerate(zip(config.stages, config.grids, strict=True)):
        downsample = None
        if stage.downsample is not None:
            down_names = keymap.downsample_names(s, depths)
            downsample = _build_downsample(make, config, down_names, s, width_before, before)
        blocks = tuple(
            _build_block(make, config, keymap.block_names(s, b, depths), s, grid)
            for b in range(stage.depth)
        )
        stages.append(LevitStage(downsample, blocks))
        before, width_before = grid, stage.width
    head = head_dist = None
    if config.num_classes:
        classes, width = config.num_classes, config.width
        head = make.head(0, classes, width, norm=config.head_norm)
        if config.distilled:
            head_dist = make.head(1, classes, width, norm=config.head_dist_norm)
    return LevitParams(stem, tuple(stages), head, head_dist)


def _build_block(
    make: _Builder,
    config: LevitConfig,
    names: BlockNames,
    s: int,
    grid: tuple[int, int],
) -> LevitBlock:
    width, block = config.stages[s].width, config.stages[s].block
    assert block is not None
    q, k, v = make.heads_of(
        names.qkv, block.heads, (block.key_dim, block.key_dim, block.value_dim), width
    )
    attn = Attention(
        q=q,
        k=k,
        v=v,
        proj=make.linear(names.proj, width, block.heads * block.value_dim),
        bias=make.bias(names, block.heads, grid, stride=1),
        heads=block.heads,
        scale=block.key_dim**-0.5,
        grid=grid,
        stride=1,
        activation=config.attention_activation,
    )
    return LevitBlock(attn, _build_mlp(make, config, names, width, block))


def _build_downsample(
    make: _Builder,
    config: LevitConfig,
    names: DownsampleNames,
    s: int,
    width_before: int,
    grid_before: tuple[int, int],
) -> LevitBlock:
    width, block = config.stages[s].width, config.stages[s].downsample
    assert block is not None
    k, v = make.heads_of(names.kv, block.heads, (block.key_dim, block.value_dim), width_before)
    attn = Attention(
        q=make.linear(names.q, block.heads * block.key_dim, width_before),
        k=k,
        v=v,
        proj=make.linear(names.proj, width, block.heads * block.value_dim),
        bias=make.bias(names, block.heads, grid_before, stride=2),
        heads=block.heads,
        scale=block.key_dim**-0.5,
        grid=grid_before,
        stride=2,
        activation=config.attention_activation,
    )
    return LevitBlock(attn, _build_mlp(make, config, names, width, block))


def _build_mlp(
    make: _Builder,
    config: LevitConfig,
    names: BlockNames | DownsampleNames,
    width: int,
    block: BlockConfig,
) -> Mlp:
    return Mlp(
        up=make.linear(names.up, block.mlp_width, width),
        down=make.linear(names.down, width, block.mlp_width),
        activation=config.activation,
    )
