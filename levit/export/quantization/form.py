"""Integers as a backend takes them."""

from __future__ import annotations

from dataclasses import dataclass

from levit.export.grids import Scheme

__all__ = ["IntegerForm"]


@dataclass(frozen=True, kw_only=True)
class IntegerForm:
    """Integers as a target's backend multiplies them at int8.

    Attributes:
        symmetric_activations: activations are int8 with a zero point of 0; else uint8 with a zero
            point anywhere.
        integer_results: a convolution of integers gives integers, so that its result has a grid.
        integer_attention: both products of an attention may be of integers too, its probabilities
            on a grid a row (`AttentionGrids`), which no graph can say.
        keep_first: the first convolution stays in floating point also where it reads pixels, which
            are integers already.
        floats: precision of all that is no integer.
        exact_everywhere: products of 8 bits never saturate, on x86 without VNNI either.
    """

    symmetric_activations: bool = False
    integer_results: bool = False
    integer_attention: bool = False
    keep_first: bool = True
    floats: str = "fp32"
    exact_everywhere: bool = False

    def scheme(self, *, reduce_range: bool) -> Scheme:
        """The grids of this form; `reduce_range` for weights of seven bits."""
        return Scheme(
            signed=self.symmetric_activations,
            weight_bits=7 if reduce_range else 8,
            half=self.floats == "fp16",
        )
