"""``levit bench``, ``levit bench compare``, ``levit bench report``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from levit.benchmarks import gpu
from levit.benchmarks.compare import Comparison, compare
from levit.benchmarks.lineup import Lineup, choose_lineup
from levit.benchmarks.material import prepare_material
from levit.benchmarks.photographs import write_photographs
from levit.benchmarks.protocols import OVERVIEW, PROTOCOLS, Protocol, schedule
from levit.benchmarks.record import Record
from levit.benchmarks.record_file import read_record, write_record
from levit.benchmarks.runner import Plan, run_benchmark
from levit.benchmarks.whole_file import check_writable
from levit.commands.bench_tables import comparison_json, print_comparison, print_record, record_json
from levit.commands.output import Progress, print_json, printable
from levit.errors import BackendUnavailableError, ConfigError
from levit.runtime.cpus import available_cpus

__all__ = ["run"]

_ARM = ("aarch64", "arm64")


def run(arguments: argparse.Namespace) -> int:
    """Measure, compare two results, or show one again."""
    actions = {"measure": _measure, "compare": _compare, "report": _report}
    return actions[arguments.action](arguments)


# ---------------------------------------------------------------------------- measuring


def _measure(arguments: argparse.Namespace) -> int:
    device = _device(arguments.device)
    if arguments.fail_under is not None and not (arguments.peers or arguments.engines):
        raise ConfigError("--fail-under compares ours with peers: give --peers, or name --engines")
    output = _output(arguments)
    _check_destinations(arguments, output)  # before minutes of work
    lineup = choose_lineup(
        device=device,
        models=arguments.models,
        artifacts=[Path(folder) for folder in arguments.artifact],
        engines=arguments.engines,
        peers=arguments.peers,
    )
    protocols = _protocols(arguments, len(lineup.entrants))
    with tempfile.TemporaryDirectory(prefix="levit-bench-") as name:
        record, status = _run(arguments, Path(name), device, lineup, protocols)
    measured = any(m.rounds for m in record.measurements)
    if status and not measured:
        raise KeyboardInterrupt
    write_record(record, output)
    _write_reports(arguments, record)
    _show(arguments, record, output)
    if status:
        print(
            f"error: interrupted; what was measured until then is in {printable(str(output))}",
            file=sys.stderr,
        )
        return status
    return _judge(arguments.fail_under, record)


def _device(name: str) -> str:
    """The device to measure on; arm is the CPU of an arm64 machine."""
    if name == "gpu":
        gpu.require_gpu()
        return "gpu"
    machine = platform.machine().lower()
    if name == "arm" and machine not in _ARM:
        raise BackendUnavailableError(
            f"this machine is {machine}, not arm64: install levit on one, copy the artifacts "
            f"there (scp -r levit_128s-onnx-fp32 HOST:), and run there: levit bench --device arm "
            f"--artifact levit_128s-onnx-fp32"
        )
    return "cpu"


def _protocols(arguments: argparse.Namespace, contenders: int) -> dict[str, Protocol]:
    names = arguments.protocol or tuple(OVERVIEW)
    for name in names:
        if name not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {name!r}; there are: {', '.join(PROTOCOLS)}")
    return {
        name: schedule(
            name,
            contenders,
            chosen=arguments.protocol is not None,
            quick=arguments.quick,
            seconds=arguments.seconds,
            rounds=arguments.rounds,
            protocols=len(names),
        )
        for name in names
    }


def _run(
    arguments: argparse.Namespace,
    folder: Path,
    device: str,
    lineup: Lineup,
    protocols: dict[str, Protocol],
) -> tuple[Record, int]:
    for title, install in lineup.missing.items():
        print(f"not installed: {title} ({install})", file=sys.stderr)
    photos = None if arguments.photos is None else Path(arguments.photos)
    pictures: tuple[Path, ...] = ()
    if photos is not None or any(p.kind != "tensor" for p in protocols.values()):
        pictures = write_photographs(folder / "photographs", photos, arguments.seed)
    with Progress(len(lineup.entrants), "preparing") as progress:
        material = prepare_material(
            lineup.entrants,
            folder,
            seed=arguments.seed,
            cache=not arguments.no_cache,
            progress=lambda title: progress.advance(title=title),
        )
    for name, reason in material.failed.items():
        print(printable(f"cannot take part: {name}: {reason}"), file=sys.stderr)
    plan = Plan(
        entrants=lineup.entrants,
        protocols=protocols,
        device=device,
        threads=arguments.threads or available_cpus(),
        pictures=pictures,
        seed=arguments.seed,
        command=("levit", *_command()),
        settings={"photographs": "drawn" if photos is None else "given"},
    )
    with _Bar() as bar:
        return run_benchmark(plan, material, bar)


def _command() -> list[str]:
    """What was typed, without the folders of this machine, since results get published."""
    words = sys.argv[1:]
    if words[:1] != ["bench"]:
        words = ["bench", *words]
    return [Path(word).name if Path(word).is_absolute() else word for word in words]


class _Bar:
    """The runner's watcher: seconds of work as a progress bar."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._done = 0.0
        self._shown = 0

    def plan(self, seconds: float) -> None:
        self._progress = Progress(max(1, round(seconds)), "measuring")

    def advance(self, seconds: float, title: str) -> None:
        assert self._progress is not None
        self._done += seconds
        step = int(self._done) - self._shown
        self._shown += step
        self._progress.advance(step, title)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.close()


