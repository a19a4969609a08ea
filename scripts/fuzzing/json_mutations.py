"""Damage to JSON: to its structure, its values, and to what its text may legally say."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from fuzzing.mutations import mutate_bytes, times

__all__ = ["Pairs", "Raw", "mutate_json", "write"]


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its (name, value) pairs, so that a name may stand twice."""


class Raw(str):
    """JSON text that is written as it is."""

    __slots__ = ()


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
_TEXTS = (
    "", "a", "logits", "image", "embedding", "float32", "float64", "uint8", "object", "O", "batch",
    "N", "NCHW", "NHWC", "timm", "center", "squash", "border", "nearest", "lanczos", "silu", "relu",
    "gelu", "levit", "convit", "levit_256", "LevitModel", "LevitForImageClassification", "true",
    "1", "0.5", "\n", "a\nb", "\x1b[2J", "\u2028", "ⓛ", "x" * 5000, "\ud83d", "null", "__proto__",
    "__class__", "{0}", "%d", ">=99", ">=1.2.3.4.5", ">=", "onnx", "openvino",
)  # fmt: skip
_DEPTH = 100_000


def mutate_json(rng: random.Random, text: str, others: Sequence[str] = ()) -> bytes:
    """A document like `text`, with one to five things wrong with it.

    Args:
        others: documents from which values may be taken.
    """
    root = [json.loads(text, object_pairs_hook=Pairs)]
    spare = [json.loads(other, object_pairs_hook=Pairs) for other in others]
    for _ in range(times(rng, 5)):
        _mutate(rng, root, spare)
    document = write(root[0] if root else "")
    data = document.encode("utf-8", "surrogatepass")
    kind = rng.randrange(40)
    if kind == 0:
        return document.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")), "surrogatepass")
    if kind == 1:
        return data + rng.choice((b"\0", b"{}", b"\n" * 1000, b"\xff", b"//"))
    if kind <= 4:
        return mutate_bytes(rng, data)
    return data


def write(value: Any) -> str:
    """JSON text of a document whose objects are `Pairs`."""
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(n)}: {write(v)}" for n, v in value) + "}"
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(write, value)) + "]"
    # Lone surrogates are escaped, as JSON may have them.
    return json.dumps(value)


def _places(value: Any) -> list[tuple[list[Any], int]]:
    """(container, position) of every value below, pairs of an object being its elements."""
    found: list[tuple[list[Any], int]] = []
    pending = [value]
    while pending:
        container = pending.pop()
        for i, entry in enumerate(container):
            found.append((container, i))
            inner = entry[1] if isinstance(container, Pairs) else entry
            if isinstance(inner, list):
                pending.append(inner)
    return found


def _get(container: list[Any], i: int) -> Any:
    return container[i][1] if isinstance(container, Pairs) else container[i]


def _put(container: list[Any], i: int, value: Any) -> None:
    container[i] = (container[i][0], value) if isinstance(container, Pairs) else value


def _mutate(rng: random.Random, root: list[Any], spare: list[Any]) -> None:
    places = _places(root)
    if not places:
        root.append(Raw("{}"))
        return
    container, i = rng.choice(places)
    _KINDS[rng.randrange(len(_KINDS))](rng, container, i, [root, *spare])


def _set(rng: random.Random, container: list[Any], i: int, documents: list[Any]) -> None:
    _put(container, i, _value(rng, documents))


def _nudge(rng: random.Random, container: list[Any], i: int, documents: list[Any]) -> None:
    """A value near the one that stands there: what a flipped bit or a careless edit leaves."""
    value = _get(container, i)
    if isinstance(value, bool):
        _put(container, i, not value)
    elif isinstance(value, int):
        _put(container, i, value + rng.choice((-1, 1, 2, -2, 10, value, -value, -2 * value)))
    elif isinstance(value, float):
        _put(container, i, value * rng.choice((0.5, 2, 10, 1.01, -1, 0)))
    elif isinstance(value, str) and not isinstance(value, Raw) and value:
        at = rng.randrange(len(value))
        letter = rng.choice((chr(ord(value[at]) ^ (1 << rng.randrange(7))), "", value[at] * 2))
        _put(container, i, value[:at] + letter + value[at + 1 :])
    else:
        _put(container, i, _value(rng, documents))


def _remove(rng: random.Random, container: list[Any], i: int, documents: list[Any]) -> None:
    del container[i]


def _repeat(rng: random.Random, container: list[Any], i: int, documents: list[Any]) -> None:
    """An element or a name twice, the second time with another value as often as not."""
    container.insert(rng.randrange(len(container) + 1), container[i])
    if rng.random() < 0.5:
        _put(container, rng.randrange(len(container)), _value(rng, documents))


def _rename(rng: random.Random, container: list[Any], i: int, documents: list[Any]) -> None:
    if isinstance(container, Pairs):
        name = rng.choice((container[i][0].upper(), rng.choice(_PATHS), rng.choice(_TEXTS)))
        container[i] = (name, container[i][1])
    else:
        _set(rng, container, i, documents)


def _swap(rng: random.Random, container: list[Any], i: int, documents: list[Any]) -> None:
    other, j = rng.choice(_places(documents[0]))
    one, two = _get(container, i), _get(other, j)
    if not (isinstance(one, list) or isinstance(two, list)):  # never a list into itself
        _put(container, i, two)
        _put(other, j, one)


def _wrap(rng: random.Random, container: list[Any], i: int, documents: list[Any]) -> None:
    value = _get(container, i)
    _put(container, i, rng.choice(([value], [value, value], Pairs([("value", value)]))))


_KINDS: Sequence[Callable[[random.Random, list[Any], int, list[Any]], None]] = (
    _set,
    _set,
    _nudge,
    _nudge,
    _nudge,
    _remove,
    _repeat,
    _rename,
    _swap,
    _wrap,
)


def _value(rng: random.Random, documents: list[Any]) -> Any:
    kind = rng.randrange(12)
    if kind < 4:
        return Raw(rng.choice(_NUMBERS))
    if kind < 6:
        return rng.choice(_TEXTS)
    if kind < 7:
        return rng.choice(_PATHS)
    if kind < 9:
        return rng.choice((None, True, False, [], Pairs(), [[]], [None], Pairs([("", None)])))
    if kind < 11:
        document = rng.choice(documents)
        text = write(_get(*rng.choice(_places([document]))))
        return Raw(text)  # as text: a list that holds itself would have no end
    return _odd(rng)


def _odd(rng: random.Random) -> Any:
    kind = rng.randrange(40)
    if kind == 0:
        return Raw("[" * _DEPTH + "]" * _DEPTH)
    if kind == 1:
        return Raw('{"a":' * 2000 + "1" + "}" * 2000)
    if kind == 2:
        return Raw("[" + "0," * 200_000 + "0]")
    if kind == 3:
        return "y" * 1_000_000
    if kind < 8:
        return Raw(rng.choice(("", "nul", "'a'", "{", "]", "01", "+1", ".5", "/**/1", '"\\x41"')))
    return Raw(rng.choice(('"\\ud800"', '"\\u0000"', '"\\udfff\\ud800"', "1E400", "-")))
