"""Every way in which a program can be wrong, each refused by its own reason."""

import re
from dataclasses import replace

import pytest
from altered import (
    of_floats,
    step_of,
    with_array,
    with_buffer,
    with_input,
    with_part,
    with_step,
    with_view,
    without_step,
)

from levit.errors import CorruptArtifactError
from levit.native.check import check
from levit.native.program import (
    Attention,
    Buffer,
    Conv,
    Linear,
    Mean,
    Output,
    Program,
    Project,
    Subsample,
)

PIXELS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def program(lowered):
    return lowered("tiny", ("logits", "embedding"), PIXELS).program


def overlapping(program):
    """The hidden layer of the first MLP where its source lies."""
    up = next(step for step in program.steps if step.name.endswith("mlp.up"))
    return with_buffer(program, up.target, offset=program.buffers[up.source].offset)


def on_a_bigger_grid(program):
    conv = step_of(program, Conv)
    return with_buffer(program, conv.target, grid=(47, 48), rows=48 * 49)


WRONG = {
    "input size": (lambda p: with_input(p, height=0), "an input of (3, 0, 96)"),
    "large input": (lambda p: with_input(p, height=2**20, width=2**20), "an input of"),
    "input type": (lambda p: with_input(p, dtype="int8"), "an input of 'int8'"),
    "pixels of five channels": (lambda p: with_input(p, channels=5), "pixels of 5 channels"),
    "scale of floats": (lambda p: with_input(p, dtype="float32"), "a scale of a float32 input"),
    "no scale": (lambda p: with_input(p, scale=None), "None is not a scale or shift"),
    "two shifts": (lambda p: with_input(p, shift=(0.0, 1.0)), "not a scale or shift of 3 channels"),
    "scale": (lambda p: with_input(p, scale=(1e39, 1.0, 1.0)), "not a scale or shift"),
    "odd input": (lambda p: with_input(p, height=97), "a grid of 97x96, which is odd"),
    "another input": (lambda p: with_input(p, height=98), "a grid of (48, 48), not (49, 48)"),
    "channels": (lambda p: with_input(p, channels=1, scale=(1.0,), shift=(0.0,)), "shape (4, 1, 3"),
    "no rows": (lambda p: with_buffer(p, 3, rows=0), "buffer 3 has 0 x 32 values"),
    "wide": (lambda p: with_buffer(p, 3, columns=2**25), "buffer 3 has 36 x 33554432"),
    "stride": (lambda p: with_buffer(p, 3, stride=48), "buffer 3 has a stride of 48, not 32"),
    "grid's stride": (lambda p: with_buffer(p, 0, stride=16), "buffer 0 has a stride of 16, not 4"),
    "grid's rows": (lambda p: with_buffer(p, 0, grid=(48, 47)), "2401 rows for a grid of"),
    "grid of zero": (lambda p: with_buffer(p, 0, grid=(0, 2400)), "rows for a grid of (0, 2400)"),
    "offset": (lambda p: with_buffer(p, 3, offset=8), "buffer 3 of 1152 words has the offset 8"),
    "below zero": (lambda p: with_buffer(p, 3, offset=-16), "has the offset -16"),
    "far offset": (lambda p: with_buffer(p, 3, offset=2**31 - 16), "has the offset 2147483632"),
    "overlap": (overlapping, "overlap at step"),
    "no steps": (lambda p: replace(p, steps=()), "it has 0 steps"),
    "no buffers": (lambda p: replace(p, buffers=()), "it has 0 buffers"),
    "many steps": (lambda p: replace(p, steps=p.steps * 1000), "it has 43000 steps"),
    "unused buffer": (lambda p: replace(p, buffers=(*p.buffers, p.buffers[3])), "no step uses"),
    "first stage": (lambda p: with_step(p, Conv, stage=1), "step 0 'stem.0': stage 1"),
    "stage left out": (lambda p: with_step(p, Output, stage=4), "stage 4"),
    "stage before": (lambda p: with_step(p, Output, stage=1), "stage 1"),
    "not carried": (
        lambda p: with_buffer(p, p.buffers.index(next(b for b in p.buffers if b.carried)),
                              carried=False),
        "is not carried, and stage 1 needs it too",
    ),
    "no such buffer": (lambda p: with_step(p, Linear, source=99), "there is no buffer 99"),
    "no such target": (lambda p: with_step(p, Linear, target=99), "there is no buffer 99"),
    "no such view": (lambda p: with_view(p, "keys", buffer=99), "there is no buffer 99"),
    "unwritten": (lambda p: with_step(p, Conv, 1, source=2), "reads buffer 2, which nothing has"),
    "conv dropped": (lambda p: without_step(p, Conv, 1), "reads buffer 1, which nothing has"),
    "first conv dropped": (lambda p: without_step(p, Conv), "which nothing has written"),
    "onto its source": (lambda p: with_step(p, Linear, 1, target=3), "which it reads"),
    "residual is source": (
        lambda p: with_step(p, Linear, target=4, source=4, residual=4), "which it reads"
    ),
    "input read again": (lambda p: with_step(p, Conv, 1, source=None), "only the first step"),
    "conv of tokens": (lambda p: with_step(p, Linear, source=0), "buffer 0 holds a grid"),
    "grid of conv": (on_a_bigger_grid, "a grid of (47, 48), not (48, 48)"),
    "tokens of conv": (lambda p: with_buffer(p, 3, rows=35), "buffer 3 has 35 x 32 values, not 36"),
    "no such array": (lambda p: with_step(p, Conv, weight="w"), "there is no array 'w'"),
    "other array": (lambda p: with_step(p, Conv, weight="head.weight"), "'head.weight' is float"),
    "other bias": (lambda p: with_step(p, Linear, bias="stem.0.bias"), "float32 of shape (32,)"),
    "array of rank 1": (lambda p: with_array(p, "head.weight", (640,)), "shape (10, 64)"),
    "empty array": (lambda p: with_array(p, "head.weight", (0, 64)), "array 'head.weight' of shap"),
    "spare array": (lambda p: with_array(p, "spare", (3,)), "no step reads array 'spare'"),
    "bias left out": (lambda p: with_step(p, Conv, bias=None), "no step reads array 'stem.0.bias'"),
    "activation": (lambda p: with_step(p, Conv, activation="relu"), "no activation 'relu'"),
    "blocks as rows": (
        lambda p: with_step(p, Output, source=step_of(p, Project).target), "for attention alone"
    ),
    "rows where blocks are": (
        lambda p: with_step(p, Attention, target=step_of(p, Project).target), "which it reads"
    ),
    "rows of a Linear": (
        lambda p: with_step(p, Linear, -1, source=23), "buffer 30 has 1 x 10 values, not 4 x 10"
    ),
    "activation and residual": (
        lambda p: with_step(p, Linear, activation="silu"), "an activation and a residual at once"
    ),
    "no heads": (lambda p: with_step(p, Project, heads=0), "0 heads"),
    "heads": (lambda p: with_step(p, Project, heads=4), "float32 of shape (64, 32)"),
    "many heads": (lambda p: with_step(p, Attention, heads=5000), "5000 heads"),
    "no parts": (lambda p: with_step(p, Project, parts=()), "0 parts"),
    "no width": (lambda p: with_part(p, width=0), "a part without columns"),
    "width of a part": (lambda p: with_part(p, width=17), "float32 of shape (34, 32)"),
    "part's bias": (lambda p: with_part(p, bias="stem.0.bias"), "float32 of shape (32,)"),
    "column": (lambda p: with_view(p, "keys", column=16), "no part of 2 heads of 16 columns at"),
    "column outside": (lambda p: with_view(p, "values", column=2**20), "at column 1048576"),
    "width of a view": (lambda p: with_view(p, "values", width=16), "of 16 columns at column 64"),
    "queries and keys": (
        lambda p: with_step(p, Attention, keys=step_of(p, Attention).values), "of different widths"
    ),
    "view of no part": (lambda p: with_view(p, "keys", buffer=3), "buffer 3 has no part of 2"),
    "table": (lambda p: with_step(p, Attention, table="stem.0.bias"), "shape (2, 36, 36)"),
    "attention's target": (lambda p: with_step(p, Attention, target=3), "not 36 x 64"),
    "subsample's grid": (lambda p: with_step(p, Subsample, grid=(6, 5)), "36 tokens are no grid"),
    "subsample's step": (lambda p: with_step(p, Subsample, step=0), "a step of 0"),
    "subsample's rows": (lambda p: with_step(p, Subsample, step=1), "not 36 x 32"),
    "mean's columns": (
        lambda p: with_step(p, Mean, source=step_of(p, Mean, 1).source), "not 1 x 64"
    ),
    "same output": (lambda p: with_step(p, Output, 1, name="logits"), "another output of that"),
    "output's shape": (lambda p: with_step(p, Output, shape=(5,)), "1 x 10 values are not of"),
    "output's axes": (lambda p: with_step(p, Output, shape=(10, *(1,) * 8)), "are not of shape"),
    "output of a grid": (lambda p: with_step(p, Output, source=0), "buffer 0 holds a grid"),
    "heads as tokens": (
        lambda p: with_step(p, Linear, source=step_of(p, Project).target),
        "is for attention alone",
    ),
    "no outputs": (
        lambda p: replace(p, steps=tuple(s for s in p.steps if not isinstance(s, Output))),
        "it has no output",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_program_is_refused(program, name):
    change, message = WRONG[name]
    wrong = change(program)
    assert wrong != program
    with pytest.raises(CorruptArtifactError, match=re.escape(message)) as caught:
        check(wrong, wrong.arrays)
    assert str(caught.value).startswith("the program cannot be run (")
    assert str(caught.value).endswith("; export again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("head.weight"), "array 'head.weight' is missing"),
        (lambda a: a.update(more=of_floats(1)), "array 'more' is not of the program"),
        (
            lambda a: a.update({"head.weight": of_floats(64, 10)}),
            "is float32 of shape (64, 10), and the program says float32 of shape (10, 64)",
        ),
    ],
)
def test_arrays_that_are_others(program, change, message):
    arrays = dict(program.arrays)
    change(arrays)
    with pytest.raises(CorruptArtifactError, match=re.escape(message)):
        check(program, arrays)


def test_every_small_program_is_sound(small, lowered, small_configs):
    name = next(name for name, config in small_configs.items() if config == small.config)
    for outputs in (None, small.family.outputs(small.config)):
        program = lowered(name, outputs).program
        check(program, program.arrays)
        stages = program.steps[-1].stage + 1
        assert stages == len(small.config.stages)
        assert any(buffer.carried for buffer in program.buffers) == (stages > 1)
        again = Program.from_dict(program.to_dict())
        check(again, again.arrays)


def test_thousands_of_buffers_that_all_live_to_the_end(program):
    count = 8000
    grown = replace(
        program,
        input=replace(program.input, height=4, width=4),
        buffers=tuple(Buffer(rows=4, columns=4, stride=16, offset=64 * i) for i in range(count)),
        steps=(
            Conv(name="c", stage=0, source=None, target=0, weight="c", bias=None),
            *(
                Linear(name="l", stage=0, source=0, target=i, weight="l", bias=None)
                for i in range(1, count)
            ),
            *(
                Output(name=f"{i}", stage=0, source=i, transposed=False, shape=(4, 4))
                for i in range(1, count)
            ),
        ),
        arrays={"c": of_floats(4, 3, 3, 3), "l": of_floats(4, 4)},
    )
    check(grown, grown.arrays)
    close = replace(grown.buffers[-1], offset=64 * (count - 1) - 16)
    overlapping = replace(grown, buffers=(*grown.buffers[:-1], close))
    message = f"buffers {count - 2} and {count - 1} overlap"
    with pytest.raises(CorruptArtifactError, match=re.escape(message)):
        check(overlapping, grown.arrays)
