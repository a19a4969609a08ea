import pytest

from levit.native.counting import kind_of, macs_of, weight_bytes_of
from levit.native.program import (
    ArraySpec,
    Attention,
    Buffer,
    Conv,
    Input,
    Linear,
    Mean,
    Part,
    Program,
    Project,
    View,
)

# An image of 8×8 to a grid of 4×4, to 4 tokens of 5 channels, an attention of 2 heads, a mean.
BUFFERS = (
    Buffer(rows=25, columns=6, stride=6, offset=0, grid=(4, 4)),
    Buffer(rows=4, columns=5, stride=16, offset=0),
    Buffer(rows=4, columns=96, stride=96, offset=0),
    Buffer(rows=4, columns=14, stride=16, offset=0),
    Buffer(rows=1, columns=5, stride=16, offset=0),
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
    ),
    "proj": Linear(name="proj", stage=0, source=3, target=1, weight="p", bias="pb", residual=1),
    "mean": Mean(name="mean", stage=0, source=1, target=4),
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
        ("attention", 2 * 4 * 4 * (3 + 7), 2 * 4 * 4),  # scores, and products with values
        ("proj", 4 * 14 * 5, 14 * 5 + 5),
        ("mean", 0, 0),
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
    ]
