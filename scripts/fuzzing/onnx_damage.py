"""Hypothesis strategies of damaged ONNX files, field by field."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError, Message
from hypothesis import strategies as st

from fuzzing.damage import NUMBERS, damaged, few, one_of

__all__ = ["damaged_model"]

_NAMES = (
    b"", b"x", b"image", b"pixels", b"logits", b"../labels.txt", b"/etc/passwd", b"labels.txt",
    b"location", b"offset", b"length", b"Loop", b"If", b"Scan", b"Conv", b"MatMul", b"Softmax",
    b"Reshape", b"ConstantOfShape", b"Expand", b"Tile", b"Range", b"Pad", b"Resize", b"Identity",
    b"Gather", b"NonZero", b"RandomNormal", b"com.microsoft", b"ai.onnx", b"ai.onnx.ml", b"axis",
    b"axes", b"perm", b"pads", b"strides", b"group", b"kernel_shape", b"to", b"batch", b"N",
    b"levit.preprocess", b"levit.labels", b"\x08\x01", b"a" * 5000,
)  # fmt: skip


def _value(draw: Any, old: Any) -> Any:
    """Another value of the same type."""
    if isinstance(old, bytes):
        return draw(st.sampled_from(_NAMES) | damaged(old))
    if isinstance(old, str):
        return draw(st.sampled_from(_NAMES)).decode()
    if isinstance(old, int):
        return draw(st.sampled_from((old - 1, old + 1, old + 2, -1, *NUMBERS)))
    return draw(st.floats())


def _change(draw: Any, message: Message, depth: int = 0) -> None:
    """Change one field of a message, or of one in it, found by walking down."""
    fields = message.ListFields()
    if not fields:
        return
    # The graph is one of a dozen fields, and holds all that matters.
    largest = depth == 0 and draw(st.integers(0, 9)) > 0
    size = lambda field: getattr(field[1], "ByteSize", lambda: 0)()  # noqa: E731
    descriptor, value = max(fields, key=size) if largest else draw(one_of(fields))
    if isinstance(value, MutableSequence):
        i = draw(st.integers(0, len(value) - 1))
        if isinstance(value[i], Message) and draw(st.integers(0, 9)) < 6:
            _change(draw, value[i], depth + 1)
            return
        items = list(value)
        kind = draw(st.sampled_from(("remove", "repeat", "swap", "set")))
        if kind == "remove":
            del items[i]
        elif kind == "repeat":
            items.insert(draw(st.integers(0, len(items))), items[i])
        elif kind == "swap":
            j = draw(st.integers(0, len(items) - 1))
            items[i], items[j] = items[j], items[i]
        elif not isinstance(value[i], Message):
            items[i] = _value(draw, items[i])
        new = type(message)()
        getattr(new, descriptor.name).extend(items)
        message.ClearField(descriptor.name)
        message.MergeFrom(new)
    elif isinstance(value, Message) and (depth == 0 or draw(st.integers(0, 9)) < 7):
        _change(draw, value, depth + 1)
    elif isinstance(value, Message) or draw(st.integers(0, 3)) == 0:
        message.ClearField(descriptor.name)
    else:
        setattr(message, descriptor.name, _value(draw, value))


@st.composite
def damaged_model(draw: Any, data: bytes, others: Sequence[bytes]) -> bytes:
    """Draw a model with some fields changed, removed, repeated or swapped, or with other bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(data, others))
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        for _ in range(draw(few)):
            _change(draw, model)
        return model.SerializeToString()
    except (DecodeError, EncodeError, TypeError, ValueError):  # a value that its field cannot hold
        return draw(damaged(data, others))
