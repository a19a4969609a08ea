# SPDX-License-Identifier: Apache-2.0
"""Check the verdicts of ``levit bench``: one contender entered twice, and once slower on purpose.

::

    python scripts/check_bench.py              # ten runs; eight minutes

Each run is one of ``levit bench --protocol latency`` with three contenders: a model through ONNX
Runtime, the same again in a session of its own, and the same with every call made 5 % longer by
waiting. The verdicts should be equal, and slower. Before that, a session that computes nothing
shows what the runner itself adds to a call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from levit.benchmarks.intervals import Interval
from levit.benchmarks.lineup import choose_lineup
from levit.benchmarks.material import prepare_material
from levit.benchmarks.measured import latency_ms
from levit.benchmarks.noise import quietness
from levit.benchmarks.protocols import PROTOCOLS, Protocol
from levit.benchmarks.record import Record
from levit.benchmarks.runner import Plan, run_benchmark
from levit.benchmarks.summary import comparisons
from levit.runtime.cpus import available_cpus

HANDICAP: Final = 0.05
OVERHEAD_MODEL: Final = "levit_128s"


def overhead_us(folder: Path) -> float:
    """Microseconds that a call of a session costs that computes nothing.

    The larger of what a call is timed at, and of elapsed time over calls, in medians.
    """
    protocol = replace(PROTOCOLS["latency"], seconds=1.0, warmup_s=0.1, rounds=10)
    record = measured(OVERHEAD_MODEL, "null", folder, protocol, threads=1, handicaps=(0.0,))
    measurement = next(m for m in record.measurements if m.rounds)
    per_call = statistics.median(r.elapsed_ns / len(r.values) for r in measurement.rounds)
    return max(latency_ms(measurement)[50].median * 1e3, per_call / 1e3)


def measured(
    model: str,
    engine: str,
    folder: Path,
    protocol: Protocol,
    *,
    threads: int,
    handicaps: tuple[float, ...],
) -> Record:
    """One run in which a contender takes part once for every handicap."""
    lineup = choose_lineup(
        device="cpu", models=[model] * len(handicaps), artifacts=(), engines=[engine], peers=False
    )
    contenders = tuple(
        replace(contender, handicap=handicap)
        for contender, handicap in zip(lineup.contenders, handicaps, strict=True)
    )
    material = prepare_material(contenders, folder, seed=0, cache=True, progress=lambda title: None)
    plan = Plan(
        contenders=contenders,
        protocols={"latency": protocol},
        device="cpu",
        threads=threads,
        pictures=(),
        seed=0,
        command=("check_bench",),
    )
    record, stop = run_benchmark(plan, material, progress=lambda title: None)
    if stop is not None:
        raise stop
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="levit_128s")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10, help="of each contender in a run")
    parser.add_argument("--rounds", type=int, default=PROTOCOLS["latency"].rounds)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--json", type=Path, help="write the ratios to this file")
    arguments = parser.parse_args()
    protocol = replace(
        PROTOCOLS["latency"], seconds=arguments.seconds, warmup_s=0.5, rounds=arguments.rounds
    )
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        overhead = overhead_us(Path(name) / "null")
        print(f"a call of nothing: {overhead:.2f} µs")
        for number in range(arguments.runs):
            folder = Path(name) / str(number)
            record = measured(
                arguments.model,
                "levit-onnx",
                folder,
                protocol,
                threads=arguments.threads,
                handicaps=(0.0, 0.0, HANDICAP),
            )
            first = record.contenders[0]
            row: dict[str, Any] = {"quietness": quietness(record.noise)[0]}
            beside_first = [c for c in comparisons(record) if c.peer == first]
            for title, found in zip(("same", "5 % slower"), beside_first, strict=True):
                row[title] = {"ratio": found.ratio, "verdict": found.verdict}
            results.append(row)
            print(
                f"run {number + 1}: {row['quietness']}; the same again {text(row['same'])}; "
                f"5 % slower {text(row['5 % slower'])}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"overhead_us": overhead, "runs": results}, indent=1))


def text(entry: dict[str, Any]) -> str:
    ratio: Interval = entry["ratio"]
    return f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] {entry['verdict']}"


if __name__ == "__main__":
    main()
