"""Limits of a record that comes from elsewhere: values that can have been measured, few enough.

The figures of a record cost more than its bytes: contenders are compared pairwise, intervals are
resampled, tables are as wide as their widest cell. So the counts on which that work depends are
limited at reading, far above what runs have: the largest of docs/measurements holds 0.6 MB, 66,000
values, 78 contenders, 78 measurements and 20 rounds.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from levit.benchmarks.protocols import PROTOCOLS
from levit.benchmarks.record import Contender, Measurement, Record
from levit.json_values import shown

__all__ = ["MAX_ROUNDS", "check_counts", "check_values"]

# A hundred times the largest run. A value takes up to 60 bytes when parsed, a list or an object
# 300: about 600 MB in all.
MAX_VALUES: Final = 8_000_000
MAX_TABLES: Final = 500_000

# All models on all engines are 400. Each engine's LeViTs are set beside each other engine's
# EfficientNets: there are 40 engines.
MAX_CONTENDERS: Final = 1000
MAX_ENGINES: Final = 100
MAX_MEASUREMENTS: Final = 10_000
# Rounds are 6 to 20; `levit bench --rounds` takes no more.
MAX_ROUNDS: Final = 2000
MAX_ALL_ROUNDS: Final = 100_000
# All models, engines and protocols in one run give 12,500 pairs of 20 rounds.
MAX_PAIRS: Final = 50_000
MAX_PAIRED_ROUNDS: Final = 2_000_000

# Names hold a folder's (255 letters) and an engine's title; a reason is a line of an error.
MAX_NAME: Final = 1000
MAX_TEXT: Final = 10_000
# A fingerprint of a machine with 512 CPUs holds 1000 values.
MAX_FREE: Final = 10_000

# 11 days in nanoseconds, or a petabyte of memory: sums and products of these are floats.
_MAX_VALUE: Final = 10**15
_MAX_COUNT: Final = 10**6  # images of a call, threads, streams
_MAX_SIDE: Final = 10**6  # pixels
_MAX_WORK: Final = 10**18  # multiply-accumulates

_COUNTS: Final = ("batch", "images", "threads", "streams")
_GROUPS: Final = ("cpu", "memory", "gpu", "system", "versions", "revision", "environment")


def check_counts(text: str) -> None:
    """Raise `ValueError` if a document would be too large when parsed, before it is.

    Each value but the first of a list or an object has a comma before it, so that commas and
    opening brackets bound the number of values from above.
    """
    tables = text.count("[") + text.count("{")
    _limit(tables, MAX_TABLES, "lists and objects")
    _limit(text.count(",") + tables, MAX_VALUES, "values")


def check_values(record: Record) -> None:
    """Raise `ValueError` unless names are known and unique, and all numbers can be."""
    _limit(len(record.contenders), MAX_CONTENDERS, "contenders")
    _limit(len(record.measurements), MAX_MEASUREMENTS, "measurements")
    _limit(len({(c.engine, c.precision) for c in record.contenders}), MAX_ENGINES, "engines")
    for place, contender in enumerate(record.contenders):
        _check_contender(contender, f"contenders[{place}]")
    counted = collections.Counter(c.name for c in record.contenders)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise ValueError(f"two contenders are called {shown(twice[0])}")
    _require_short(record.created, "created", MAX_NAME)
    rounds = sum(len(measurement.rounds) for measurement in record.measurements)
    _limit(rounds, MAX_ALL_ROUNDS, "rounds")
    for name in ("command", "machine", "settings"):
        _check_free(getattr(record, name), name)
    for place, sample in enumerate(record.gpu_samples):
        _check_free(sample, f"gpu_samples[{place}]")
    for group in _GROUPS:
        if not isinstance(record.machine.get(group) or {}, Mapping):
            raise ValueError(f"machine.{group} is no table of names and values")
    _check_noise(record.noise)
    for place, measurement in enumerate(record.measurements):
        where = f"measurements[{place}]"
        if measurement.contender not in counted:
            raise ValueError(f"{where} is of an unknown contender")
        if measurement.protocol not in PROTOCOLS:
            raise ValueError(f"{where} is of an unknown protocol")
        _check_measurement(measurement, where)
    _check_pairs(record)


def _check_contender(contender: Contender, where: str) -> None:
    for name in ("name", "model", "engine", "title", "runtime", "precision"):
        _require_short(getattr(contender, name), f"{where}.{name}", MAX_NAME)
    _require_within(contender.image_size, 1, _MAX_SIDE, f"{where}.image_size")
    # Nothing is counted for a network that is only loaded from a file.
    _require_within([contender.macs or 0], 0, _MAX_WORK, f"{where}.macs")
    _require_within([contender.parameters or 0], 0, _MAX_WORK, f"{where}.parameters")
    _require_within([contender.top1 or 0], 0, 100, f"{where}.top1")


def _check_measurement(measurement: Measurement, where: str) -> None:
    _limit(len(measurement.rounds), MAX_ROUNDS, f"rounds in {where}")
    _require_short(measurement.reason, f"{where}.reason", MAX_TEXT)
    _check_free(measurement.settings, f"{where}.settings")
    for tried in measurement.scan:
        _check_free(tried, f"{where}.scan")
    for count in _COUNTS:
        value = measurement.settings.get(count, 1)
        if type(value) is not int or not 1 <= value <= _MAX_COUNT:
            raise ValueError(f"{where}.settings.{count} is no whole number from 1 to {_MAX_COUNT}")
    for turn in measurement.rounds:
        # No clock reads nothing for a call: it would make a ratio infinite. A stage may be empty.
        _require_within((turn.elapsed_ns,), 1 if turn.values else 0, _MAX_VALUE, where)
        _require_within(turn.values, 1, _MAX_VALUE, where)
        for stage, values in turn.stages.items():
            _require_short(stage, f"a stage in {where}", MAX_NAME)
            _require_within(values, 0, _MAX_VALUE, where)


def _check_noise(noise: Mapping[str, Any]) -> None:
    """Check the values of `levit.benchmarks.noise.NoiseLog`, which the schema leaves open."""
    _require_number(noise.get("cpus", 1), 1, _MAX_COUNT, "noise.cpus")
    samples = noise.get("samples", [])
    if not isinstance(samples, (list, tuple)):
        raise ValueError("noise.samples is no list")
    _check_free({k: v for k, v in noise.items() if k != "samples"}, "noise")
    for place, sample in enumerate(samples):
        where = f"noise.samples[{place}]"
        if not isinstance(sample, Mapping):
            raise ValueError(f"{where} is no table of names and values")
        _check_free(sample, where)
        for name, value in sample.items():
            if name != "kernel_ns" and value is not None:
                _require_number(value, -_MAX_VALUE, _MAX_VALUE, f"{where}.{shown(name)}")
        times = sample.get("kernel_ns")
        if not isinstance(times, (list, tuple)) or not times:
            raise ValueError(f"{where}.kernel_ns is no list of times")
        for value in times:
            _require_number(value, 1, _MAX_VALUE, f"{where}.kernel_ns")


def _check_pairs(record: Record) -> None:
    """Limit the pairs that `levit.benchmarks.summary.comparisons` can form, and their rounds."""
    contenders = {c.name: c for c in record.contenders}
    cases: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for measurement in record.measurements:
        contender = contenders[measurement.contender]
        if measurement.status == "ok" and contender.kind != "ceiling":
            case = cases.setdefault((contender.model, measurement.protocol), [])
            case.append((contender.kind, len(measurement.rounds)))
    pairs = paired_rounds = 0
    for case in cases.values():
        ours = [rounds for kind, rounds in case if kind == "ours"]
        beside = len(case) - len(ours) + (len(ours) - 1) / 2
        pairs += math.ceil(len(ours) * beside)
        paired_rounds += math.ceil(sum(ours) * beside)
    _limit(pairs, MAX_PAIRS, "pairs of contenders to compare")
    _limit(paired_rounds, MAX_PAIRED_ROUNDS, "rounds of pairs to compare")


def _check_free(values: Any, where: str) -> None:
    """Limit what the schema leaves open: how much of it there is, and how long its texts are."""
    level, count = [values], 0
    while level:
        count += len(level)
        _limit(count, MAX_FREE, f"values in {where}")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _require_short(value, where, MAX_TEXT)
            elif isinstance(value, Mapping):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, (list, tuple)):
                inner += value
        level = inner


def _limit(count: int, most: int, name: str) -> None:
    if count > most:
        raise ValueError(f"{count:,} {name}, and no run has more than {most:,}")


def _require_short(text: str, where: str, most: int) -> None:
    if len(text) > most:
        raise ValueError(f"{where} has a text of {len(text):,} letters, more than {most:,}")


def _require_within(values: Iterable[float], least: int, most: int, where: str) -> None:
    values = tuple(values)
    if values and not (least <= min(values) and max(values) <= most):
        odd = next(value for value in values if not least <= value <= most)
        raise ValueError(f"{where} holds {shown(odd)}, and expected is {least} to {most}")


def _require_number(value: Any, least: int, most: int, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where} holds {shown(value)}, which is no number")
    _require_within((value,), least, most, where)
