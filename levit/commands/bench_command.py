"""``levit bench``, ``levit bench compare``, ``levit bench report``."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from levit.benchmarks import gpu
from levit.benchmarks.compare import RunComparison, compare
from levit.benchmarks.intervals import FEWEST
from levit.benchmarks.lineup import Lineup, choose_lineup
from levit.benchmarks.material import prepare_material, write_photographs
from levit.benchmarks.protocols import END_TO_END, OVERVIEW, PROTOCOLS, chosen_protocols, schedule
from levit.benchmarks.record import Record
from levit.benchmarks.record_file import read_record, write_record
from levit.benchmarks.record_limits import MAX_ROUNDS
from levit.benchmarks.report import (
    write_csv,
    write_figure,
    write_html,
    write_markdown,
    write_png,
)
from levit.benchmarks.report.png import require_matplotlib
from levit.benchmarks.runner import Plan, run_benchmark
from levit.benchmarks.summary import comparable, comparisons
from levit.commands.bench_profile import run_profile
from levit.commands.bench_tables import print_comparison, print_record, record_json
from levit.commands.output import print_json, print_line, print_note
from levit.commands.progress import Progress
from levit.errors import BackendUnavailableError, ConfigError
from levit.runtime.cpus import available_cpus
from levit.whole_file import check_writable

__all__ = ["run"]

_ARM = ("aarch64", "arm64")
_WRITERS = {
    "report": write_html,
    "png": write_png,
    "figure": write_figure,
    "csv": write_csv,
    "markdown": write_markdown,
}
# Length of --headline for each of its hundred contenders, whose protocols nobody named.
_HEADLINE_S, _HEADLINE_ROUNDS = 3.0, 10


def run(arguments: argparse.Namespace) -> int:
    """Measure, compare two results, or show one again."""
    actions = {"measure": _measure, "compare": _compare, "report": _report}
    return actions[arguments.action](arguments)


# ---------------------------------------------------------------------------- measuring


def _measure(arguments: argparse.Namespace) -> int:
    if arguments.profile:
        return run_profile(arguments)
    device = _device(arguments.device)
    protocols = _chosen_protocols(arguments)
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    default = f"levit-bench-{arguments.device}-{now}.json"
    output = Path(default if arguments.output is None else arguments.output)
    _check_destinations(arguments, output, protocols)  # before minutes of work
    if (arguments.rounds or 0) > MAX_ROUNDS:
        raise ConfigError(f"--rounds is {MAX_ROUNDS} at most: give --seconds for a longer run")
    lineup = choose_lineup(
        device=device,
        models=arguments.models,
        artifacts=[Path(folder) for folder in arguments.artifact],
        engines=arguments.engines,
        peers=arguments.peers,
        precisions=arguments.precision,
        quick=arguments.quick,
        headline=arguments.headline,
    )
    if arguments.fail_under is not None:
        _require_peers(lineup)
    with tempfile.TemporaryDirectory(prefix="levit-bench-") as name:
        record, stop = _run(arguments, Path(name), device, lineup, protocols)
    if stop is not None and not any(m.rounds for m in record.measurements):
        raise stop
    output = _written(record, output)
    _show(arguments, record, output)
    if stop is not None:
        print_note(f"what was measured until it was interrupted is in {output}")
        raise stop
    _write_reports(arguments, record)
    lacking = _unmeasured(record)
    for line in lacking:
        print_note(f"not measured: {line}")
    below = _below(arguments.fail_under, record) if arguments.fail_under is not None else []
    for line in below:
        print_note(f"slower: {line}")
    return 1 if lacking or below else 0


def _unmeasured(record: Record) -> list[str]:
    """Return a line for each of ours that was not measured. A peer that fails is a result."""
    ours = {c.name for c in record.contenders if c.kind == "ours"}
    reasons = {
        m.contender: m.reason
        for m in record.measurements
        if m.contender in ours and m.status in ("failed", "wrong")
    }
    return [f"{name}: {reason}" for name, reason in reasons.items()]


def _device(name: str) -> str:
    """Return the device to measure on; arm is the CPU of an arm64 machine."""
    if name == "gpu":
        gpu.require_gpu()  # engines name the libraries that they lack
        return "gpu"
    machine = platform.machine().lower()
    if name == "arm" and machine not in _ARM:
        raise BackendUnavailableError(
            f"this machine is {machine}, not arm64: install levit on one, copy the artifacts "
            f"there (scp -r levit_128s-onnx-fp32 HOST:), and run there: levit bench --device arm "
            f"--artifact levit_128s-onnx-fp32"
        )
    return "cpu"


def _chosen_protocols(arguments: argparse.Namespace) -> tuple[str, ...]:
    default = ("latency",) if arguments.headline else tuple(OVERVIEW)
    names: tuple[str, ...] = arguments.protocol or default
    for name in names:
        if name not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {name!r}; there are: {', '.join(PROTOCOLS)}")
    if arguments.batch is not None and not any(PROTOCOLS[name].any_batch for name in names):
        free = [name for name, protocol in PROTOCOLS.items() if protocol.any_batch]
        raise ConfigError(
            f"--batch is for the protocol {' or '.join(free)}: name it too, or leave out --batch"
        )
    return chosen_protocols(names)


def _run(
    arguments: argparse.Namespace, folder: Path, device: str, lineup: Lineup, names: tuple[str, ...]
) -> tuple[Record, BaseException | None]:
    seconds, rounds = arguments.seconds, arguments.rounds
    if arguments.headline and arguments.protocol is None and not arguments.quick:
        seconds, rounds = seconds or _HEADLINE_S, rounds or _HEADLINE_ROUNDS
    protocols = {
        name: schedule(
            name,
            len(lineup.contenders),
            chosen=arguments.protocol is not None,
            quick=arguments.quick,
            seconds=seconds,
            rounds=rounds,
            protocols=len(names),
            batch=arguments.batch,
        )
        for name in names
    }
    for install in dict.fromkeys(lineup.missing.values()):  # one command brings several
        titles = [title for title, remedy in lineup.missing.items() if remedy == install]
        print_note(f"not installed: {'; '.join(titles)} ({install})")
    if importlib.util.find_spec("psutil") is None:
        print_note(
            "not installed: psutil, so what else the machine does is not seen "
            "(pip install 'levit[bench]')"
        )
    photos = None if arguments.photos is None else Path(arguments.photos)
    pictures: tuple[Path, ...] = ()
    if photos is not None or any(p.kind != "tensor" for p in protocols.values()):
        pictures = write_photographs(folder / "photographs", photos, arguments.seed)
    with Progress() as progress:
        material = prepare_material(
            lineup.contenders,
            folder,
            seed=arguments.seed,
            cache=not arguments.no_cache,
            progress=lambda title: progress(f"preparing: {title}"),
        )
    for name, reason in material.failed.items():
        print_note(f"cannot take part: {name}: {reason}")
    plan = Plan(
        contenders=lineup.contenders,
        protocols=protocols,
        device=device,
        threads=arguments.threads or available_cpus(),
        pictures=pictures,
        seed=arguments.seed,
        command=("levit", *_command()),
        settings={"photographs": "drawn" if photos is None else "given"},
    )
    with Progress() as progress:
        return run_benchmark(plan, material, progress)


def _command() -> list[str]:
    """Return the typed words without the folders of this machine: results get published."""
    words = sys.argv[1:] if sys.argv[1:2] == ["bench"] else ["bench", *sys.argv[1:]]
    parts = [word.rpartition("=") for word in words]
    return [
        option + equals + value.replace("\\", "/").rstrip("/").rpartition("/")[2]
        for option, equals, value in parts
    ]


def _require_peers(lineup: Lineup) -> None:
    """Refuse --fail-under where ours runs beside no peer that it is judged by."""
    pairs = itertools.product(lineup.contenders, repeat=2)
    if not any(ours.model == peer.model and comparable(ours, peer) for ours, peer in pairs):
        raise ConfigError(
            "--fail-under compares ours with peers of the same model, runtime and precision (our "
            "own runtime with any), and there are none: give --peers, or name --engines"
        )


def _below(least: float, record: Record) -> list[str]:
    """Return a line where ours is surely below `least` times a peer that it is judged by."""
    return [
        f"{found.ours.name} is {found.ratio.median:.3f} [{found.ratio.low:.3f}, "
        f"{found.ratio.high:.3f}] of {found.peer.title} ({found.protocol}), asked for is {least:g}"
        for found in comparisons(record)
        if found.is_judged and found.pairs >= FEWEST and found.ratio.high < least
    ]


# ---------------------------------------------------------------------------- results


def _check_destinations(
    arguments: argparse.Namespace, output: Path, protocols: tuple[str, ...]
) -> None:
    if os.path.lexists(output):
        raise ConfigError(f"{output}: already exists; name another --output, or remove it")
    _check_reports(arguments, output)
    check_writable(output)
    if arguments.png is not None and not {"paper", "throughput", *END_TO_END} & set(protocols):
        raise ConfigError(
            "--png draws images/s and stages: it needs the protocol paper, throughput or end-to-end"
        )
    if arguments.figure is not None and "latency" not in protocols:
        raise ConfigError("--figure draws latency: it needs the protocol latency")


def _check_reports(arguments: argparse.Namespace, record: Path) -> None:
    """Make sure that every report can be written, each to a place of its own."""
    paths = [Path(name) for name, _ in _reports(arguments)]
    for path in paths:
        check_writable(path)
    places = [os.path.realpath(path) for path in (record, *paths)]
    if len(set(places)) < len(places):
        raise ConfigError("the record and its reports need a file each: two have the same name")
    if arguments.png is not None or arguments.figure is not None:
        require_matplotlib()


def _reports(arguments: argparse.Namespace) -> list[tuple[str, Callable[[Record, Path], None]]]:
    """Return (file, its writer) for every report that was asked for."""
    return [(name, write) for flag, write in _WRITERS.items() if (name := getattr(arguments, flag))]


def _written(record: Record, output: Path) -> Path:
    """Write the record; beside a file that has come there meanwhile, not over it."""
    path, number = output, 2
    while os.path.lexists(path):
        path, number = output.with_stem(f"{output.stem}-{number}"), number + 1
    write_record(record, path)
    return path


def _write_reports(arguments: argparse.Namespace, record: Record) -> None:
    for name, write in _reports(arguments):
        write(record, Path(name))


def _show(arguments: argparse.Namespace, record: Record, path: Path) -> None:
    if arguments.json:
        print_json({"record": str(path), **record_json(record)})
        return
    print_record(record)
    files = [str(path), *(name for name, _ in _reports(arguments))]
    print_line()
    print_line(f"every value: {', '.join(files)}", flush=True)


def _report(arguments: argparse.Namespace) -> int:
    record = read_record(arguments.record)
    _check_reports(arguments, Path(arguments.record))
    _show(arguments, record, Path(arguments.record))
    _write_reports(arguments, record)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    before, after = read_record(arguments.before), read_record(arguments.after)
    comparison = compare(before, after)
    if arguments.json:
        print_json(asdict(comparison))
    else:
        print_comparison(comparison)
    lines = _worse(arguments.fail_under, comparison) if arguments.fail_under is not None else []
    for line in lines:
        print_note(line)
    return 1 if lines else 0


def _worse(least: float, comparison: RunComparison) -> list[str]:
    """Return a line where something is surely below `least` times before, or is not measured."""
    return [
        *(
            f"slower: {change.contender} ({change.protocol}) is {change.ratio.median:.3f} "
            f"[{change.ratio.low:.3f}, {change.ratio.high:.3f}] of what it was, asked for is "
            f"{least:g}"
            for change in comparison.changes
            if change.rounds >= FEWEST and change.ratio.high < least
        ),
        *(f"not measured any more: {name}" for name in comparison.only_before),
    ]
