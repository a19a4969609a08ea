"""Hypothesis strategies of damaged programs of the native engine, and of the files they are in."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from fuzzing.damage import NUMBERS, damaged, few, one_of
from fuzzing.json_damage import damaged_json

__all__ = ["damaged_program", "joined", "split"]

_KINDS = (
    *("number", "number", "number", "buffer", "buffer", "offset", "offset", "text", "text"),
    *(
        "swap",
        "drop",
        "repeat",
        "move",
        "activation",
        "stage",
        "shape",
        "rows",
        "kind",
        "dtype",
        "numbers",
    ),
)
_ACTIVATIONS = (None, "hard_swish", "silu", "gelu", "tanh", "relu", "")
_STEPS = (
    *("conv", "linear", "project", "attention", "subsample", "mean", "output"),
    *("patches", "layer_norm", "stack", "rows"),
)
# Of buffers, or of the program's input; and of those that are bytes.
_GRIDS = ({"scale": 1e-3}, {"scale": 1.0}, {"zero_point": 0}, {"zero_point": 255})
_NUMBERS = (
    {"dtype": "bfloat16", "scale": 1.0, "zero_point": 0},
    {"dtype": "uint8", "scale": 0.125, "zero_point": 100},
    {"dtype": "uint8", "scale": 0.0, "zero_point": 256},
    {"dtype": "float32", "scale": 2.0, "zero_point": 0},
    {"dtype": "int8", "scale": 1.0, "zero_point": 0},
)
_DTYPES = ("F16", "BF16", "F64", "I32", "U8", "BOOL", "f32", "", None)
_ARRAY_DTYPES = ("float32", "float32", "bfloat16", "int8", "int32", "float64")


def split(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """(header, program, arrays) of a file; ``ValueError`` where it is none of ours."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        return header, json.loads(header["__metadata__"]["program"]), data[8 + length :]
    except (KeyError, TypeError, struct.error, RecursionError) as error:
        raise ValueError("not a file of ours") from error


def joined(header: dict[str, Any], program: str, arrays: bytes) -> bytes:
    """The file of these: the reverse of `split`, but for the program's text."""
    texts = {**header["__metadata__"], "program": program}
    words = json.dumps({**header, "__metadata__": texts}).encode()
    return struct.pack("<Q", len(words)) + words + arrays


def damaged_program(data: bytes) -> st.SearchStrategy[bytes]:
    """Files with another program, with another header, or of other bytes."""
    try:
        split(data)
    except ValueError:
        return damaged(data)
    other = _other_program(data)
    return st.one_of(*[other] * 12, _other_text(data), _other_text(data), damaged(data))


@st.composite
def _other_text(draw: Any, data: bytes) -> bytes:
    header, program, arrays = split(data)
    text = draw(damaged_json(json.dumps(program)))
    return joined(header, text.decode("utf-8", "replace"), arrays)


@st.composite
def _other_program(draw: Any, data: bytes) -> bytes:
    """A file whose program is JSON of the right form, mostly, with something else in it."""
    header, program, arrays = split(data)
    for _ in range(draw(few)):
        # Of numbers that are none any more, after the damage before.
        with contextlib.suppress(TypeError):
            _damage(draw, header, program, draw(st.sampled_from(_KINDS)))
    return joined(header, json.dumps(program), arrays)


def _damage(draw: Any, header: dict[str, Any], program: dict[str, Any], kind: str) -> None:
    steps, buffers = program["steps"], program["buffers"]
    if not steps or not buffers:
        return
    step, at = draw(one_of(steps)), draw(st.integers(0, len(steps) - 1))
    buffer = draw(one_of(buffers))
    if kind == "number":
        _renumber(draw, program, int)
    elif kind == "text":
        _renumber(draw, program, str)
    elif kind == "buffer":
        field = draw(st.sampled_from(("source", "target", "residual", "copy")))
        if field in step:
            step[field] = draw(st.none() | st.integers(-1, len(buffers)))
    elif kind == "offset":
        buffer["offset"] = draw(one_of(buffers))["offset"] + draw(
            st.sampled_from((0, 16, -16, 8, buffer["stride"], 1024, 65536))
        )
    elif kind == "rows":  # a buffer that is sound by itself
        buffer["rows"] = max(0, buffer["rows"] + draw(st.integers(-2, 2)))
        buffer["columns"] += draw(st.sampled_from((0, 0, 1, -1, 16)))
        buffer["stride"] = -(-buffer["columns"] // 16) * 16
    elif kind == "swap":
        items = draw(st.sampled_from((steps, buffers)))
        one, other = (draw(st.integers(0, len(items) - 1)) for _ in range(2))
        items[one], items[other] = items[other], items[one]
    elif kind == "drop":
        del steps[at]
    elif kind == "repeat":
        steps.insert(at, dict(step))
    elif kind == "move":
        steps.insert(at, steps.pop(draw(st.integers(0, len(steps) - 1))))
    elif kind == "activation" and "activation" in step:
        step["activation"] = draw(st.sampled_from(_ACTIVATIONS))
    elif kind == "stage":  # of all steps from there on
        for later in steps[at:]:
            later["stage"] += draw(st.sampled_from((0, 1, 1, -1)))
        if draw(st.booleans()):
            for each in buffers:
                each["carried"] = True
    elif kind == "numbers":
        holder = draw(st.sampled_from((buffer, buffer, program["input"])))
        if holder["numbers"]["dtype"] == "uint8" and draw(st.booleans()):
            holder["numbers"] |= draw(st.sampled_from(_GRIDS))
        else:
            holder["numbers"] = dict(draw(st.sampled_from(_NUMBERS)))
    elif kind == "kind":
        step["kind"] = draw(st.sampled_from(_STEPS))
    else:
        _other_array(draw, header, program, kind)


def _renumber(draw: Any, program: dict[str, Any], kind: type) -> None:
    """Set one number or text anywhere to another, mostly near it or from elsewhere."""
    places = [place for place in _leaves(program) if type(place[0][place[1]]) is kind]
    if not places:
        return
    holder, key = draw(one_of(places))
    other, name = draw(one_of(places))
    value = other[name]
    if kind is int:
        near = holder[key] + draw(st.sampled_from((-16, -2, -1, 1, 2, 16, holder[key])))
        value = draw(st.sampled_from((near, near, value, draw(st.sampled_from(NUMBERS)), None)))
    holder[key] = value


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """(list or object, index or name) of every number and text."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        if isinstance(value[key], (dict, list)):
            yield from _leaves(value[key])
        else:
            yield value, key


def _other_array(draw: Any, header: dict[str, Any], program: dict[str, Any], kind: str) -> None:
    """Another shape, in the program and the file alike or not, or another type."""
    names = [name for name in program["arrays"] if name in header]
    if not names:
        return
    name = draw(one_of(names))
    if kind == "dtype":
        header[name]["dtype"] = draw(st.sampled_from(_DTYPES))
        program["arrays"][name]["dtype"] = draw(st.sampled_from(_ARRAY_DTYPES))
        return
    shape = draw(st.permutations(header[name]["shape"]))
    if draw(st.booleans()):
        shape = [*shape, 1] if draw(st.booleans()) else shape[1:]
    header[name]["shape"] = list(shape)
    if draw(st.booleans()):
        program["arrays"][name]["shape"] = list(shape)
