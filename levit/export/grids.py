"""Description of a model's int8 layers, from which every target's graph is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from levit.models.ops import Array

__all__ = [
    "AttentionGrids",
    "Grid",
    "LayerGrids",
    "PixelGrid",
    "Quantization",
    "Scheme",
    "fit_grid",
]

# Where every value of a range is 0, any scale gives it back.
_SMALLEST_SCALE: Final = 2.0**-100
_LOG2_E: Final = math.log2(math.e)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The integers that a backend multiplies.

    Attributes:
        signed: activations are int8 with a zero point of 0, as TensorRT wants them; else uint8
            with a zero point anywhere, which is the finer of the two where a range is lopsided.
        weight_bits: 8, or 7 for CPUs without VNNI, which add two products in 16 bits.
        half: scales are values of float16, which is the type of all that is no integer.
    """

    signed: bool = False
    weight_bits: int = 8
    half: bool = False

    @property
    def largest_weight(self) -> int:
        """The largest magnitude of a weight as an integer."""
        return int(2 ** (self.weight_bits - 1)) - 1

    def scales(self, values: Array) -> Array:
        """Round scales to float32, as files hold them; never to 0, which divides nothing."""
        if not self.half:
            return np.maximum(values.astype(np.float32), np.float32(_SMALLEST_SCALE))
        kind = np.finfo(np.float16)
        inside = np.clip(values, float(kind.smallest_subnormal), float(kind.max))
        return inside.astype(np.float16).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The values ``(n - zero_point) * scale`` of 256 integers n.

    Attributes:
        scale: a float32.
    """

    scale: float
    zero_point: int
    signed: bool

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the largest integer."""
        return (-128, 127) if self.signed else (0, 255)

    def nearest(self, x: Array) -> Array:
        """The grid's value nearest to each of `x`."""
        low, high = self.bounds
        integers = np.rint(x / self.scale) + self.zero_point
        result: Array = (np.clip(integers, low, high) - self.zero_point) * self.scale
        return result.astype(x.dtype, copy=False)


@dataclass(frozen=True, kw_only=True)
class PixelGrid(Grid):
    """The pixels themselves: a layer reads ``pixel - offset`` of each channel.

    So nothing is rounded but the border: its zeros stand for the offset, and the integer nearest to
    that is in its place. What offset times weights is, is in the bias.

    Attributes:
        offset: of each channel, in pixels.
    """

    offset: tuple[float, ...]
    scale: float = 1.0
    zero_point: int = 0
    signed: bool = False

    @property
    def border(self) -> tuple[int, ...]:
        """The pixel (0 to 255) of each channel that stands around a picture."""
        return tuple(int(np.clip(np.rint(value), 0, 255)) for value in self.offset)

    def nearest(self, x: Array) -> Array:
        """`x` itself, which lies on the grid."""
        return x

    def padded(self, x: Array, padding: int) -> Array:
        """(B, C, H, W) of ``pixel - offset`` with the border around."""
        batch, channels, height, width = x.shape
        gap = np.asarray(self.border) - np.asarray(self.offset)
        size = (height + 2 * padding, width + 2 * padding)
        result: Array = np.empty((batch, channels, *size), x.dtype)
        result[:] = gap.reshape(-1, 1, 1)
        result[:, :, padding : padding + height, padding : padding + width] = x
        return result

    def share(self, weight: Array) -> Array:
        """(O,): of what weights (O, C, …) give, the part that the offset has."""
        rows = weight.reshape(*weight.shape[:2], -1).sum(axis=2, dtype=np.float64)
        result: Array = rows @ np.asarray(self.offset)
        return result


