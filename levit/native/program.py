"""Programs: a network as a flat list of frozen steps, each of which is one kernel.

`interpreter` says in NumPy what each step means, `check` what a program must fulfil before the
library sees it. Shapes are those of one image, static but for the batch.

Values between steps lie in *buffers*, in the numbers of whatever reads them: float32, bfloat16, or
bytes on a grid. A buffer is a matrix, tokens × channels, whose rows begin every `stride` values:
whole blocks of 16 channels, so that no kernel has a tail. A step multiplies in the numbers of its
source: bytes meet int8 weights with a scale a channel. What is used within one stage only is laid
out by liveness in memory that the next stage uses again; what goes from stage to stage is
*carried*. A stage runs for a group of images before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np

from levit.errors import CorruptArtifactError, ManifestVersionError
from levit.json_values import flag, listed, number, number_pair, shown, table, text, whole
from levit.native.token_steps import LayerNorm, Patches, Rows, Stack

__all__ = [
    "FLOAT32",
    "SIGNED_BYTES",
    "LANES",
    "VERSION",
    "ArraySpec",
    "Attention",
    "Buffer",
    "Conv",
    "ITEM_SIZES",
    "Input",
    "LayerNorm",
    "Linear",
    "Mean",
    "Numbers",
    "Output",
    "Part",
    "Patches",
    "Program",
    "Project",
    "Rows",
    "Stack",
    "Step",
    "Subsample",
    "View",
    "padded",
]

VERSION: Final = 1
# Rows of buffers are padded to these columns: of float32 one AVX-512 vector, or four of NEON.
LANES: Final = 16
_WORD: Final = 4


def padded(columns: int) -> int:
    """Round up to whole blocks: ``padded(40) == 48``."""
    return -(-columns // LANES) * LANES


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers in which values are stored.

    Attributes:
        dtype: ``float32``, ``bfloat16`` or ``uint8``.
        scale, zero_point: of uint8: a byte b stands for ``(b - zero_point) * scale``.
    """

    dtype: str = "float32"
    scale: float = 1.0
    zero_point: int = 0

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return ITEM_SIZES[self.dtype]

    @property
    def inverse_scale(self) -> float:
        """The float32 by which values are multiplied on their way to bytes."""
        return float(np.float32(1) / np.float32(self.scale))

    def grid_stride(self, channels: int) -> int:
        """Values from pixel to pixel of a grid: `channels`, filled up to whole words."""
        each = _WORD // self.itemsize
        return -(-channels // each) * each


ITEM_SIZES: Final[Mapping[str, int]] = {"float32": 4, "bfloat16": 2, "uint8": 1}
FLOAT32: Final = Numbers()
# Queries, keys and values of integers: signed bytes and 128.
SIGNED_BYTES: Final = Numbers(dtype="uint8", zero_point=128)


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Values of one image between steps, a matrix of `rows` × `columns`.

    Attributes:
        stride: values from row to row, ``padded(columns)``; of a grid, ``grid_stride(columns)``.
        offset: of the first value, in words of 4 bytes, in the memory of the stage or of what is
            carried.
        carried: whether a later stage reads it.
        grid: (height, width) of an image between convolutions, channels last, with a border of
            one zero pixel above and at the left: ``rows == (height + 1) * (width + 1)``. None for
            tokens.
    """

    rows: int
    columns: int
    stride: int
    offset: int
    carried: bool = False
    grid: tuple[int, int] | None = None
    numbers: Numbers = FLOAT32

    @property
    def size(self) -> int:
        """Words of 4 bytes of one image."""
        return self.rows * self.stride * self.numbers.itemsize // _WORD


@dataclass(frozen=True, kw_only=True)
class Input:
    """The batch that a caller brings.

    Attributes:
        dtype: ``float32``, (B, C, H, W); or ``uint8`` pixels, (B, H, W, C).
        scale, shift: per channel, applied to pixels: ``x * scale + shift``; None for float32.
        numbers: in which the first step reads them.
        border: where uint8 pixels are read as they are, the byte of each channel that stands for 0
            around the picture; their scale and shift are in the first step's weights. None where
            they are not.
    """

    name: str
    dtype: str
    channels: int
    height: int
    width: int
    scale: tuple[float, ...] | None = None
    shift: tuple[float, ...] | None = None
    numbers: Numbers = FLOAT32
    border: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """An array's dtype (``float32``, ``bfloat16``, ``int8`` or ``int32``) and shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Conv:
    """3×3 convolution with stride 2 and zero padding of 1, then the activation.

    Attributes:
        name: of the layer, its path in the model's tree, as for all steps.
        stage: of the program.
        source: number of a buffer with a grid; None for the input.
        target: number of a buffer with a grid; or of tokens, after the last convolution.
        weight: name of an array, (O, I, 3, 3); of a source of bytes, int8.
        bias: name of an array, (O,), or None; of a source of bytes, int32, in units of `scale`.
        activation: ``hard_swish``, ``silu``, ``gelu``, ``tanh``, or None.
        scale: name of an array, (O,), by which integer sums are multiplied; None for other sources.
        copy: number of a second target like the first, in other numbers; None for none.
    """

    name: str
    stage: int
    source: int | None
    target: int
    weight: str
    bias: str | None
    activation: str | None = None
    scale: str | None = None
    copy: int | None = None


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``activation(source @ weight.T + bias) + residual``, token by token.

    No kernel has both an activation and a residual, and no network asks for it.

    Attributes:
        weight: name of an array, (O, I).
        residual: number of a buffer, which may be the target itself; None for none. Both are
            float32.
        scale, copy: as of a `Conv`.
    """

    name: str
    stage: int
    source: int
    target: int
    weight: str
    bias: str | None
    activation: str | None = None
    residual: int | None = None
    scale: str | None = None
    copy: int | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the Linears that are computed together: queries, keys or values of all heads.

    Attributes:
        weight: name of an array, (heads · width, I), head by head.
        bias: name of an array, (heads · width,), or None.
        width: of one head.
        scale: name of an array, (heads · width,), as of a `Conv`.
    """

    weight: str
    bias: str | None
    width: int
    scale: str | None = None


@dataclass(frozen=True, kw_only=True)
class Project:
    """Linears of one source into one target, part after part and head after head.

    Each head begins at a multiple of `LANES` in the target: it has
    ``sum(heads * padded(part.width))`` columns.
    """

    name: str
    stage: int
    source: int
    target: int
    heads: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """Queries, keys or values of all heads: those of a `Part` in the target of a `Project`.

    Attributes:
        buffer: number of that target.
        column: of the first head; the next begins ``padded(width)`` further on.
        width: of one head.
    """

    buffer: int
    column: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Attention:
    """For each head, ``activation(softmax₂(q @ k.T + table) @ v)`` into its columns of the target.

    softmax₂ is that of powers of two: ``2^(s - max) / sum``. Log₂e is in the queries and the table.
    With `positions` the values meet ``softmax₂(…) * rest + positions`` instead.

    Of bytes, all with a zero point of 128, integer scores are multiplied by their head's scale
    before the table is added; powers are rounded to ``round(255 · 2^(s - max))`` and divided by the
    sum of the rounded ones; and their product with the values is multiplied by the scale of each
    column, and that column's offset is added.

    Attributes:
        target: its rows are the queries', its columns heads · values' width, not padded between
            heads.
        table: name of an array, (heads, queries, keys); None for none.
        score_scale: name of an array, (heads,); None where the queries are no bytes.
        value_scale: name of an array, (heads · values' width,); likewise.
        value_offset: name of an array like that, added to what comes out; None for none.
        positions: name of an array like the table, of weights and not of scores; None for none, as
            always of bytes.
        rest: name of an array, (heads,); None for ones.
    """

    name: str
    stage: int
    queries: View
    keys: View
    values: View
    target: int
    heads: int
    table: str | None
    activation: str | None = None
    score_scale: str | None = None
    value_scale: str | None = None
    value_offset: str | None = None
    positions: str | None = None
    rest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Subsample:
    """Every `step`-th row and column of a grid of tokens, from the first, in other numbers or not.

    Attributes:
        grid: (height, width) of the source's tokens.
    """

    name: str
    stage: int
    source: int
    target: int
    grid: tuple[int, int]
    step: int


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Mean over all tokens from the `first`, into a target of one row."""

    name: str
    stage: int
    source: int
    target: int
    first: int = 0


@dataclass(frozen=True, kw_only=True)
class Output:
    """Copy a buffer into the caller's memory, (B, rows, columns) or (B, columns, rows).

    Attributes:
        name: of the output.
        transposed: columns first, as the channels of a grid.
        shape: of one image, with as many values as the buffer.
    """

    name: str
    stage: int
    source: int
    transposed: bool
    shape: tuple[int, ...]


Step: TypeAlias = (
    Conv
    | Linear
    | Project
    | Attention
    | Subsample
    | Mean
    | Output
    | Patches
    | LayerNorm
    | Stack
    | Rows
)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A network, with names in place of its arrays.

    Attributes:
        arrays: dtype and shape of each array by name.
    """

    input: Input
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    arrays: Mapping[str, ArraySpec]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, with the version."""
        names = {kind: name for name, kind in _KINDS.items()}
        return {
            "version": VERSION,
            "input": asdict(self.input),
            "buffers": [asdict(buffer) for buffer in self.buffers],
            "steps": [{"kind": names[type(step)], **asdict(step)} for step in self.steps],
            "arrays": {name: asdict(spec) for name, spec in self.arrays.items()},
        }

    @classmethod
    def from_dict(cls, values: Any) -> Program:
        """The reverse of :meth:`to_dict`, also after JSON.

        Raises:
            ManifestVersionError: a newer release has written it.
            CorruptArtifactError: a field is missing, unknown, or of the wrong type. Whether the
                numbers fit each other, `check` says.
        """
        try:
            version = whole(table(values, "program").get("version"), "version", least=1)
            if version > VERSION:
                raise ManifestVersionError(
                    f"the program has version {version}, this release reads up to {VERSION}: "
                    f"upgrade levit, or export again with this release"
                )
            _require_fields({"version", *(f.name for f in fields(cls))}, values, "program")
            return cls(
                input=_read(Input, values["input"], "input"),
                buffers=tuple(
                    _read(Buffer, entry, f"buffers[{i}]")
                    for i, entry in enumerate(listed(values["buffers"], "buffers"))
                ),
                steps=tuple(
                    _read_step(entry, f"steps[{i}]")
                    for i, entry in enumerate(listed(values["steps"], "steps"))
                ),
                arrays={
                    name: _read(ArraySpec, spec, f"arrays[{name!r}]")
                    for name, spec in table(values["arrays"], "arrays").items()
                },
            )
        except (TypeError, ValueError) as error:
            raise CorruptArtifactError(
                f"not a program that levit has written ({error}); export again"
            ) from error


_KINDS: Final[Mapping[str, type[Step]]] = {
    "conv": Conv,
    "linear": Linear,
    "project": Project,
    "attention": Attention,
    "subsample": Subsample,
    "mean": Mean,
    "output": Output,
    "patches": Patches,
    "layer_norm": LayerNorm,
    "stack": Stack,
    "rows": Rows,
}

_Record = TypeVar("_Record")


def _count(value: Any, name: str) -> int:
    # Far beyond use; what numbers make together stays within 64 bits.
    return whole(value, name, least=0, most=2**31)


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    return tuple(number(entry, name) for entry in listed(value, name))


def _read_step(values: Any, name: str) -> Step:
    kind = table(values, name).get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{name}: a step of kind {shown(kind)} is unknown")
    rest = {field: value for field, value in values.items() if field != "kind"}
    step: Step = _read(_KINDS[kind], rest, name)
    return step


# By the type of a field as it stands in the dataclass.
_GETTERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "str": text,
    "int": _count,
    "float": number,
    "bool": flag,
    "tuple[int, int]": lambda value, name: number_pair(value, name, least=1),
    "tuple[int, ...]": lambda value, name: tuple(_count(n, name) for n in listed(value, name)),
    "tuple[float, ...]": _numbers,
    "Numbers": lambda value, name: _read(Numbers, value, name),
    "View": lambda value, name: _read(View, value, name),
    "tuple[Part, ...]": lambda value, name: tuple(
        _read(Part, p, name) for p in listed(value, name)
    ),
}


def _read(record: type[_Record], values: Any, name: str) -> _Record:
    """Read a dataclass from the dictionary of its fields, all of them and no other."""
    kinds = {f.name: str(f.type) for f in fields(record)}  # type: ignore[arg-type]
    _require_fields(set(kinds), table(values, name), name)
    found = {}
    for field, kind in kinds.items():
        value, plain = values[field], kind.removesuffix(" | None")
        absent = value is None and plain != kind
        found[field] = None if absent else _GETTERS[plain](value, f"{name}.{field}")
    return record(**found)


def _require_fields(expected: set[str], values: Mapping[str, Any], name: str) -> None:
    odd = sorted(expected.symmetric_difference(values), key=str)
    if odd:
        raise ValueError(f"{name} has missing or unknown fields: {shown(odd)}")
