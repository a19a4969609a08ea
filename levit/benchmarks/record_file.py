"""A benchmark's record as a JSON file, written whole and checked when it is read.

Writing needs nothing but the runtime, so that a bare machine can measure; reading needs msgspec
(extra ``bench``), which checks a document against the types of `levit.benchmarks.record`.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from levit.benchmarks.record import SCHEMA, SCHEMA_VERSION, Contender, Measurement, Record, Round
from levit.benchmarks.record_limits import check_counts, check_values
from levit.errors import BackendUnavailableError, ConfigError, brief
from levit.json_values import parsed, printable_json
from levit.plain_file import read_plain
from levit.whole_file import write_whole

__all__ = ["from_json", "read_record", "to_json", "write_record"]

# A hundred times the largest of docs/measurements. A run of hours over all engines, of networks
# that take 0.1 ms, comes to some tens of megabytes.
MAX_BYTES: Final = 64 * 1024 * 1024


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
        raw = read_plain(path, MAX_BYTES)
        if raw[:2] == b"\x1f\x8b":
            raw = _unpacked(raw)
        return from_json(raw.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(_not_ours(str(path), "it is not text")) from error
    except zlib.error as error:
        raise ConfigError(
            f"{path}: is damaged (its compression breaks off); measure again"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{path}: cannot be read ({reason}); name the file that levit bench has written"
        ) from error


def _unpacked(raw: bytes) -> bytes:
    """Unpack a gzip file of one member, as `write_record` makes it, as far as the limit.

    Empty members would cost more time than their bytes, and what follows is none of a record's.
    """
    unpacker = zlib.decompressobj(wbits=31)
    contents = unpacker.decompress(raw, MAX_BYTES + 1)
    if len(contents) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"unpacked, it is larger than {MAX_BYTES >> 20} MiB")
    if not unpacker.eof or unpacker.unused_data:
        raise zlib.error("breaks off, or something follows")
    return contents


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
    return printable_json(text)


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
        check_values(record)
    except ValueError as error:  # msgspec's too
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


def _document(text: str, name: str) -> dict[str, Any]:
    """Parse the JSON of a record of this schema, none of whose fields is checked yet."""
    try:
        check_counts(text)
        document = parsed(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(
            f"{name}: is not JSON or breaks off ({error.msg}, {where}); name a file that "
            f"levit bench has written, or measure again"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{name}: is damaged ({error}); name a file that levit bench has written, or measure "
            f"again"
        ) from error
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
            raise ValueError(f"missing or unknown in {where}: {', '.join(odd)}")
