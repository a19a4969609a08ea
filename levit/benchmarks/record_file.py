"""A benchmark's record as a JSON file: written whole, read back field by field."""

from __future__ import annotations

import collections
import dataclasses
import gzip
import io
import json
import math
import os
import re
import types
import typing
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from levit.benchmarks.protocols import PROTOCOLS
from levit.benchmarks.record import SCHEMA, SCHEMA_VERSION, Record
from levit.errors import ConfigError
from levit.whole_file import write_whole

__all__ = ["from_json", "read_record", "to_json", "write_record"]

# A run of hours over all engines takes some tens of megabytes.
MAX_BYTES: Final = 512 * 1024 * 1024

_WIDTH: Final = 96
# The record, its measurements, one of them, its rounds: from here on one line each. Tables are so
# one step before: settings, samples of the noise.
_DEEPEST: Final = 4

_WORDS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("Record", "status"): ("complete", "interrupted"),
    ("Measurement", "status"): ("ok", "failed", "wrong", "skipped"),
    ("Contender", "kind"): ("ours", "peer", "ceiling"),
}
_COUNTS: Final = ("batch", "threads", "streams")
_MOST: Final = 2**63 - 1


def write_record(record: Record, path: Path | str) -> None:
    """Write `record` at `path`, compressed where the name ends in ``.gz``.

    Raises:
        ConfigError: the path cannot be written, or the record holds NaN or infinity.
    """
    contents = to_json(record).encode()
    if os.fspath(path).endswith(".gz"):
        contents = gzip.compress(contents, 6, mtime=0)
    write_whole(path, contents)


def read_record(path: Path | str) -> Record:
    """Read what `write_record` has written.

    Raises:
        ConfigError: the file is missing, damaged, something else, or of another schema.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if raw[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(raw)) as packed:
                raw = packed.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ConfigError(
                f"{path}: is larger than {MAX_BYTES >> 20} MiB, which no record of a benchmark "
                f"is; name the file that levit bench has written"
            )
        return from_json(raw.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(_not_ours(str(path), "it is not text")) from error
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise ConfigError(
            f"{path}: is damaged (its compression breaks off); measure again"
        ) from error
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error)
        raise ConfigError(f"{path}: cannot be read ({reason}); check the path") from error


def to_json(record: Record) -> str:
    """`record` as text: a line for each round, integers as integers.

    Raises:
        ConfigError: a value is NaN or infinite, which JSON does not know.
    """
    try:
        text = "".join(_layout(_plain(record), 0)) + "\n"
    except ValueError as error:
        raise ConfigError(
            "the record holds NaN or infinity, which a JSON file cannot; measure again"
        ) from error
    # Half characters, from file names in another encoding, are no UTF-8.
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def from_json(text: str, name: str = "the record") -> Record:
    """The record that `to_json` has written; `name` begins the message of every error.

    Raises:
        ConfigError: not JSON, not a record of a benchmark, damaged, or of another schema.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ConfigError(_not_ours(name, "it is nested too deeply")) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(
            f"{name}: is not JSON or breaks off ({error.msg}, {where}); name a file that "
            f"levit bench has written, or measure again"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{name}: is damaged ({error}); measure again") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ConfigError(_not_ours(name, f'it has no "schema": "{SCHEMA}"'))
    _check_version(document.get("schema_version"), name)
    try:
        record: Record = _read(Record, document, "")
        _check_names(record)
    except (_DamageError, RecursionError) as error:
        raise ConfigError(f"{name}: is damaged ({error}); measure again") from error
    return record


# ------------------------------------------------------------------------------------ writing


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        if set(map(type, value)) == {int}:  # millions of calls
            return list(value)
        return [_plain(item) for item in value]
    return value


def _layout(value: Any, depth: int) -> list[str]:
    """Pieces of text; a value, a list of plain values, or anything short or deep, is one line."""
    held = [v for v in _items(value) if isinstance(v, dict | list)]
    short = not any(isinstance(w, dict | list) for v in held for w in _items(v))
    deep = depth >= _DEEPEST - isinstance(value, dict)
    if short or deep:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False)
        plain_list = not isinstance(value, dict) and not held
        if plain_list or deep or len(line) + depth <= _WIDTH:
            return [line]
    inner = " " * (depth + 1)
    pieces: list[str] = []
    if isinstance(value, dict):
        opening, closing = "{", "}"
        items = [(json.dumps(key, ensure_ascii=False) + ": ", v) for key, v in value.items()]
    else:
        opening, closing = "[", "]"
        items = [("", v) for v in value]
    for key, item in items:
        pieces.append(",\n" if pieces else f"{opening}\n")
        pieces.append(f"{inner}{key}")
        pieces.extend(_layout(item, depth + 1))
    pieces.append(f"\n{' ' * depth}{closing}")
    return pieces


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


