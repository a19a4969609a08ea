# SPDX-License-Identifier: Apache-2.0
"""Measure what somebody meets before the first answer: the install, ``--help``, an export.

::

    python scripts/measure_install.py processes    # whole processes, from fork to exit
    python scripts/measure_install.py size         # the bytes of a fresh runtime install

Answers and their speed are measured by ``levit bench`` (``--protocol latency,cold-start --peers``).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from levit.benchmarks.intervals import median_interval
from levit.export.timing import in_turns


def run_processes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time processes in turns; the first round fills the page cache, and does not count."""
    levit = [sys.executable, "-m", "levit"]
    export = ["export", "--model", arguments.model, "--random-weights", "0", "--output", "out"]
    commands = {
        f"levit export --model {arguments.model}": [*levit, *export],
        "levit --help": [*levit, "--help"],
        "import numpy (part of both)": [sys.executable, "-c", "import numpy"],
    }
    seconds: dict[str, list[float]] = {title: [] for title in commands}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number, title in in_turns(list(commands), arguments.rounds + 1, rng):
            shutil.rmtree(Path(folder) / "out", ignore_errors=True)
            started = time.perf_counter()
            subprocess.run(commands[title], check=True, capture_output=True, cwd=folder)
            if number:
                seconds[title].append(time.perf_counter() - started)
    for title, values in seconds.items():
        median, low, high = median_interval(values)
        print(f"{title:32} {median:6.3f} s  [{low:.3f}, {high:.3f}]  fastest {min(values):.3f}")
    return {"seconds": seconds}


def run_size(arguments: argparse.Namespace) -> dict[str, Any]:
    """Install the package without extras in a fresh environment and add up its bytes."""
    with tempfile.TemporaryDirectory() as name:
        environment = Path(name) / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        before = bytes_in(environment)
        pip = [str(environment / "bin" / "python"), "-m", "pip"]
        subprocess.run([*pip, "install", "-q", arguments.source], check=True)
        listed = subprocess.run(
            [*pip, "list", "--format=freeze"], check=True, capture_output=True, text=True
        ).stdout.split()
        total = bytes_in(environment) - before
        parts = {
            path.name: bytes_in(path)
            for path in environment.glob("lib/python*/site-packages/*")
            if path.is_dir() and path.name != "pip"
        }
    for part, size in sorted(parts.items(), key=lambda item: -item[1])[:12]:
        print(f"{part:40} {size / 1e6:8.1f} MB")
    print(f"{'all that was installed':40} {total / 1e6:8.1f} MB")
    return {"total_bytes": total, "packages": listed, "bytes": parts}


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder; a link counts as itself."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every raw value to this file")
    commands = parser.add_subparsers(dest="command", required=True)
    processes = commands.add_parser("processes")
    processes.add_argument("--model", default="levit_128s")
    processes.add_argument("--rounds", type=int, default=9)
    size = commands.add_parser("size")
    size.add_argument("--source", default=".", help="what pip installs (default: this clone)")
    arguments = parser.parse_args()
    run = {"processes": run_processes, "size": run_size}
    results = run[arguments.command](arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
