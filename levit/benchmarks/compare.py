"""Comparison of two runs on one machine: changes for the better, the worse, or untellable.

Runs made apart have no rounds in common, and the machine may have changed between them. So
intervals are wider than in one run: the worst that both medians' intervals allow, and beyond that
by the change of the calibration kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from levit.benchmarks.intervals import Interval, Verdict, unpaired_ratio, verdict_of
from levit.benchmarks.machine import changes, differences
from levit.benchmarks.noise import drift, quietness
from levit.benchmarks.protocols import END_TO_END
from levit.benchmarks.record import Measurement, Record
from levit.benchmarks.summary import SEARCHED, Summary, summaries
from levit.errors import ConfigError

__all__ = ["Change", "RunComparison", "compare"]

# Settings of length: a shorter run says the same as a longer one, less surely.
_LENGTHS: Final = ("seconds", "warmup_s", "rounds")
# Settings of a run that the protocols which begin with a picture depend on.
_PICTURES: Final = ("photographs", "pictures")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One contender under one protocol, before and after.

    Attributes:
        quantity: unit of `before` and `after`: ``images/s``, ``p50 ms``, ``s``, ``MB``.
        ratio: above 1 the second run is better.
        rounds: number in the run that has fewer.
    """

    contender: str
    protocol: str
    quantity: str
    before: Interval
    after: Interval
    ratio: Interval
    verdict: Verdict
    rounds: int


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Every change, and the measurements that only one of the runs has.

    Attributes:
        drift: relative change of the machine itself between the runs.
        only_before, only_after: ``contender (protocol)``, measured in one run alone.
        circumstances: lines on the quietness of both, and on differences that may explain a change.
    """

    changes: tuple[Change, ...]
    drift: float
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    circumstances: tuple[str, ...]


def compare(before: Record, after: Record) -> RunComparison:
    """Changes from one run to the other: ``compare(read_record(a), read_record(b)).changes``.

    Raises:
        ConfigError: they are of different machines, measured with different settings, or have
            nothing in common.
    """
    if others := differences(before.machine, after.machine):
        raise ConfigError(
            f"the runs are of different machines ({'; '.join(others[:3])}): speeds of different "
            f"machines are not compared; measure both on one"
        )
    first, second = _measured(before), _measured(after)
    common = [key for key in first if key in second]
    if not common:
        raise ConfigError("the runs have no measurement in common: nothing to compare")
    for key in common:
        _require_equal_settings(first[key].measurement, second[key].measurement)
        _require_same_work(first[key], second[key], before, after)
    change_of_machine = drift(before.noise, after.noise)
    return RunComparison(
        changes=tuple(_change(first[k], second[k], change_of_machine) for k in common),
        drift=change_of_machine,
        only_before=_names(first, second),
        only_after=_names(second, first),
        circumstances=(*_states(before, after), *changes(before.machine, after.machine)),
    )


_Key = tuple[str, str]


def _measured(record: Record) -> dict[_Key, Summary]:
    """Summaries that have a figure, by contender and protocol, without the ceilings."""
    return {
        (s.contender.name, s.measurement.protocol): s
        for s in summaries(record)
        if s.contender.kind != "ceiling" and s.rounds
    }


def _change(one: Summary, other: Summary, change_of_machine: float) -> Change:
    quantity, old, more_is_better = _figure(one)
    _, new, _ = _figure(other)
    # Memory does not depend on how busy the machine is.
    slack = 0.0 if quantity == "MB" else change_of_machine
    ratio = unpaired_ratio(*((new, old) if more_is_better else (old, new)), slack)
    rounds = min(one.rounds, other.rounds)
    return Change(
        contender=one.contender.name,
        protocol=one.measurement.protocol,
        quantity=quantity,
        before=old,
        after=new,
        ratio=ratio,
        verdict=verdict_of(ratio, rounds),
        rounds=rounds,
    )


def _figure(summary: Summary) -> tuple[str, Interval, bool]:
    """(quantity, value, True if more of it is better)."""
    if summary.peak_mb is not None:
        return "MB", summary.peak_mb, False
    if summary.start_s is not None:
        return "s", summary.start_s, False
    if summary.latency_ms:
        return "p50 ms", summary.latency_ms[50], False
    assert summary.images_per_s is not None
    return "images/s", summary.images_per_s, True


def _require_equal_settings(before: Measurement, after: Measurement) -> None:
    free = {*_LENGTHS, *SEARCHED.get(before.protocol, ())}
    for key in sorted(before.settings.keys() | after.settings.keys()):
        old, new = before.settings.get(key), after.settings.get(key)
        if key not in free and old != new:
            raise ConfigError(
                f"the runs have different settings: {before.contender}, {before.protocol}: {key} "
                f"is {old} in one and {new} in the other; measure both with the same"
            )


def _require_same_work(one: Summary, other: Summary, before: Record, after: Record) -> None:
    """Raise `ConfigError` where a name means another network, or other pictures."""
    a, b = one.contender, other.contender
    pairs = {"image size": (a.image_size, b.image_size), "multiply-accumulates": (a.macs, b.macs)}
    if one.measurement.protocol in END_TO_END:
        for key in _PICTURES:
            pairs[key] = (before.settings.get(key), after.settings.get(key))
    for size, (old, new) in pairs.items():
        if old != new:
            raise ConfigError(
                f"the runs did different work: {a.name}: {size} is {old} in one and {new} in the "
                f"other; measure both with the same"
            )


def _names(here: Mapping[_Key, Any], there: Mapping[_Key, Any]) -> tuple[str, ...]:
    return tuple(f"{name} ({protocol})" for name, protocol in here if (name, protocol) not in there)


def _states(before: Record, after: Record) -> list[str]:
    """Lines on how quiet the machine was in both, and which was not finished."""
    lines = []
    for which, record in (("first", before), ("second", after)):
        verdict, reasons = quietness(record.noise)
        said = f": {'; '.join(reasons)}" if reasons else ""
        lines.append(f"the machine was {verdict} in the {which}{said}")
        if record.status != "complete":
            lines.append(f"the {which} was interrupted")
    return lines
