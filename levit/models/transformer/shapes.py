"""Facts of a vision transformer that the shapes of its tensors decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from levit.errors import CheckpointError
from levit.models.heads import read_heads
from levit.models.transformer.config import MAX_DEPTH
from levit.models.transformer.keymap import TransformerKeymap

__all__ = ["ShapeReader", "Shapes", "fields_of_shapes"]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ShapeReader:
    """Shapes of a checkpoint under the names of a source; a missing one is an error.

    ::

        ShapeReader(checkpoint.shapes, keymap).of("cls_token", rank=3)    # (1, 1, 192)
    """

    shapes: Shapes
    keymap: TransformerKeymap

    def of(self, key: str, rank: int) -> tuple[int, ...]:
        """Shape of a tensor; raises `CheckpointError` where it is missing, or of another rank."""
        shape = self.shapes.get(key)
        if shape is None:
            raise CheckpointError(
                f"the checkpoint has no tensor {key!r}, without which its configuration cannot be "
                f"told; is the file complete?"
            )
        if len(shape) != rank:
            raise CheckpointError(f"{key}: a tensor of shape {shape} does not belong here")
        return shape

    def has(self, key: str) -> bool:
        """Return True if there is such a tensor."""
        return key in self.shapes

    def depth(self) -> int:
        """Number of blocks."""
        names, number = self.keymap, 0
        while self.has(f"{names.block_name(number)}{names.norm1}.weight"):
            number += 1
            if number > MAX_DEPTH:
                raise CheckpointError(f"the checkpoint has over {MAX_DEPTH} blocks")
        return number

    def local_depth(self, depth: int) -> int:
        """Number of blocks with positional attention, of `depth` blocks."""
        gated = [self.keymap.is_gated(i, self.shapes) for i in range(depth)]
        if gated != sorted(gated, reverse=True):
            raise CheckpointError("blocks with positional attention come first in a ConViT")
        return sum(gated)

    def gates(self) -> int | None:
        """Number of attention heads by ConViT's gates; None where there are none."""
        names = self.keymap
        return self.of(names.block_name(0) + names.gate, 1)[0] if names.gate else None


def fields_of_shapes(read: ShapeReader) -> dict[str, Any]:
    """Read the fields of a `TransformerConfig` that the shapes decide.

    Raises:
        CheckpointError: a tensor is missing, or odd.
    """
    names, at = read.keymap, read.keymap.prefix
    width, in_channels, patch, other = read.of(f"{at}{names.patch}.weight", 4)
    if patch != other:
        raise CheckpointError(f"patches of {patch}x{other} pixels are not supported, only squares")
    depth = read.depth()
    if not depth:
        raise CheckpointError(f"the checkpoint has no {names.block_name(0)}{names.norm1}.weight")
    first = names.block_name(0)
    mlp_width = read.of(f"{first}{names.up}.weight", 2)[0]
    layer = (names.gated[0] if names.gated else names.q)[0]
    distilled = read.has(at + names.distillation_token)
    if not names.gate and not read.has(at + names.positions):  # which only a ConViT may lack
        raise CheckpointError(
            f"the checkpoint has no tensor {at + names.positions!r}: a vision transformer with "
            f"rotary embeddings, or without positions, is not supported; or is the file incomplete?"
        )
    classes, norms = read_heads(read.shapes, names)
    _check_heads(read, distilled=distilled, heads=len(norms))
    pooler = f"{at}{names.pooler}.weight"
    registers = at + names.registers
    return {
        "patch_size": patch,
        "in_channels": in_channels,
        "num_classes": classes,
        "width": width,
        "depth": depth,
        "mlp_width": mlp_width,
        "qkv_bias": read.has(f"{first}{layer}.bias"),
        "distilled": distilled,
        "distilled_head": len(norms) > 1,
        "head_norm": norms[:1] == [True],
        "head_dist_norm": norms[1:] == [True],
        "pooler_width": read.of(pooler, 2)[0] if names.pooler and read.has(pooler) else 0,
        "local_depth": read.local_depth(depth),
        "positions": read.has(at + names.positions),
        "class_token": read.has(at + names.class_token),
        "registers": (read.of(registers, 3)[1] if names.registers and read.has(registers) else 0),
        "pre_norm": read.has(f"{at}{names.norm_pre}.weight"),
        "layer_scale": any(read.has(first + scale) for scale in names.scales),
        "proj_bias": any(read.has(f"{first}{n}.bias") for n in (names.proj, names.up, names.down)),
        "fc_norm": read.has(f"{at}{names.fc_norm}.weight"),
    }


def _check_heads(read: ShapeReader, *, distilled: bool, heads: int) -> None:
    """Raise where there is one head too few or too many for the tokens.

    Timm's and the original's distilled models have both heads or none.
    """
    names = read.keymap
    if distilled and heads == 1 and len(names.heads) > 1:
        raise CheckpointError(
            f"the checkpoint has a distillation token ({names.distillation_token}) and no "
            f"distillation head ({names.heads[1]}.weight): is the file complete?"
        )
    if not distilled and heads > 1:
        raise CheckpointError(
            f"the checkpoint has a distillation head ({names.heads[1]}.weight) and no distillation "
            f"token ({names.prefix}{names.distillation_token}): is the file complete?"
        )