# ------------------------------------------------------------------------------------ reading


class _DamageError(Exception):
    """Where a document departs from the schema, and how."""


def _not_ours(name: str, why: str) -> str:
    return (
        f"{name}: is no record of a benchmark ({why}); name a JSON file that levit bench has "
        f"written"
    )


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no measured value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no measured value")
    return value


def _check_version(version: Any, name: str) -> None:
    if type(version) is not int:
        raise ConfigError(f"{name}: is damaged (schema_version is no integer); measure again")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"{name}: made by a newer levit (schema {version}, this reads {SCHEMA_VERSION}): "
            f"upgrade levit, or measure again"
        )
    if version < SCHEMA_VERSION:
        raise ConfigError(
            f"{name}: made by an older levit (schema {version}, this reads {SCHEMA_VERSION}): "
            f"measure again, or read it with the levit that wrote it"
        )


def _check_names(record: Record) -> None:
    counted = collections.Counter(c.name for c in record.contenders)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise _DamageError(f"two contenders are called {twice[0][:80]}")
    for group in ("cpu", "memory", "gpu", "system", "versions", "revision", "environment"):
        if not isinstance(record.machine.get(group) or {}, Mapping):
            raise _DamageError(f"machine.{group} is no table of names and values")
    for index, measurement in enumerate(record.measurements):
        where = f"measurements[{index}]"
        if measurement.contender not in counted:
            raise _DamageError(f"{where} is of an unknown contender")
        if measurement.protocol not in PROTOCOLS:
            raise _DamageError(f"{where} is of an unknown protocol")
        for count in _COUNTS:
            value = measurement.settings.get(count, 1)
            if type(value) is not int or not 1 <= value <= _MOST:
                raise _DamageError(f"{where}.settings.{count} is no positive integer")
        for turn in measurement.rounds:
            if min(turn.elapsed_ns, *turn.values, 0) < 0:
                raise _DamageError(f"{where} holds a negative time")


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: one of the types that stand in `levit.benchmarks.record`."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_fields(kind, value, where)
    if origin is types.UnionType:
        chosen = next(k for k in inner if k is not types.NoneType)
        return None if value is None else _read(chosen, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _DamageError(f"{where} is no list")
        if inner[-1] is Ellipsis:
            if inner[0] is int:  # the long lists, without a call for each of their values
                return _integers(value, where)
            return tuple(_read(inner[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) != len(inner):
            raise _DamageError(f"{where} has not {len(inner)} values")
        return tuple(_read(k, v, where) for k, v in zip(inner, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _DamageError(f"{where} is no table of names and values")
        return {key: _read(inner[1], item, f"{where}.{key[:40]}") for key, item in value.items()}
    if kind is float and type(value) is int and abs(value) <= _MOST:
        return float(value)
    if type(value) is not kind:
        raise _DamageError(f"{where} is no {kind.__name__}")
    if kind is int and abs(value) > _MOST:
        raise _DamageError(f"{where} is larger than anything that is counted")
    return value


def _read_fields(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _DamageError(f"{where or kind.__name__} is no table of names and values")
    hints = typing.get_type_hints(kind)
    if odd := sorted(hints.keys() ^ value.keys()):
        raise _DamageError(f"missing or unknown in {where or 'it'}: {', '.join(odd)[:120]}")
    found = {
        field: _read(hint, value[field], f"{where}.{field}".lstrip("."))
        for field, hint in hints.items()
    }
    for field, word in found.items():
        allowed = _WORDS.get((kind.__name__, field))
        if allowed and word not in allowed:
            raise _DamageError(f"{where}.{field} is none of {', '.join(allowed)}".lstrip("."))
    return kind(**found)


def _integers(values: list[Any], where: str) -> tuple[int, ...]:
    for value in values:
        if type(value) is not int or value > _MOST:
            raise _DamageError(f"{where} holds something else than integers of 63 bits")
    return tuple(values)
