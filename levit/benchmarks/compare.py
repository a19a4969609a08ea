"""Two runs on one machine: what became faster, what slower, and what cannot be told.

Runs made apart have no rounds in common, and the machine may have changed between them. So
intervals are wider than those of one run: the worst that both medians' intervals allow, and
beyond that by what the calibration kernel says of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from levit.benchmarks.intervals import Interval, Verdict, unpaired_ratio, verdict_of
from levit.benchmarks.machine import changes, differences
from levit.benchmarks.noise import drift, quietness
from levit.benchmarks.record import Measurement, Record
from levit.benchmarks.summary import SEARCHED, Summary, summaries
from levit.errors import ConfigError

__all__ = ["Change", "Comparison", "compare"]

# How long was measured: what a longer run says better, a shorter one says too.
_LENGTHS: Final = ("seconds", "warmup_s", "rounds")
# Of a run: what the protocols that begin with a picture depend on.
_PICTURES: Final = ("photographs", "pictures")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One contender under one protocol, before and after.

    Attributes:
        quantity: what `before` and `after` are: ``images/s``, ``p50 ms``, ``s``, ``MB``.
        ratio: above 1 the second run is better.
        rounds: of the run that has fewer.
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
class Comparison:
    """Every change, and what only one of the runs has.

    Attributes:
        drift: relative change of the machine itself between the runs.
        only_before, only_after: ``contender (protocol)``, measured in one run alone.
        circumstances: how both went, and what else differs and may explain a change.
    """

    changes: tuple[Change, ...]
    drift: float
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    circumstances: tuple[str, ...]


def compare(before: Record, after: Record) -> Comparison:
    """What has changed from one run to the other.

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
    change_of_machine = drift(before.noise, after.noise)
    found = []
    for name, protocol in common:
        one, other = first[name, protocol], second[name, protocol]
        _require_equal_settings(one.measurement, other.measurement)
        _require_same_work(one, other, before, after)
        quantity, old, faster_is_more = _figure(one)
        _, new, _ = _figure(other)
        # Memory does not depend on how busy the machine is.
        slack = 0.0 if quantity == "MB" else change_of_machine
        rounds = min(_rounds(one), _rounds(other))
        ratio = (
            unpaired_ratio(new, old, slack) if faster_is_more else unpaired_ratio(old, new, slack)
        )
        found.append(
            Change(
                contender=name,
                protocol=protocol,
                quantity=quantity,
                before=old,
                after=new,
                ratio=ratio,
                verdict=verdict_of(ratio, rounds),
                rounds=rounds,
            )
        )
    return Comparison(
        changes=tuple(found),
        drift=change_of_machine,
        only_before=_names(first, second),
        only_after=_names(second, first),
        circumstances=(*_states(before, after), *changes(before.machine, after.machine)),
    )


_Key = tuple[str, str]


def _measured(record: Record) -> dict[_Key, Summary]:
    """What has a figure, by contender and protocol; ceilings are the machine, not a contender."""
    return {
        (s.contender.name, s.measurement.protocol): s
        for s in summaries(record)
        if s.contender.kind != "ceiling" and _has_figure(s)
    }


def _has_figure(summary: Summary) -> bool:
    return summary.measurement.status == "ok" and any(r.values for r in summary.measurement.rounds)


def _rounds(summary: Summary) -> int:
    return sum(1 for r in summary.measurement.rounds if r.values)


def _figure(summary: Summary) -> tuple[str, Interval, bool]:
    """(quantity, value, whether more of it is better)."""
    if summary.peak_mb is not None:
        return "MB", summary.peak_mb, False
    if summary.start_s is not None:
        return "s", summary.start_s, False
    if summary.measurement.protocol == "latency":
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
    """Raise where a name means another network, or other pictures."""
    a, b = one.contender, other.contender
    pairs = {"image size": (a.image_size, b.image_size), "multiply-accumulates": (a.macs, b.macs)}
    if one.stages_ms:
        for key in _PICTURES:
            pairs[key] = (before.settings.get(key), after.settings.get(key))
    for what, (old, new) in pairs.items():
        if old != new:
            raise ConfigError(
                f"the runs did different work: {a.name}: {what} is {old} in one and {new} in the "
                f"other; measure both with the same"
            )


def _names(here: Mapping[_Key, Any], there: Mapping[_Key, Any]) -> tuple[str, ...]:
    return tuple(f"{name} ({protocol})" for name, protocol in here if (name, protocol) not in there)


def _states(before: Record, after: Record) -> list[str]:
    """How quiet the machine was in both, and which was not finished."""
    lines = []
    for which, record in (("first", before), ("second", after)):
        verdict, reasons = quietness(record.noise)
        said = f": {'; '.join(reasons)}" if reasons else ""
        lines.append(f"the machine was {verdict} in the {which}{said}")
        if record.status != "complete":
            lines.append(f"the {which} was interrupted")
    return lines
