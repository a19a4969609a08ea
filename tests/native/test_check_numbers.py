"""Programs whose numbers do not fit each other, each refused by its own reason."""

import re
from dataclasses import replace

import numpy as np
import pytest
from altered import step_of, with_buffer, with_input, with_part, with_step
from sketch import Sketch, bfloat16_bits

from levit.errors import CorruptArtifactError
from levit.native.check import check
from levit.native.program import (
    FLOAT32,
    ArraySpec,
    Attention,
    Conv,
    Linear,
    Mean,
    Numbers,
    Output,
    Subsample,
)

BFLOAT16 = Numbers(dtype="bfloat16")
GRID = Numbers(dtype="uint8", scale=0.1, zero_point=7)
SIGNED = Numbers(dtype="uint8", zero_point=128)


@pytest.fixture(scope="module")
def program():
    """Pixels as they are, a grid of bytes, attention in bytes, a copy, and a layer in bfloat16."""
    sketch = Sketch(
        3, 8, 8, dtype="uint8", scale=(1.0,) * 3, shift=(0.0,) * 3,
        numbers=Numbers(dtype="uint8"), border=(1, 2, 3),
    )  # fmt: skip
    taps = np.ones((5, 3, 3, 3), np.int8)
    grid = sketch.conv(None, taps, np.ones(5, np.int32), to_grid=True, numbers=GRID)  # buffer 0
    tokens = sketch.conv(grid, np.ones((6, 5, 3, 3), np.int8), copy=GRID)  # 1, and 2 of bytes
    copy = sketch.last()
    part = (np.ones((8, 6), np.int8), np.ones(8, np.int32))
    q, k, v = sketch.project(copy, 2, [part] * 3, numbers=SIGNED)  # 3
    mixed = sketch.attention(
        q, k, v, 2, scales=(np.ones(2), np.ones(8), np.ones(8)), numbers=GRID
    )  # 4
    sketch.linear(mixed, np.ones((6, 8), np.int8), residual=tokens, target=tokens, copy=BFLOAT16)
    of_halves = sketch.last()  # 5
    half = sketch.linear(of_halves, bfloat16_bits(np.ones((6, 6))), np.ones(6))  # 6
    few = sketch.subsample(half, (2, 2), 2, numbers=GRID)  # 7
    sketch.show(sketch.mean(half))  # 8
    sketch.show(few)  # 9
    return sketch.build()[0]


def numbered(program, number, **changes):
    numbers = replace(program.buffers[number].numbers, **changes)
    return with_buffer(program, number, numbers=numbers)


def with_spec(program, name, dtype):
    spec = replace(program.arrays[name], dtype=dtype)
    return replace(program, arrays={**program.arrays, name: spec})


def weight_of(kind, which=0):
    return lambda program: step_of(program, kind, which).weight


def in_floats(program):
    """The input read in float32, as its arrays are not."""
    return with_input(program, numbers=FLOAT32, border=None)


def of_more_channels(program):
    """Pixels that are no pixels any more, in bytes."""
    return with_input(
        program, channels=5, dtype="float32", scale=None, shift=None, border=None, numbers=GRID
    )


