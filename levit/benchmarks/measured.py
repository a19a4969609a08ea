"""Figures of one measurement: None or empty where its protocol does not measure them."""

from __future__ import annotations

import statistics
from typing import Final

from levit.benchmarks.intervals import Interval, median_interval, percentile_intervals
from levit.benchmarks.protocols import END_TO_END
from levit.benchmarks.record import Measurement, Round

__all__ = [
    "STAGES",
    "cpu_ms",
    "images_per_second",
    "latency_ms",
    "paper_images_per_second",
    "peak_mb",
    "rate",
    "rates",
    "setting",
    "stages_ms",
    "start_s",
    "time_over_cpu",
]

STAGES: Final = ("decode", "resize", "network", "rest")
# Names of stages in older records.
_RENAMED: Final = {"infer": "network"}
PERCENTS: Final = (50, 90, 99)
# Protocols whose every value is a call of the network.
_CALLS: Final = ("paper", "latency", "throughput", *END_TO_END)


def images_per_second(measurement: Measurement) -> Interval | None:
    """Median over rounds of images ÷ elapsed time; None where there is none."""
    found = rates(measurement)
    return median_interval(found) if found else None


def paper_images_per_second(measurement: Measurement) -> float | None:
    """Batch ÷ mean time of all calls (facebookresearch/LeViT, speed_test.py)."""
    calls = [v for r in measurement.rounds for v in r.values]
    if measurement.protocol != "paper" or not sum(calls):
        return None
    return setting(measurement, "batch") * 1e9 * len(calls) / sum(calls)


def latency_ms(measurement: Measurement) -> dict[int, Interval]:
    """Percentiles of one call's milliseconds, with intervals from resampled rounds."""
    rounds = [[v / 1e6 for v in r.values] for r in measurement.rounds if r.values]
    if not rounds or measurement.protocol not in _CALLS:
        return {}
    return percentile_intervals(rounds, PERCENTS)


def stages_ms(measurement: Measurement) -> dict[str, float]:
    """Milliseconds of each stage, in the order in which they happen; the sum is the median call.

    The last, ``rest``, is the median difference of a call without clocks and the one with clocks
    next to it, both of which a slower machine makes longer. The others divide what it leaves as
    they divide the middle half of the calls with clocks. In noise the rest may come out as a little
    less than nothing. Older records have none: their stages were the whole call.
    """
    if measurement.protocol != END_TO_END[0]:
        return {}
    found: dict[str, list[int]] = {}
    for turn in measurement.rounds:
        for stage, values in turn.stages.items():
            found.setdefault(_RENAMED.get(stage, stage), []).extend(values)
    ordered = [name for name in dict.fromkeys((*STAGES, *sorted(found))) if found.get(name)]
    staged = list(zip(*(found[name] for name in ordered), strict=False))
    if not staged:
        return {}
    middle = sorted(staged, key=sum)[len(staged) // 4 : len(staged) - len(staged) // 4]
    means = [statistics.fmean(values) / 1e6 for values in zip(*middle, strict=True)]
    wholes = [v for turn in measurement.rounds for v in turn.values]
    if not wholes or any(not _RENAMED.keys().isdisjoint(r.stages) for r in measurement.rounds):
        return dict(zip(ordered, means, strict=True))
    rest = statistics.median(w - sum(s) for w, s in zip(wholes, staged, strict=False)) / 1e6
    whole, together = statistics.median(wholes) / 1e6, sum(means)
    shares = [mean / together * (whole - rest) if together else 0.0 for mean in means]
    return dict(zip(ordered, shares, strict=True)) | {"rest": rest}


def cpu_ms(measurement: Measurement) -> Interval | None:
    """Milliseconds of CPU time of an image, of all threads: medians over rounds."""
    images = _images_of(measurement)
    found = [cpu / 1e6 / len(turn.stages["cpu"]) / images for turn, cpu in _cpu_ns(measurement)]
    return median_interval(found) if found else None


def time_over_cpu(measurement: Measurement) -> Interval | None:
    """Time of an image on all threads over its CPU time: 1 where no thread ever waits."""
    threads = setting(measurement, "threads")
    found = [threads * turn.elapsed_ns / cpu for turn, cpu in _cpu_ns(measurement) if cpu]
    return median_interval(found) if found else None


def _cpu_ns(measurement: Measurement) -> list[tuple[Round, int]]:
    """Rounds of many images with the CPU time of their calls."""
    if measurement.protocol != END_TO_END[1]:
        return []
    timed = [turn for turn in measurement.rounds if turn.stages.get("cpu")]
    return [(turn, sum(turn.stages["cpu"])) for turn in timed]


def start_s(measurement: Measurement) -> Interval | None:
    """Seconds from a process's start to its first prediction."""
    values = [v / 1e9 for r in measurement.rounds for v in r.values]
    return median_interval(values) if values and measurement.protocol == "cold-start" else None


def peak_mb(measurement: Measurement) -> Interval | None:
    """Peak resident memory of a fresh process in 10^6 bytes."""
    values = [max(r.values) / 1e6 for r in measurement.rounds if r.values]
    return median_interval(values) if values and measurement.protocol == "memory" else None


def setting(measurement: Measurement, name: str) -> int:
    """One of its settings that count something; 1 where it is not there."""
    return int(measurement.settings.get(name, 1))


def _images_of(measurement: Measurement) -> int:
    """Count the images of a call, which may take several batches."""
    return setting(measurement, "images" if "images" in measurement.settings else "batch")


def rate(measurement: Measurement, turn: Round) -> float | None:
    """Images per second of one round; None where it has no calls."""
    if not turn.values or turn.elapsed_ns <= 0:
        return None
    return _images_of(measurement) * len(turn.values) * 1e9 / turn.elapsed_ns


def rates(measurement: Measurement) -> list[float]:
    """Images per second of each round that has calls."""
    if measurement.protocol not in _CALLS:
        return []
    return [found for r in measurement.rounds if (found := rate(measurement, r)) is not None]
