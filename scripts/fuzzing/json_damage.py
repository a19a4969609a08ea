"""Hypothesis strategies of damaged JSON: its structure, its values, and its text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from fuzzing.damage import damaged, few, one_of

__all__ = ["damaged_json"]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:\s"]+')
_PATHS = (
    "../model.onnx", "/etc/passwd", "a/b", "", ".", "..", "a\\b", "C:model.onnx", "a\0b",
    "x" * 300, "\ud800", "manifest.json", "golden.npz/", "./model.onnx", "model.onnx\n",
    "file:///etc/passwd", "~/.ssh/id_rsa", "$HOME", "%s%n", "aux", "\u202egnp.exe", "-rf", "*",
    "labels.txt", "golden.npz", "model.onnx", "model.ort", "/dev/zero", "//x", "é" * 200,
)  # fmt: skip
_NUMBERS = (
    "0", "-0", "1", "-1", "2", "0.5", "-0.0", "1e-300", "1e300", "1e999", "-1e999", "NaN",
    "Infinity", "-Infinity", "255", "256", "65535", "2147483647", "2147483648", "4294967296",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" + "0" * 400,
    "1" * 5000, "3.0", "1.5", "0.1", "1e5", "99999999999",
)  # fmt: skip
_WORDS = (
    "", "a", "logits", "image", "embedding", "float32", "float64", "uint8", "object", "O", "batch",
    "N", "NCHW", "NHWC", "timm", "center", "squash", "border", "nearest", "lanczos", "silu", "relu",
    "gelu", "levit", "convit", "levit_256", "LevitModel", "LevitForImageClassification", "true",
    "1", "0.5", "\n", "a\nb", "\x1b[2J", "\u2028", "ⓛ", "x" * 5000, "\ud83d", "null", "__proto__",
    "__class__", "{0}", "%d", ">=99", ">=1.2.3.4.5", ">=", "onnx", "openvino",
)  # fmt: skip
_PLAIN = ("null", "true", "false", "[]", "{}", "[[]]", "[null]", '{"": null}', '"\\ud800"',
          '"\\u0000"', '"\\udfff\\ud800"')  # fmt: skip
_ODD = (
    "[" * 100_000 + "]" * 100_000, '{"a":' * 2000 + "1" + "}" * 2000, "[" + "0," * 200_000 + "0]",
    json.dumps("y" * 1_000_000), "", "nul", "'a'", "{", "]", "01", "+1", ".5", "/**/1", '"\\x41"',
    "-",
)  # fmt: skip
_KINDS = ("set", "set", "nudge", "nudge", "nudge", "remove", "repeat", "wrap")
_strings = st.sampled_from([json.dumps(text) for text in (*_WORDS, *_PATHS)])


def _end(tokens: Sequence[str], start: int) -> int:
    """Position after the value that begins at `start`."""
    depth = 0
    for at in range(start, len(tokens)):
        depth += (tokens[at] in "[{") - (tokens[at] in "]}")
        if depth <= 0:
            return at + 1
    return len(tokens)


def _value(draw: Any, documents: Sequence[Sequence[str]]) -> list[str]:
    """Tokens of a number, a text, something simple, or a value of another place."""
    kind = draw(st.sampled_from(("number",) * 4 + ("text",) * 3 + ("plain",) * 2 + ("copy",) * 2))
    if kind == "copy":
        donor = draw(one_of([document for document in documents if document] or [["1"]]))
        start = draw(st.integers(0, len(donor) - 1))
        return list(donor[start : _end(donor, start)])
    if kind == "plain" and draw(st.integers(0, 7)) == 0:
        return [draw(one_of(_ODD))]
    return [draw({"number": st.sampled_from(_NUMBERS), "text": _strings}.get(
        kind, st.sampled_from(_PLAIN)))]  # fmt: skip


def _nudged(draw: Any, token: str) -> str:
    """A value near one: what a flipped bit or a careless edit leaves."""
    try:
        value = json.loads(token)
    except (ValueError, RecursionError):
        return token
    if isinstance(value, bool):
        return json.dumps(not value)
    if isinstance(value, int):
        return str(value + draw(st.sampled_from((-1, 1, 2, -2, 10, value, -value, -2 * value))))
    if isinstance(value, float):
        return json.dumps(value * draw(st.sampled_from((0.5, 2, 10, 1.01, -1, 0))))
    if isinstance(value, str) and value:
        at = draw(st.integers(0, len(value) - 1))
        letter = draw(st.sampled_from((chr(ord(value[at]) ^ 1), "", value[at] * 2, "x")))
        return json.dumps(value[:at] + letter + value[at + 1 :])
    return token


@st.composite
def damaged_json(draw: Any, text: str, others: Sequence[str] = ()) -> bytes:
    """Draw a document like `text` with something wrong with it; mostly it is JSON still.

    Values are set, nudged, removed, repeated, wrapped or moved, and names are changed, so that one
    may stand twice.

    Args:
        others: documents from which values may be taken.
    """
    tokens = _TOKEN.findall(text)
    documents = [tokens, *map(_TOKEN.findall, others)]
    for _ in range(draw(few)):
        starts = [i for i, token in enumerate(tokens) if token[:1] not in set(",:]}")]
        if not starts:
            break
        start = starts[draw(st.integers(0, len(starts) - 1))]
        end = _end(tokens, start)
        named = tokens[end : end + 1] == [":"]
        whole = _end(tokens, end + 1) if named else end  # a name with its value
        kind = draw(st.sampled_from(_KINDS))
        if named and kind in ("set", "nudge", "wrap") and draw(st.integers(0, 5)):
            start, end, named = end + 1, whole, False  # mostly the value, not its name
        if kind == "remove":
            before = start - (tokens[start - 1 : start] == [","])
            after = whole + (before == start and tokens[whole : whole + 1] == [","])
            del tokens[before:after]
        elif kind == "repeat":
            tokens[start:start] = [*tokens[start:whole], ","]
        elif kind == "nudge" and end == start + 1:
            tokens[start] = _nudged(draw, tokens[start])
        elif named:
            names = [tokens[i] for i in starts if tokens[i + 1 : i + 2] == [":"]]
            tokens[start:end] = [draw(_strings | one_of(names))]
        elif kind == "wrap":
            tokens[start:end] = ["[", *tokens[start:end], "]"]
        else:
            tokens[start:end] = _value(draw, documents)
    data = " ".join(tokens).encode("utf-8", "surrogatepass")
    kind = draw(st.sampled_from(("json",) * 36 + ("bytes", "bytes", "tail", "encoding")))
    if kind == "bytes":
        return draw(damaged(data))
    if kind == "tail":
        return data + draw(st.sampled_from((b"\0", b"{}", b"\n" * 1000, b"\xff", b"//")))
    if kind == "encoding":
        codec = draw(st.sampled_from(("utf-16", "utf-32", "utf-8-sig")))
        return data.decode("utf-8", "surrogatepass").encode(codec, "surrogatepass")
    return data