BORDER = "a border of"
TOGETHER = "integers and a scale go together"
WRONG = {
    "dtype": (lambda p: numbered(p, 0, dtype="int4"), "buffer 0 has values of 'int4'"),
    "scale 0": (lambda p: numbered(p, 0, scale=0.0), "buffer 0 has the scale 0.0"),
    "scale below 0": (lambda p: numbered(p, 2, scale=-0.1), "buffer 2 has the scale -0.1"),
    "tiny scale": (lambda p: numbered(p, 2, scale=1e-40), "buffer 2 has the scale 1e-40"),
    "huge scale": (lambda p: numbered(p, 2, scale=1e39), "buffer 2 has the scale 1e+39"),
    "scale that is none": (lambda p: numbered(p, 2, scale=float("nan")), "has the scale nan"),
    "zero point": (lambda p: numbered(p, 0, zero_point=256), "and the zero point 256"),
    "zero point below 0": (lambda p: numbered(p, 0, zero_point=-1), "and the zero point -1"),
    "scale of floats": (lambda p: numbered(p, 1, scale=2.0), "buffer 1 has a scale, and no bytes"),
    "zero point of halves": (lambda p: numbered(p, 5, zero_point=1), "a scale, and no bytes"),
    "input's dtype": (
        lambda p: with_input(p, numbers=Numbers(dtype="int8")), "the input has values of 'int8'"
    ),
    "input's scale": (
        lambda p: with_input(p, border=None, numbers=Numbers(dtype="uint8", scale=0.0)),
        "the input has the scale 0.0",
    ),
    "border of two": (lambda p: with_input(p, border=(1, 2)), BORDER),
    "border beyond bytes": (lambda p: with_input(p, border=(1, 2, 256)), BORDER),
    "border below 0": (lambda p: with_input(p, border=(1, -2, 3)), BORDER),
    "border of no integers": (lambda p: with_input(p, numbers=FLOAT32), BORDER),
    "border of a grid": (lambda p: with_input(p, numbers=GRID), BORDER),
    "border of floats": (
        lambda p: with_input(p, dtype="float32", scale=None, shift=None), BORDER
    ),
    "bytes of five channels": (of_more_channels, "bytes of 5 channels"),
    "stride of bytes": (lambda p: with_buffer(p, 0, stride=5), "has a stride of 5, not 8"),
    "stride of floats": (lambda p: numbered(p, 0, dtype="float32", scale=1.0, zero_point=0),
                         "buffer 0 has a stride of 8, not 5"),
    "weights of floats": (in_floats, "is int8 of shape (5, 3, 3, 3), not float32 of"),
    "array's dtype": (
        lambda p: with_spec(p, weight_of(Conv)(p), "float32"), "is float32 of shape (5, 3, 3, 3)"
    ),
    "bias's dtype": (
        lambda p: with_spec(p, step_of(p, Conv).bias, "float32"), "not int32 of shape (5,)"
    ),
    "halves for floats": (
        lambda p: with_spec(p, weight_of(Linear, 1)(p), "float32"), "not bfloat16 of shape (6, 6)"
    ),
    "bias of halves": (
        lambda p: with_spec(p, step_of(p, Linear, 1).bias, "bfloat16"), "not float32 of shape (6,)"
    ),
    "scale's dtype": (
        lambda p: with_spec(p, step_of(p, Conv).scale, "int32"), "not float32 of shape (5,)"
    ),
    "no scale": (lambda p: with_step(p, Conv, scale=None), TOGETHER),
    "no scale of a part": (lambda p: with_part(p, scale=None), TOGETHER),
    "scale of halves": (
        lambda p: with_step(p, Linear, 1, scale=step_of(p, Linear).scale), TOGETHER
    ),
    "bytes in a sum": (lambda p: with_step(p, Linear, target=2), "buffer 2 holds no float32"),
    "bytes for a sum": (lambda p: with_step(p, Linear, residual=2), "buffer 2 holds no float32"),
    "copy of other rows": (lambda p: with_step(p, Linear, copy=7), "buffer 7 holds no copy of 4 x"),
    "copy of a grid": (lambda p: with_step(p, Conv, copy=2), "buffer 2 holds no copy of 25 x 5"),
    "copy for attention": (lambda p: with_step(p, Linear, copy=3), "buffer 3 is for attention al"),
    "copy that is nowhere": (lambda p: with_step(p, Linear, copy=99), "there is no buffer 99"),
    "copy onto the target": (lambda p: with_step(p, Conv, 1, copy=1), "it writes one buffer twice"),
    "copy onto the source": (lambda p: with_step(p, Linear, copy=4), "writes buffer 4, which it r"),
    "copy onto the sum": (
        lambda p: with_step(p, Linear, target=6, copy=1), "it copies to what it adds"
    ),
    "copy that is not made": (lambda p: with_step(p, Conv, 1, copy=None), "reads buffer 2, which"),
    "zero point of keys": (lambda p: numbered(p, 3, zero_point=127), "zero point is not 128"),
    "no scale of scores": (
        lambda p: with_step(p, Attention, score_scale=None), "integers and their scales go together"
    ),
    "no scale of values": (
        lambda p: with_step(p, Attention, value_scale=None), "integers and their scales go together"
    ),
    "scales exchanged": (
        lambda p: with_step(p, Attention, score_scale=step_of(p, Attention).value_scale),
        "is float32 of shape (8,), not float32 of shape (2,)",
    ),
    "scores of floats": (
        lambda p: numbered(p, 3, dtype="float32", zero_point=0), "integers and their scales go"
    ),
    "bytes of another grid": (
        lambda p: with_step(p, Subsample, source=4, grid=(2, 2)), "values, not 1 x 8"
    ),
    "subsample of bytes": (
        lambda p: numbered(with_step(p, Subsample, source=2), 7, scale=0.2),
        "buffer 2 holds other numbers than buffer 7",
    ),
    "mean of halves": (lambda p: with_step(p, Mean, source=5), "buffer 5 holds no float32"),
    "mean of bytes": (lambda p: with_step(p, Mean, source=2), "buffer 2 holds no float32"),
    "output of bytes": (
        lambda p: with_step(p, Output, source=7, shape=(1, 6)), "buffer 7 holds no float32"
    ),
    "output of halves": (
        lambda p: with_step(p, Output, source=5, shape=(4, 6)), "buffer 5 holds no float32"
    ),
}  # fmt: skip


def test_the_program_itself_is_sound(program):
    check(program, program.arrays)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_numbers_are_refused(program, name):
    change, message = WRONG[name]
    wrong = change(program)
    assert wrong != program
    with pytest.raises(CorruptArtifactError, match=re.escape(message)):
        check(wrong, wrong.arrays)


def test_queries_and_keys_of_several_numbers():
    sketch = Sketch.of_tokens((1, 4), 8)
    part = (np.eye(8), None)
    views = [
        sketch.project(0, 1, [part], numbers=numbers)[0] for numbers in (FLOAT32, FLOAT32, SIGNED)
    ]
    sketch.output(sketch.attention(*views, 1))
    with pytest.raises(CorruptArtifactError, match="values of several dtypes"):
        sketch.build()


def test_array_of_another_dtype(program):
    name = weight_of(Conv)(program)
    arrays = {**program.arrays, name: ArraySpec(dtype="int32", shape=(5, 3, 3, 3))}
    with pytest.raises(CorruptArtifactError, match=r"is int32 of .*, and the program says int8 of"):
        check(program, arrays)
