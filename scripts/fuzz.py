# SPDX-License-Identifier: Apache-2.0
"""Feed levit what it must refuse or answer rightly: thousands of damaged inputs a minute.

Run from the repository root::

    pip install '.[dev,peers]'
    python scripts/fuzz.py                                  # 28,000 inputs in a few minutes
    python scripts/fuzz.py --count 20000                    # the run in docs/measurements/other.md
    python scripts/fuzz.py --target image --count 1000 --seed 7
    python scripts/fuzz.py --target image --replay fuzz-failures/image-crash-SIGSEGV.bin
    python scripts/fuzz.py --engine atheris --target image --count 5000    # pip install atheris

Hypothesis draws the inputs and makes those that fail smaller; Atheris guides the same choices by
the lines of levit and Pillow that they reach. Each target's inputs run in a process of its own
with limits of memory and time. An input may be *answered*, and then the answer is compared with
another source (``fuzzing/targets``), or *refused*, by one printable line of a ``LevitError``. All
else has failed: another exception, a bad message, a wrong answer, a warning of levit's own, too
much memory, a hang, a crash. Inputs follow from target and seed alone. The smallest input of each
failure is written to ``--output``; exit status 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import hypothesis
from fuzzing.isolation import INPUT, isolated, watched
from fuzzing.target import FAILURES, Outcome, Target, inputs_of
from fuzzing.targets import SHARES, TARGETS, prepared

DEFAULT_COUNT = 4000


class FailedInputError(Exception):
    """An input has failed: the engine may make it smaller, or stop."""


@dataclass
class Tally:
    """Outcomes of one target's inputs; failures are kept in `output`."""

    name: str
    output: Path
    counts: Counter[str] = field(default_factory=Counter)
    smallest: dict[tuple[str, str], int] = field(default_factory=dict)
    slowest_s: float = 0.0

    @property
    def failed(self) -> bool:
        """True if any input has failed."""
        return any(self.counts[kind] for kind in FAILURES)

    def add(self, data: bytes, outcome: Outcome) -> None:
        """Count an outcome. Of each failure the smallest input is kept."""
        self.counts[outcome.kind] += 1
        self.slowest_s = max(self.slowest_s, outcome.seconds)
        failure = (outcome.kind, outcome.place)
        if not outcome.failed or len(data) > self.smallest.get(failure, len(data)):
            return
        self.smallest[failure] = len(data)
        self.output.mkdir(parents=True, exist_ok=True)
        place = re.sub(r"\W+", "-", outcome.place)[:80]
        path = self.output / f"{self.name}-{outcome.kind}-{place}.bin"
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"{outcome.place}\n{outcome.detail}\n", "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all")
    parser.add_argument("--count", type=int, default=DEFAULT_COUNT, help="inputs per target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("fuzz-failures"), metavar="FOLDER")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one stored input")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    if (arguments.replay or arguments.engine == "atheris") and len(names) != 1:
        parser.error("name the one --target")
    with tempfile.TemporaryDirectory(prefix="levit-fuzz-") as scratch:
        folder = Path(scratch)
        if arguments.engine == "atheris":
            return run_atheris(names[0], arguments, folder)
        if arguments.replay:
            return replay(prepared(names[0], folder), arguments.replay, folder)
        tallies, begun = {}, time.monotonic()
        print_row("target", "inputs", "answered", "refused", *FAILURES, "slowest", "time")
        print_row(*["---"] * (6 + len(FAILURES)))
        for name in names:
            started = time.monotonic()
            tally = tallies[name] = run(prepared(name, folder), arguments, folder)
            print_counts(name, tally.counts, f"{tally.slowest_s:.2f} s", started)
    counts = sum((tally.counts for tally in tallies.values()), Counter())
    print_counts("all", counts, "", begun)
    for tally in tallies.values():
        for kind, place in tally.smallest:
            print(f"{tally.name}: {kind} at {place}, kept in {tally.output}")
    return int(any(tally.failed for tally in tallies.values()))


def run(target: Target, arguments: argparse.Namespace, folder: Path) -> Tally:
    """Examine the seeds as they are, and then damaged ones, in a process of their own."""
    tally = Tally(name=target.name, output=arguments.output.resolve())
    count = math.ceil(arguments.count * SHARES.get(target.name, 1))

    def work() -> Tally:
        seeds = target.seeds()[:count]
        check = partial(examine_one, target, folder, tally)
        for data in seeds:
            with contextlib.suppress(FailedInputError):
                check(data)
        if count > len(seeds):
            # Hypothesis raises one of several failures, or a group; the tally has them all.
            with contextlib.suppress(FailedInputError, ExceptionGroup, hypothesis.errors.Flaky):
                drawn(target, check, count - len(seeds), arguments.seed)()
        return tally

    found = isolated(work, folder)
    if isinstance(found, Tally):
        return found
    tally.add((folder / INPUT).read_bytes(), found)
    return tally


def examine_one(target: Target, folder: Path, tally: Tally, data: bytes) -> None:
    """Examine an input, and raise `FailedInputError` for the engine if it has failed."""
    outcome = watched(target, data, folder)
    tally.add(data, outcome)
    if outcome.failed:
        raise FailedInputError(f"{outcome.kind} at {outcome.place}\n{outcome.detail}")


def drawn(
    target: Target, check: Callable[[bytes], None], count: int, seed: int
) -> Callable[[], None]:
    """Make a Hypothesis test of `count` inputs."""
    settings = hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    def test(data: bytes) -> None:
        check(data)

    test_of_inputs = settings(hypothesis.given(inputs_of(target))(test))
    return hypothesis.seed(seed)(test_of_inputs)


def run_atheris(name: str, arguments: argparse.Namespace, folder: Path) -> int:
    """Guide Hypothesis's choices by coverage. Atheris ends the process, with 1 after a failure."""
    try:
        import atheris
    except ImportError:
        print("error: atheris is not installed: pip install atheris", file=sys.stderr)
        return 1
    # Modules to watch must be imported under it: the targets import levit and Pillow.
    with atheris.instrument_imports(include=["levit", "PIL"], enable_loader_override=False):
        target = prepared(name, folder)
    tally = Tally(name=name, output=arguments.output.resolve())
    check = partial(examine_one, target, folder, tally)
    test = drawn(target, check, arguments.count, arguments.seed)
    flags = [f"-atheris_runs={arguments.count}", f"-seed={arguments.seed + 1}", "-timeout=120"]
    flags += ["-rss_limit_mb=6000", "-len_control=0", "-max_len=8192"]
    flags.append(f"-artifact_prefix={folder}/")
    atheris.Setup([sys.argv[0], *flags], test.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]
    atheris.Fuzz()
    return 0


def replay(target: Target, path: Path, folder: Path) -> int:
    """Examine one stored input."""
    outcome = isolated(partial(watched, target, path.read_bytes(), folder), folder)
    print(f"{outcome.kind} {outcome.place} ({outcome.seconds:.2f} s)\n{outcome.detail}")
    return int(outcome.failed)


def print_counts(name: str, counts: Counter[str], slowest: str, started: float) -> None:
    """Print the row of a target, or of all of them."""
    columns = [counts[kind] for kind in ("answered", "refused", *FAILURES)]
    print_row(name, counts.total(), *columns, slowest, f"{time.monotonic() - started:.0f} s")


def print_row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
