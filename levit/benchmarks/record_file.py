"""A benchmark's record as a JSON file, written whole and checked when it is read.

Writing needs nothing but the runtime, so that a bare machine can measure; reading needs msgspec
(extra ``bench``), which checks a document against the types of `levit.benchmarks.record`.
"""

from __future__ import annotations

import collections
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from levit.benchmarks.protocols import PROTOCOLS
from levit.benchmarks.record import SCHEMA, SCHEMA_VERSION, Contender, Measurement, Record, Round
from levit.errors import BackendUnavailableError, ConfigError, brief
from levit.whole_file import write_whole

__all__ = ["from_json", "read_record", "to_json", "write_record"]

# A run of hours over all engines takes some tens of megabytes.
MAX_BYTES: Final = 512 * 1024 * 1024

_COUNTS: Final = ("batch", "threads", "streams")
_GROUPS: Final = ("cpu", "memory", "gpu", "system", "versions", "revision", "environment")
_MAX_INT: Final = 2**63 - 1  # NumPy counts no further


def write_record(record: Record, path: Path | str) -> None:
    """Write `record` at `path`, compressed where the name ends in ``.gz``.

    Example::

        write_record(record, "run.json.gz")

    Raises:
        ConfigError: the path cannot be written, or the record holds NaN or infinity.
    """
    contents = to_json(record).encode()
    if os.fspath(path).endswith(".gz"):
        contents = gzip.compress(contents, 6, mtime=0)
    write_whole(path, contents)


def read_record(path: Path | str) -> Record:
    """Read a file of `write_record`: ``read_record("run.json.gz").measurements``.

    Raises:
        ConfigError: the file is missing, damaged, something else, or of another schema.
        BackendUnavailableError: msgspec is missing.
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
    """The text of a record: a line for each round, integers as integers.

    Raises:
        ConfigError: a value is NaN or infinite, which JSON does not know.
    """
    try:
        text = _text(record) + "\n"
    except ValueError as error:
        raise ConfigError(
            "the record holds NaN or infinity, which a JSON file cannot; measure again"
        ) from error
    # Half characters, from file names in another encoding, are no UTF-8.
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def from_json(text: str, name: str = "the record") -> Record:
    """The record of a text that `to_json` has written; `name` begins the message of every error.

    Raises:
        ConfigError: not JSON, not a record of a benchmark, damaged, or of another schema.
        BackendUnavailableError: msgspec is missing.
    """
    try:
        import msgspec
    except ImportError as error:
        raise BackendUnavailableError(
            "reading a benchmark's record needs msgspec, which is not here: "
            "pip install 'levit[bench]'"
        ) from error
    document = _document(text, name)
    try:
        record = msgspec.convert(document, Record)
        _check_fields(document)
        _check_values(record)
    except (msgspec.ValidationError, _DamageError, RecursionError) as error:
        raise ConfigError(f"{name}: is damaged ({brief(error)}); measure again") from error
    return record


def _text(value: Any, depth: int = 0) -> str:
    """JSON: a line for each field of a record or measurement, and for each item of their lists."""
    if isinstance(value, Record | Measurement):
        items = [(f'"{f.name}": ', getattr(value, f.name)) for f in fields(value)]
        opening, closing = "{}"
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        items = [("", item) for item in value]
        opening, closing = "[]"
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    margin = "\n" + " " * depth
    lines = (f"{margin} {key}{_text(item, depth + 1)}" for key, item in items)
    return f"{opening}{','.join(lines)}{margin}{closing}"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return dict(value) if isinstance(value, Mapping) else list(value)


class _DamageError(Exception):
    """A document departs from the schema."""


def _document(text: str, name: str) -> dict[str, Any]:
    """Parse the JSON of a record of this schema, none of whose fields is checked yet."""
    try:
        document = json.loads(text, parse_constant=_finite, parse_float=_finite)
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
    version = document.get("schema_version")
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
    return document


def _not_ours(name: str, why: str) -> str:
    return (
        f"{name}: is no record of a benchmark ({why}); name a JSON file that levit bench has "
        f"written"
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no measured value")
    return value


def _check_fields(document: dict[str, Any]) -> None:
    """Every field of the schema is there, and no other: msgspec lets dataclasses off."""
    tables: list[tuple[str, Any, dict[str, Any]]] = [("it", Record, document)]
    tables += [(f"contenders[{i}]", Contender, c) for i, c in enumerate(document["contenders"])]
    for i, measurement in enumerate(document["measurements"]):
        where = f"measurements[{i}]"
        tables.append((where, Measurement, measurement))
        tables += [(f"{where}.rounds", Round, turn) for turn in measurement.get("rounds", ())]
    for where, kind, table in tables:
        if odd := sorted({field.name for field in fields(kind)} ^ table.keys()):
            raise _DamageError(f"missing or unknown in {where}: {', '.join(odd)}")


def _check_values(record: Record) -> None:
    """Names are known and unique, and numbers can have been counted."""
    counted = collections.Counter(c.name for c in record.contenders)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise _DamageError(f"two contenders are called {twice[0][:80]}")
    for contender in record.contenders:
        numbers = (*contender.image_size, contender.macs or 0, contender.parameters or 0)
        if max(map(abs, numbers)) > _MAX_INT:
            raise _DamageError(f"{contender.name[:80]} has a number that is too large")
    for group in _GROUPS:
        if not isinstance(record.machine.get(group) or {}, Mapping):
            raise _DamageError(f"machine.{group} is no table of names and values")
    for number, measurement in enumerate(record.measurements):
        where = f"measurements[{number}]"
        if measurement.contender not in counted:
            raise _DamageError(f"{where} is of an unknown contender")
        if measurement.protocol not in PROTOCOLS:
            raise _DamageError(f"{where} is of an unknown protocol")
        for count in _COUNTS:
            value = measurement.settings.get(count, 1)
            if type(value) is not int or not 1 <= value <= _MAX_INT:
                raise _DamageError(f"{where}.settings.{count} is no positive integer")
        for turn in measurement.rounds:
            for values in ((turn.elapsed_ns,), turn.values, *turn.stages.values()):
                if min(values, default=0) < 0 or max(values, default=0) > _MAX_INT:
                    raise _DamageError(f"{where} holds a time that is negative or too large")