def fit_grid(low: float, high: float, scheme: Scheme) -> Grid:
    """The grid whose integers cover `low` to `high`, and 0 exactly.

    Padding and what an activation cuts off are zeros: they must come out as such.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if scheme.signed:
        (scale,) = scheme.scales(np.array([max(-low, high) / 127])).tolist()
        return Grid(scale=scale, zero_point=0, signed=True)
    (scale,) = scheme.scales(np.array([(high - low) / 255])).tolist()
    return Grid(scale=scale, zero_point=int(np.clip(np.rint(-low / scale), 0, 255)), signed=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerGrids:
    """Grids of one convolution or Linear.

    Attributes:
        input: of what it reads; a `PixelGrid` where a target's form has it.
        range_rule: by which the range of that was chosen.
        weight_scale: (O,) float32: its weights are whole multiples of their channel's.
        output: of what it makes, where a backend has no convolution of integers that gives
            floats.
    """

    input: Grid
    weight_scale: Array
    output: Grid | None = None
    range_rule: str = "min-max"

    @property
    def bias_scale(self) -> Array:
        """(O,) float32: of a product of an integer of the input and one of the weights."""
        scale: Array = (self.weight_scale * np.float32(self.input.scale)).astype(np.float32)
        # Of a product that float32 cannot hold nothing is left, and any scale gives it back.
        return np.maximum(scale, np.float32(_SMALLEST_SCALE))

    def integers(self, weight: Array) -> Array:
        """Weights (O, …), which lie on the grid, as int8."""
        scale = self.weight_scale.astype(np.float64)
        result: Array = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
        return result.astype(np.int8)


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionGrids:
    """Grids of an attention whose products are both of integers.

    Integers are ``clip(rint((x - offset) / scale), -128, 127)``. With those of queries and keys,
    the row of scores to base 2 is ``s = Σ q·k · factors + table·log₂e``. Its probabilities have a
    grid of their own row, whose largest value is always 255: ``p = rint(255 · 2^(s - max s))``, and
    the result is ``Σ p·v · (1 / Σ p) · values + value_offset``, in this order in float32.

    Both offsets are exact and next to free. What all keys have in common adds the same to a row of
    scores, which softmax ignores, so that nobody adds it back; it goes into the bias of the keys'
    layer. What all values have in common comes out as it is, because the probabilities are divided
    by the sum of the rounded ones.

    Attributes:
        queries, keys: (H,) float32, a scale a head.
        values: (H·Dv,) float32, a scale a channel.
        key_offset: (H·Dk,) float32.
        value_offset: (H·Dv,) float32.
    """

    queries: Array
    keys: Array
    values: Array
    key_offset: Array
    value_offset: Array

    def factors(self, scale: float | None = None) -> Array:
        """(H,) float32: of a sum of products of integers, in the scores to base 2.

        Args:
            scale: of the scores, where the queries do not hold it.
        """
        both = self.queries.astype(np.float64) * self.keys
        result: Array = (both * (_LOG2_E * (1 if scale is None else scale))).astype(np.float32)
        return result

    @staticmethod
    def table(bias: Array) -> Array:
        """The table of biases to base 2, as float32."""
        result: Array = (np.asarray(bias, np.float64) * _LOG2_E).astype(np.float32)
        return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """The int8 part of a model; all the rest stays in floating point.

    Attributes:
        layers: by the names that ``ops.scope`` gives them.
        attentions: by the path of the attention, whose projections are layers of their own.
    """

    scheme: Scheme
    layers: Mapping[str, LayerGrids]
    attentions: Mapping[str, AttentionGrids] = field(default_factory=dict)

    @classmethod
    def none(cls) -> Quantization:
        """A model without integers."""
        return cls(scheme=Scheme(), layers={})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the int8 layers, then of the attentions."""
        return (*self.layers, *self.attentions)

    def without(self, names: Collection[str]) -> Quantization:
        """The same with the layers and attentions of these names left in floating point."""
        return self.only([name for name in self.names if name not in names])

    def only(self, names: Collection[str]) -> Quantization:
        """The same for the layers and attentions of these names alone."""
        return replace(
            self,
            layers={k: v for k, v in self.layers.items() if k in names},
            attentions={k: v for k, v in self.attentions.items() if k in names},
        )

    def to_dict(self) -> dict[str, Any]:
        """Entry of the manifest."""
        return {
            "activations": "int8, symmetric" if self.scheme.signed else "uint8, asymmetric",
            "weights": f"int{self.scheme.weight_bits}, symmetric, per channel",
            "ranges": dict(Counter(grids.range_rule for grids in self.layers.values())),
            "layers": sorted(self.layers),
            **({"attentions": sorted(self.attentions)} if self.attentions else {}),
        }
