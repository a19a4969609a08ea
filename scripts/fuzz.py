# SPDX-License-Identifier: Apache-2.0
"""Feed levit what it must refuse or answer rightly: thousands of damaged inputs a minute.

Run from the repository root::

    pip install '.[dev,peers]'
    python scripts/fuzz.py                                  # 24,000 inputs in a few minutes
    python scripts/fuzz.py --count 20000                    # the run in docs/results.md
    python scripts/fuzz.py --target image --count 1000 --seed 7
    python scripts/fuzz.py --target image --replay fuzz-failures/image-crash-0123456789.bin
    python scripts/fuzz.py --engine atheris --target image --runs 5000     # pip install atheris

Every input runs in a process with limits of memory and time. It may be *answered*, and then the
answer is compared with what the input says by another way (``fuzzing/targets``), or *refused*, by
one printable line of a ``LevitError``. All else has failed: another exception, a bad message, a
wrong answer, a warning of levit's own, too much memory, a hang, a crash. An input follows from
(target, seed, number) alone. What failed is written to ``--output``; exit status 1 if anything did.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzzing.isolation import Worker, run_inputs
from fuzzing.target import FAILURES, Outcome, Target, make_input
from fuzzing.targets import SHARES, TARGETS, prepared

DEFAULT_COUNT = 4000
# Of one and the same failure, so many are kept.
KEPT = 3


@dataclass
class Tally:
    """What one target's inputs came to."""

    counts: Counter[str] = field(default_factory=Counter)
    places: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, 0)
    seconds: float = 0.0

    @property
    def failures(self) -> int:
        return sum(self.counts[kind] for kind in FAILURES)

    def add(self, index: int, outcome: Outcome) -> None:
        self.counts[outcome.kind] += 1
        self.slowest = max(self.slowest, (outcome.seconds, index))
        if outcome.failed:
            self.places[outcome.kind, outcome.place] += 1
        elif outcome.kind == "refused":
            self.refusals[outcome.place] += 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all")
    parser.add_argument("--count", type=int, default=DEFAULT_COUNT, help="inputs per target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--output", type=Path, default=Path("fuzz-failures"), metavar="FOLDER")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one stored input")
    parser.add_argument("--engine", choices=("own", "atheris"), default="own")
    parser.add_argument("--runs", type=int, default=5000, help="executions of atheris")
    parser.add_argument("--verbose", action="store_true", help="where inputs were refused, too")
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    if (arguments.replay or arguments.engine == "atheris") and len(names) != 1:
        parser.error("name the one --target")
    with tempfile.TemporaryDirectory(prefix="levit-fuzz-") as scratch:
        folder = Path(scratch)
        if arguments.engine == "atheris":
            from fuzzing.atheris_engine import run_atheris

            return run_atheris(names[0], arguments.runs, arguments.seed, folder, arguments.output)
        targets = [prepared(name, folder) for name in names]
        if arguments.replay:
            return _replay(targets[0], arguments.replay, folder)
        tallies = {target.name: _run(target, arguments, folder) for target in targets}
    _print_table(tallies)
    return int(any(tally.failures for tally in tallies.values()))


def _run(target: Target, arguments: argparse.Namespace, folder: Path) -> Tally:
    tally = Tally()
    started = time.monotonic()
    indices = range(math.ceil(arguments.count * SHARES.get(target.name, 1)))
    for index, outcome in run_inputs(target, arguments.seed, indices, folder, arguments.jobs):
        tally.add(index, outcome)
        if outcome.failed and tally.places[outcome.kind, outcome.place] <= KEPT:
            data = make_input(target, arguments.seed, index)
            path = _keep(target, data, outcome, arguments.output)
            print(f"{target.name} {index}: {outcome.kind} at {outcome.place}: {path}", flush=True)
    tally.seconds = time.monotonic() - started
    for (kind, place), count in tally.places.most_common():
        print(f"{target.name}: {count} x {kind} at {place}")
    if arguments.verbose:
        for place, count in tally.refusals.most_common():
            print(f"{target.name}: {count} x refused at {place}")
    return tally


def _keep(target: Target, data: bytes, outcome: Outcome, output: Path) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()[:10]
    path = output / f"{target.name}-{outcome.kind}-{digest}.bin"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(f"{outcome.place}\n{outcome.detail}\n", encoding="utf-8")
    return path


def _replay(target: Target, path: Path, folder: Path) -> int:
    worker = Worker(target, 0, folder / "worker")
    pipe = worker.start(path.read_bytes())
    while not pipe.poll(0.5) and not worker.overdue():
        pass
    outcome = worker.result()
    worker.stop()
    print(f"{outcome.kind} {outcome.place} ({outcome.seconds:.2f} s)\n{outcome.detail}")
    return int(outcome.failed)


def _print_table(tallies: dict[str, Tally]) -> None:
    columns = ("answered", "refused", *FAILURES)
    print("\n| target | inputs | " + " | ".join(columns) + " | slowest | seconds |")
    print("|---" * (len(columns) + 4) + "|")
    total: Counter[str] = Counter()
    for name, tally in tallies.items():
        cells = " | ".join(str(tally.counts[column]) for column in columns)
        slowest = f"{tally.slowest[0]:.2f} s ({tally.slowest[1]})"
        inputs = sum(tally.counts.values())
        print(f"| {name} | {inputs} | {cells} | {slowest} | {tally.seconds:.0f} |")
        total += tally.counts
    cells = " | ".join(str(total[column]) for column in columns)
    seconds = sum(tally.seconds for tally in tallies.values())
    print(f"| all | {total.total()} | {cells} | | {seconds:.0f} |")


if __name__ == "__main__":
    sys.exit(main())