def _judge(least: float | None, record: Record) -> int:
    """1 where ours is surely slower than `least` times a peer of the same runtime."""
    if least is None:
        return 0
    from levit.benchmarks.summary import comparisons

    rivals = [c for c in comparisons(record) if c.ours.runtime == c.peer.runtime]
    if not rivals:
        raise ConfigError("--fail-under: no peer of the same runtime was measured beside ours")
    status = 0
    for found in rivals:
        if found.ratio.median < least and found.verdict == "slower":
            print(
                printable(
                    f"slower: {found.ours.name} is {found.ratio.median:.3f} of {found.peer.title} "
                    f"({found.protocol}), asked for is {least}"
                ),
                file=sys.stderr,
            )
            status = 1
    return status


# ---------------------------------------------------------------------------- results


def _output(arguments: argparse.Namespace) -> Path:
    if arguments.output is not None:
        return Path(arguments.output)
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path(f"levit-bench-{arguments.device}-{now}.json")


def _check_destinations(arguments: argparse.Namespace, output: Path) -> None:
    if os.path.lexists(output):
        raise ConfigError(f"{output}: already exists; name another --output, or remove it")
    named = [arguments.report, arguments.png, arguments.csv, arguments.markdown]
    for path in (output, *(Path(name) for name in named if name is not None)):
        check_writable(path)
    if arguments.png is not None:
        from levit.benchmarks.report.png import require_matplotlib

        require_matplotlib()


def _write_reports(arguments: argparse.Namespace, record: Record) -> None:
    from levit.benchmarks.report import write_csv, write_html, write_markdown, write_png

    for name, write in (
        (arguments.report, write_html),
        (arguments.png, write_png),
        (arguments.csv, write_csv),
        (arguments.markdown, write_markdown),
    ):
        if name is not None:
            write(record, Path(name))


def _show(arguments: argparse.Namespace, record: Record, path: Path) -> None:
    if arguments.json:
        print_json({"record": str(path), **record_json(record)})
        return
    print_record(record)
    files = [str(path), *filter(None, [arguments.report, arguments.png, arguments.csv])]
    print(f"\nevery value: {printable(', '.join(files))}")


def _report(arguments: argparse.Namespace) -> int:
    record = read_record(arguments.record)
    for name in filter(None, [arguments.report, arguments.png, arguments.csv, arguments.markdown]):
        check_writable(Path(name))
    _write_reports(arguments, record)
    _show(arguments, record, Path(arguments.record))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    before, after = read_record(arguments.before), read_record(arguments.after)
    comparison = compare(before, after)
    if arguments.json:
        print_json(comparison_json(comparison))
    else:
        print_comparison(comparison)
    return _judge_change(arguments.fail_under, comparison)


def _judge_change(least: float | None, comparison: Comparison) -> int:
    """1 where something is surely slower than `least` times what it was."""
    if least is None:
        return 0
    status = 0
    for change in comparison.changes:
        if change.ratio.median < least and change.verdict == "slower":
            print(
                printable(
                    f"slower: {change.contender} ({change.protocol}) is "
                    f"{change.ratio.median:.3f} of what it was, asked for is {least}"
                ),
                file=sys.stderr,
            )
            status = 1
    return status
