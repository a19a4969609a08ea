from dataclasses import replace

import pytest

from levit.native.counting import dtype_of, kind_of, macs_of, weight_bytes_of
from levit.native.program import (
    ArraySpec,
    Attention,
    Buffer,
    Conv,
    Input,
    LayerNorm,
    Linear,
    Mean,
    Numbers,
    Part,
    Patches,
    Program,
    Project,
    Rows,
    Stack,
    View,
)

# An image of 8×8 to a grid of 4×4, to 4 tokens of 5 channels, an attention of 2 heads, a mean; and
# to 4 patches behind 2 rows of zeros.
BUFFERS = (
    Buffer(rows=25, columns=6, stride=6, offset=0, grid=(4, 4)),
    Buffer(rows=4, columns=5, stride=16, offset=0),
    Buffer(rows=4, columns=96, stride=96, offset=0),
    Buffer(rows=4, columns=14, stride=16, offset=0),
    Buffer(rows=1, columns=5, stride=16, offset=0),
    Buffer(rows=6, columns=48, stride=48, offset=0),
)
STEPS = {
    "first": Conv(name="first", stage=0, source=None, target=0, weight="w0", bias="b0"),
    "second": Conv(name="second", stage=0, source=0, target=1, weight="w1", bias=None),
    "qkv": Project(
        name="qkv",
        stage=0,
        source=1,
        target=2,
        heads=2,
        parts=(
            Part(weight="q", bias="qb", width=3),
            Part(weight="k", bias=None, width=3),
            Part(weight="v", bias=None, width=7),
        ),
    ),
    "attention": Attention(
        name="attention",
        stage=0,
        queries=View(buffer=2, column=0, width=3),
        keys=View(buffer=2, column=32, width=3),
        values=View(buffer=2, column=64, width=7),
        target=3,
        heads=2,
        table="table",
        positions="positions",
        rest="rest",
    ),
    "proj": Linear(name="proj", stage=0, source=3, target=1, weight="p", bias="pb", residual=1),
    "mean": Mean(name="mean", stage=0, source=1, target=4),
    "patches": Patches(name="patches", stage=0, target=5, size=4, first=2),
    "norm": LayerNorm(name="norm", stage=0, source=1, target=1, eps=1e-6, weight="g", bias="pb"),
    "stack": Stack(name="stack", stage=0, rows="rows", source=None, target=1),
    "rows": Rows(name="rows", stage=0, source=1, target=4),
}
PROGRAM = Program(
    input=Input(name="input", dtype="float32", channels=3, height=8, width=8),
    buffers=BUFFERS,
    steps=tuple(STEPS.values()),
    arrays={
        "w0": ArraySpec(dtype="float32", shape=(6, 3, 3, 3)),
        "b0": ArraySpec(dtype="float32", shape=(6,)),
        "w1": ArraySpec(dtype="float32", shape=(5, 6, 3, 3)),
        "q": ArraySpec(dtype="float32", shape=(6, 5)),
        "qb": ArraySpec(dtype="float32", shape=(6,)),
        "k": ArraySpec(dtype="float32", shape=(6, 5)),
        "v": ArraySpec(dtype="float32", shape=(14, 5)),
        "table": ArraySpec(dtype="float32", shape=(2, 4, 4)),
        "positions": ArraySpec(dtype="float32", shape=(2, 4, 4)),
        "rest": ArraySpec(dtype="float32", shape=(2,)),
        "g": ArraySpec(dtype="float32", shape=(5,)),
        "rows": ArraySpec(dtype="float32", shape=(4, 5)),
        "p": ArraySpec(dtype="float32", shape=(5, 14)),
        "pb": ArraySpec(dtype="float32", shape=(5,)),
    },
)


@pytest.mark.parametrize(
    ("name", "macs", "weights"),
    [
        ("first", 16 * 6 * 27, 6 * 27 + 6),  # the border of zeros is no place
        ("second", 4 * 5 * 54, 5 * 54),
        ("qkv", 4 * 5 * (6 + 6 + 14), 5 * 26 + 6),
        # Scores, and products with values; two tables.
        ("attention", 2 * 4 * 4 * (3 + 7), 2 * 2 * 4 * 4 + 2),
        ("proj", 4 * 14 * 5, 14 * 5 + 5),
        ("mean", 0, 0),
        ("patches", 0, 0),
        ("norm", 0, 5 + 5),
        ("stack", 0, 4 * 5),
        ("rows", 0, 0),
    ],
)
def test_work_of_each_kind_of_step(name, macs, weights):
    assert macs_of(PROGRAM, STEPS[name]) == macs
    assert weight_bytes_of(PROGRAM, STEPS[name]) == 4 * weights


def test_steps_are_named_by_their_kernel():
    assert [kind_of(step) for step in PROGRAM.steps] == [
        "conv",
        "conv",
        "project",
        "attention",
        "linear",
        "mean",
        "patches",
        "layernorm",
        "stack",
        "rows",
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_that_a_step_multiplies(dtype):
    numbers = Numbers(dtype=dtype)
    program = replace(PROGRAM, buffers=tuple(replace(b, numbers=numbers) for b in BUFFERS))
    found = {name: dtype_of(program, step) for name, step in STEPS.items()}
    # Of those that read the picture its own.
    assert found == dict.fromkeys(STEPS, dtype) | dict.fromkeys(
        ("first", "patches", "stack"), "float32"
    )
