"""What is refused of the steps of vision transformers of one width, each by its own reason."""

import re
from dataclasses import replace

import pytest

from levit.errors import CorruptArtifactError
from levit.export.lowering import lower
from levit.export.passes import PASSES, fold_gate, fold_layernorm_affine, run_passes
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig
from levit.native.check import check
from levit.native.program import (
    ArraySpec,
    Attention,
    Buffer,
    LayerNorm,
    Mean,
    Numbers,
    Patches,
    Program,
    Rows,
    Stack,
)


@pytest.fixture(scope="module")
def program(seed):
    """Of a ConViT: 16 patches of 8×8 pixels, a class token behind the first of two blocks."""
    config = TransformerConfig(
        image_size=(32, 32), patch_size=8, num_classes=5, width=24, depth=2, heads=2, mlp_width=40,
        local_depth=1,
    )  # fmt: skip
    model = random_model(FAMILIES["convit"], config, seed)
    passes = [each for each in PASSES if each not in (fold_gate, fold_layernorm_affine)]
    outputs = ("logits", "embedding")
    return lower(run_passes(model.with_plan(outputs=outputs), passes)[-1].model).program


def step_of(program, kind, which=0):
    return [step for step in program.steps if isinstance(step, kind)][which]


def with_step(program, kind, which=0, **changes):
    gone = step_of(program, kind, which)
    changed = replace(gone, **changes)
    return replace(program, steps=tuple(changed if s is gone else s for s in program.steps))


def with_target(program, kind, which=0, **changes):
    """The program whose `which`-th step of a kind writes another buffer."""
    number = step_of(program, kind, which).target
    buffers = list(program.buffers)
    buffers[number] = replace(buffers[number], **changes)
    return replace(program, buffers=tuple(buffers))


def with_input(program, **changes):
    return replace(program, input=replace(program.input, **changes))


def patches_later(program):
    first, second, *rest = program.steps
    return replace(program, steps=(second, first, *rest))


BF16 = Numbers(dtype="bfloat16")
WRONG = {
    "squares": (lambda p: with_step(p, Patches, size=5), "32x32 pixels in squares of 5"),
    "no squares": (lambda p: with_step(p, Patches, size=0), "32x32 pixels in squares of 0"),
    "large squares": (lambda p: with_step(p, Patches, size=64), "32x32 pixels in squares of 64"),
    "more rows": (lambda p: with_step(p, Patches, first=1), "has 16 x 192 values, not 17 x 192"),
    "channels": (lambda p: with_input(p, channels=1), "has 16 x 192 values, not 16 x 64"),
    "patches later": (patches_later, "only the first step reads the input"),
    "pixels in bfloat16": (lambda p: with_input(p, numbers=BF16), "in other numbers than float32"),
    "norm of fewer": (lambda p: with_target(p, LayerNorm, rows=15), "has 15 x 24 values, not 16"),
    "eps of zero": (lambda p: with_step(p, LayerNorm, eps=0.0), "an epsilon of 0.0"),
    "eps of nothing": (lambda p: with_step(p, LayerNorm, eps=1e-40), "an epsilon of 1e-40"),
    "eps of NaN": (lambda p: with_step(p, LayerNorm, eps=float("nan")), "an epsilon of nan"),
    "large eps": (lambda p: with_step(p, LayerNorm, eps=2.0), "an epsilon of 2.0"),
    "weight alone": (lambda p: with_step(p, LayerNorm, bias=None), "a weight without a bias"),
    "bias alone": (lambda p: with_step(p, LayerNorm, weight=None), "a weight without a bias"),
    "norm's weight": (
        lambda p: with_step(p, LayerNorm, weight="embed.table.rows"), "not float32 of shape (24,)",
    ),
    "stack's columns": (lambda p: with_target(p, Stack, 1, columns=23), "24 columns on others"),
    "no row above": (lambda p: with_target(p, Stack, 1, rows=16), "no row above 16"),
    "rows above": (lambda p: with_target(p, Stack, 1, rows=18), "not float32 of shape (2, 24)"),
    "stack in bfloat16": (lambda p: with_target(p, Stack, numbers=BF16), "holds no float32"),
    "no such rows": (lambda p: with_step(p, Rows, first=17), "1 times 1 rows from 17, of 17"),
    "many rows": (lambda p: with_step(p, Rows, together=18), "1 times 18 rows from 0, of 17"),
    "none together": (lambda p: with_step(p, Rows, together=0), "1 times 0 rows from 0, of 17"),
    "two together": (lambda p: with_step(p, Rows, together=2), "has 1 x 24 values, not 1 x 48"),
    "positions' shape": (
        lambda p: replace(p, arrays={**p.arrays, "blocks.0.attn.position.table": spec(2, 16, 17)}),
        "not float32 of shape (2, 16, 16)",
    ),
    "rest's shape": (
        lambda p: replace(p, arrays={**p.arrays, "blocks.0.attn.position.rest": spec(3)}),
        "not float32 of shape (2,)",
    ),
    "rest alone": (lambda p: with_step(p, Attention, positions=None), "a rest without positions"),
}  # fmt: skip


def spec(*shape):
    return ArraySpec(dtype="float32", shape=shape)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_program_is_refused(program, name):
    change, message = WRONG[name]
    wrong = change(program)
    with pytest.raises(CorruptArtifactError, match=re.escape(message)):
        check(wrong, wrong.arrays)


def test_sound_program(program):
    check(program, program.arrays)
    again = Program.from_dict(program.to_dict())
    assert again == program


def test_means_begin_within_their_source(program):
    stream = step_of(program, Stack, 1).target
    place = next(i for i, s in enumerate(program.steps) if getattr(s, "source", None) == stream)
    mean = Mean(name="mean", stage=0, source=stream, target=len(program.buffers), first=17)
    wrong = replace(
        program,
        buffers=(*program.buffers, Buffer(rows=1, columns=24, stride=32, offset=2**20)),
        steps=(*program.steps[:place], mean, *program.steps[place:]),
    )
    with pytest.raises(CorruptArtifactError, match="no row 17 of 17"):
        check(wrong, wrong.arrays)
    sound = with_step(wrong, Mean, first=16)
    check(sound, sound.arrays)
