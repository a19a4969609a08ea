# SPDX-License-Identifier: Apache-2.0
"""Build the wheels that a package index serves to Linux: one a machine, for every Python.

::

    pip install '.[dev]'
    python scripts/build_wheels.py --output dist                   # x86-64 and aarch64
    python scripts/build_wheels.py manylinux_2_28_aarch64          # for glibc 2.28 and newer

zig compiles for both on either, for a glibc older than this machine's. auditwheel then reads from
each wheel which machines it really runs on. Two runs give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux_2_17_aarch64")


class CannotBuildError(Exception):
    """One line: what is wrong and what to do."""


def python(*words: str, **environment: str) -> str:
    """Run this Python; its standard output."""
    line = [sys.executable, "-m", *words]
    env = {**os.environ, **environment}
    done = subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotBuildError(f"{' '.join(words)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(platform: str, output: Path) -> Path:
    """Build one wheel, and have auditwheel agree with its name."""
    about = {"LEVIT_WHEEL_PLATFORM": platform, "LEVIT_REQUIRE_NATIVE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        python("build", "--wheel", "--outdir", folder, **about)
        (wheel,) = Path(folder).glob(f"*-py3-none-{platform}.whl")
        said = " ".join(python("auditwheel", "show", str(wheel)).split())
        found = re.findall(r'consistent with the following platform tag: "(\w+)"', said)
        if found != [platform]:
            raise CannotBuildError(f"{wheel.name}: auditwheel says {said}")
        output.mkdir(parents=True, exist_ok=True)
        return wheel.replace(output / wheel.name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", help=" ".join(PLATFORMS))
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="FOLDER")
    arguments = parser.parse_args()
    try:
        for platform in arguments.platforms or PLATFORMS:
            print(build(platform, arguments.output), flush=True)
    except CannotBuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
