"""Steps that only vision transformers of one width need: patches, norms, tokens beside patches."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LayerNorm", "Patches", "Rows", "Stack"]


@dataclass(frozen=True, kw_only=True)
class Patches:
    """The image cut into squares: a row for each, from the top left, behind rows of zeros.

    A row holds its square's values in the order in which they lie in the input: channels, rows,
    columns of float32; rows, columns, channels of uint8 pixels.

    Attributes:
        target: number of a buffer of ``first + squares`` rows and ``channels · size²`` columns.
        size: of a square, in pixels.
        first: rows of zeros, where tokens will be that stand for no patch.
    """

    name: str
    stage: int
    target: int
    size: int
    first: int


@dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """``(x - mean) / sqrt(variance + eps) * weight + bias``, token by token.

    Attributes:
        source: number of a buffer of float32 tokens.
        weight, bias: names of arrays, (C,); both or none.
    """

    name: str
    stage: int
    source: int
    target: int
    eps: float
    weight: str | None = None
    bias: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The rows of an array, and below them those of a buffer, if there is one: float32.

    Attributes:
        rows: name of an array, (rows, C).
        source: number of a buffer of float32 tokens; None for none.
    """

    name: str
    stage: int
    rows: str
    source: int | None
    target: int


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of a buffer, in other numbers or not; several of them side by side as one.

    Attributes:
        source: number of a buffer of float32 tokens, or of the target's numbers.
        first: the first row that is taken; as many follow as the target has places.
        together: rows of the source that make one of the target.
    """

    name: str
    stage: int
    source: int
    target: int
    first: int = 0
    together: int = 1
