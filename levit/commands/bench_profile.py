"""``levit bench --profile``: the steps of a native artifact, or of a model exported for it."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from levit.benchmarks.lineup import SIZES
from levit.benchmarks.profile import Profile, measure_profile
from levit.benchmarks.report.figures import figure, percent_text
from levit.benchmarks.report.profile_page import kinds_table, steps_table, write_profile_page
from levit.commands.bench_tables import print_one_table
from levit.commands.output import print_json, print_line
from levit.commands.progress import Progress
from levit.errors import ConfigError
from levit.models.registry import DIGITS
from levit.runtime.cpus import available_cpus
from levit.whole_file import check_writable

__all__ = ["run_profile"]

_SECONDS: Final = 2.0
# Options that a profile has no use for, and what they are without being typed.
_OTHERS: Final = (
    *("peers", "engines", "protocol", "quick", "rounds", "photos", "no_cache", "output"),
    *("png", "csv", "markdown", "fail_under"),
)


def run_profile(arguments: argparse.Namespace) -> int:
    """Time the steps, print two tables or JSON, and write the page that was asked for."""
    _refuse_others(arguments)
    if arguments.report is not None:
        check_writable(Path(arguments.report))
    with _artifact(arguments) as (name, folder), Progress() as progress:
        progress(f"timing the steps of {name}")
        profile = measure_profile(
            folder,
            model=name,
            batch=arguments.batch or 1,
            threads=arguments.threads or available_cpus(),
            seconds=arguments.seconds or _SECONDS,
        )
    if arguments.json:
        print_json(asdict(profile))
    else:
        _print(profile)
    if arguments.report is not None:
        write_profile_page(profile, arguments.report)
    return 0


def _refuse_others(arguments: argparse.Namespace) -> None:
    if arguments.device == "gpu" or set(arguments.precision or ["fp32"]) != {"fp32"}:
        raise ConfigError("--profile times the native engine, which computes on CPUs in fp32")
    for name in _OTHERS:
        if getattr(arguments, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} is not for --profile: leave one of them out")
    if len(arguments.models or ()) + len(arguments.artifact) > 1:
        raise ConfigError("--profile is of one network: name one --model or one --artifact")


@contextmanager
def _artifact(arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """(name, folder) of the artifact, or of a model's with weights that are drawn."""
    if arguments.artifact:
        folder = Path(arguments.artifact[0])
        yield folder.resolve().name, folder
        return
    # Not at the top: artifacts are timed where nothing can be exported.
    from levit.export import ExportOptions, export

    (model,) = arguments.models or SIZES[:1]
    with tempfile.TemporaryDirectory(prefix="levit-bench-") as name:
        with Progress() as progress:
            progress(f"preparing {model}")
            artifact = export(
                ExportOptions(
                    model=model,
                    random_weights=None if model == DIGITS else arguments.seed,
                    target="native",
                    output=Path(name) / "artifact",
                )
            )
        yield model, artifact.path


def _print(profile: Profile) -> None:
    print_one_table(steps_table(profile))
    print_one_table(kinds_table(profile))
    whole = profile.whole
    peaks = ", ".join(f"{dtype} {figure(peak / 1e9)}" for dtype, peak in profile.peaks.items())
    print_line(
        f"{profile.model}, batch {profile.batch}, {profile.threads} "
        f"thread{'' if profile.threads == 1 else 's'}, {profile.isa}: "
        f"{figure(1e3 * whole.seconds)} ms, {figure(whole.flop_per_s / 1e9)} GFLOP/s, "
        f"{percent_text(whole.peak_fraction)} of the register peak ({peaks} GFLOP/s)"
    )
