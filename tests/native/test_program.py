import json
import re

import pytest

from levit.errors import CorruptArtifactError, ManifestVersionError
from levit.native.program import (
    VERSION,
    ArraySpec,
    Attention,
    Buffer,
    Conv,
    Input,
    Linear,
    Mean,
    Numbers,
    Output,
    Part,
    Program,
    Project,
    Subsample,
    View,
    padded,
)


@pytest.fixture
def program():
    """Every kind of step, and every field that may be absent both ways."""
    view = View(buffer=2, column=16, width=5)
    return Program(
        input=Input(
            name="pixels", dtype="uint8", channels=3, height=8, width=8,
            scale=(1.0, 0.5, 2.0), shift=(-100.25, 0.0, 1e-3), border=(100, 0, 7),
            numbers=Numbers(dtype="uint8", scale=0.25, zero_point=3),
        ),
        buffers=(
            Buffer(rows=25, columns=6, stride=6, offset=0, grid=(4, 4)),
            Buffer(rows=4, columns=6, stride=16, offset=160, carried=True),
        ),
        steps=(
            Conv(name="c", stage=0, source=None, target=0, weight="w", bias=None),
            Conv(name="d", stage=0, source=0, target=1, weight="w", bias="b", activation="silu",
                 scale="b", copy=1),
            Linear(name="l", stage=1, source=1, target=1, weight="w", bias="b", residual=1),
            Project(
                name="p", stage=1, source=1, target=2, heads=3,
                parts=(
                    Part(weight="w", bias=None, width=5),
                    Part(weight="w", bias="b", width=9, scale="b"),
                ),
            ),
            Attention(
                name="a", stage=1, queries=view, keys=view, values=view, target=1, heads=3,
                table=None, activation="gelu", score_scale="b", value_scale="b",
            ),
            Subsample(name="s", stage=1, source=1, target=1, grid=(2, 2), step=2),
            Mean(name="m", stage=1, source=1, target=1),
            Output(name="logits", stage=1, source=1, transposed=True, shape=(6, 2, 2)),
        ),
        arrays={
            "w": ArraySpec(dtype="bfloat16", shape=(6, 3, 3, 3)),
            "b": ArraySpec(dtype="float32", shape=(6,)),
        },
    )  # fmt: skip


@pytest.fixture
def values(program):
    return json.loads(json.dumps(program.to_dict()))


def test_program_is_itself_after_json(program, values):
    assert Program.from_dict(values) == program
    assert values["version"] == VERSION
    assert Program.from_dict(values).to_dict() == program.to_dict()


@pytest.mark.parametrize(("columns", "floats"), [(1, 16), (16, 16), (17, 32), (40, 48)])
def test_rows_are_padded_to_whole_vectors(columns, floats):
    assert padded(columns) == floats


def test_newer_version_says_to_upgrade(values):
    values |= {"version": VERSION + 1, "cache": {}}
    with pytest.raises(ManifestVersionError, match="reads up to 1: upgrade levit"):
        Program.from_dict(values)


DAMAGE = {
    "no object": (lambda v: [], "program: expected an object"),
    "no version": (lambda v: v.pop("version"), "version: expected a whole number"),
    "version 0": (lambda v: v.update(version=0), "at least 1"),
    "version true": (lambda v: v.update(version=True), "version: expected a whole number"),
    "field too many": (lambda v: v.update(loops=[]), "unknown fields: ['loops']"),
    "field too few": (lambda v: v.pop("steps"), "missing or unknown fields: ['steps']"),
    "field of a step": (lambda v: v["steps"][2].pop("residual"), "steps[2] has missing"),
    "odd field of a step": (lambda v: v["steps"][6].update(grid=[1, 1]), "['grid']"),
    "kind": (lambda v: v["steps"][0].update(kind="loop"), "steps[0]: a step of kind 'loop'"),
    "kind that is a list": (lambda v: v["steps"][0].update(kind=[]), "a step of kind []"),
    "no kind": (lambda v: v["steps"][0].pop("kind"), "a step of kind None"),
    "step that is none": (lambda v: v["steps"].append("mean"), "steps[8]: expected an object"),
    "number as text": (lambda v: v["steps"][0].update(target="0"), "steps[0].target"),
    "fraction": (lambda v: v["buffers"][0].update(rows=25.0), "buffers[0].rows"),
    "negative": (lambda v: v["buffers"][1].update(offset=-16), "buffers[1].offset"),
    "large": (lambda v: v["buffers"][1].update(offset=10**400), "buffers[1].offset"),
    "absent": (lambda v: v["steps"][2].update(source=None), "steps[2].source"),
    "grid of three": (lambda v: v["buffers"][0].update(grid=[4, 4, 4]), "buffers[0].grid"),
    "flag as a number": (lambda v: v["buffers"][0].update(carried=1), "buffers[0].carried"),
    "view": (lambda v: v["steps"][4]["keys"].pop("width"), "steps[4].keys has missing"),
    "part": (lambda v: v["steps"][3]["parts"][1].update(width=None), "steps[3].parts.width"),
    "infinite": (lambda v: v["input"].update(scale=[float("inf")]), "input.scale"),
    "shape": (lambda v: v["arrays"]["w"].update(shape=[6, "3"]), "arrays['w'].shape"),
    "array without a dtype": (lambda v: v["arrays"].update(w=[6]), "arrays['w']: expected an o"),
    "numbers": (
        lambda v: v["buffers"][0]["numbers"].pop("scale"),
        "buffers[0].numbers has missing",
    ),
    "zero point": (
        lambda v: v["buffers"][0]["numbers"].update(zero_point=-1),
        "numbers.zero_point",
    ),
    "infinite scale": (
        lambda v: v["buffers"][0]["numbers"].update(scale=float("nan")),
        "numbers.scale",
    ),
    "border": (lambda v: v["input"].update(border=[-1, 0, 0]), "input.border"),
    "name": (lambda v: v["steps"][7].update(name=7), "steps[7].name: expected a string"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(values, name):
    change, message = DAMAGE[name]
    changed = change(values)
    values = changed if name == "no object" else values
    with pytest.raises(CorruptArtifactError, match=re.escape(message)) as caught:
        Program.from_dict(values)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("export again")
