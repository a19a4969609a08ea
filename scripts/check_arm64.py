# SPDX-License-Identifier: Apache-2.0
"""Run artifacts on the aarch64 wheels of the runtime, in an emulated arm64 Debian: are they right?

Run as root on a Linux machine of another architecture that reaches Debian's mirror and PyPI::

    apt-get install mmdebstrap qemu-user-static
    pip install '.[export]'
    python scripts/check_arm64.py                            # the five sizes, and levit_digits
    python scripts/check_arm64.py --cpu cortex-a72 --cpu max --json report.json
    python scripts/check_arm64.py levit_128s-onnx-fp32       # an artifact of yours
    python scripts/build_wheels.py manylinux_2_17_aarch64    # our own engine, compiled for aarch64
    python scripts/check_arm64.py --wheel dist/levit-*_aarch64.whl
    python scripts/check_arm64.py --wheel dist/… ARTIFACT --tests tests/native/test_isas.py

The first run unpacks Debian's Python for arm64 and the aarch64 wheels of NumPy, Pillow and ONNX
Runtime, in the versions that this machine has, into ``--tree`` (about 220 MB, half a minute); later
runs need no network (delete the folder for newer packages of Debian). In it, under qemu: ``levit
check`` and ``levit predict`` of each artifact, and its outputs for its golden inputs and for a
JPEG, which must be this machine's within the artifact's tolerance, with the same first classes and
the same preprocessing. With ``--tests`` pytest runs tests of this checkout there too, on every CPU
that ``--cpu`` names, with the engine in the wheel: plain NEON on a cortex-a72, dot products on a
neoverse-n1, 8-bit and bfloat16 matrices on max.

**It is about right and wrong only. Under emulation times mean nothing, and none are printed.** To
measure, copy the artifacts to a machine with an Arm CPU and measure there.

All mounts are made in a mount namespace of the emulated process's own, and it ends with the script:
however that ends, nothing stays mounted. Exit status 1 if anything differs or cannot be run.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import levit
from levit.errors import LevitError
from levit.export import ExportOptions, export
from levit.models.pictures import smooth_pictures
from levit.runtime.golden import compare_outputs

MODELS = ("levit_128s", "levit_128", "levit_192", "levit_256", "levit_384", "levit_digits")

SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = ("numpy", "pillow", "onnxruntime")
TEST_PACKAGES = ("pytest", "hypothesis", "onnx", "safetensors", "scipy")  # what tests import
# Tags of these wheels, now and before, that pip takes on Debian 12 (glibc 2.36).
WHEEL_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")

# Each command and the Debian package that it is in.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "chroot": "coreutils",
}

# qemu shows this machine's /proc/cpuinfo to the emulated process, where ONNX Runtime looks for an
# Arm CPU's: not finding it, it takes its plainest kernels. So it is shown one of the CPU emulated:
# (implementer, part, features), as Linux writes them.
_ARMV8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_ARMV8_2 = f"{_ARMV8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
CPUS = {
    "cortex-a72": ("0x41", "0xd08", _ARMV8),
    "neoverse-n1": ("0x41", "0xd0c", _ARMV8_2),
    "max": ("0x00", "0x051", f"{_ARMV8_2} sve sve2 i8mm bf16"),
}

# An emulated process that has not answered by then hangs.
LIMIT_S = 600

OF_NO_MEANING = "times under emulation mean nothing: none are given"

# Run alike on both sides. JSON keeps float32 to the last bit.
OUTPUTS = """
import hashlib, json, platform, sys
from importlib import metadata
import numpy as np
from levit import Predictor
artifact, picture = sys.argv[1:]
with Predictor(artifact, prove=False) as predictor, np.load(artifact + "/golden.npz") as golden:
    tensor = predictor.preprocess([picture])
    outputs = {"golden": predictor.forward(golden["input"]), "picture": predictor.forward(tensor)}
json.dump({
    "machine": platform.machine(),
    "python": platform.python_version(),
    "glibc": platform.libc_ver()[1],
    "versions": {name: metadata.version(name) for name in ("numpy", "pillow", "onnxruntime")},
    "tensor_sha256": hashlib.sha256(tensor.tobytes()).hexdigest(),
    "outputs": {on: {name: values.tolist() for name, values in found.items()}
                for on, found in outputs.items()},
}, sys.stdout)
"""

# $1 is the tree; then pairs of a source and where it is mounted in the tree, up to --; then what is
# run in it.
ENTER = """
set -e
tree=$1; shift
mount -t proc proc "$tree/proc"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$tree$2"; else [ -e "$tree$2" ] || touch "$tree$2"; fi
    mount --bind -o ro "$1" "$tree$2"
    shift 2
done
shift
exec env -i PATH=/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 PYTHONPATH=/opt/packages:/opt/checkout \
    LEVIT_REQUIRE_NATIVE=1 LEVIT_TEST_ISAS="$LEVIT_TEST_ISAS" PYTHONPYCACHEPREFIX=/tmp/bytecode \
    "$(command -v chroot)" "$tree" "$@"
"""
# Killed with the script, and all that runs in the namespaces with it.
APART = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
)

QEMU, CPUINFO, ARTIFACT, PICTURE = "/opt/qemu", "/proc/cpuinfo", "/opt/artifact", "/opt/picture.jpg"
CHECKOUT = "/opt/checkout"


class CannotRunError(Exception):
    """One line: what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One artifact on one emulated CPU. Differences are max|difference| / max|reference|.

    Attributes:
        golden_error, host_golden_error: from the float64 reference there, and here.
        host_difference: of the outputs there from those here, for golden inputs and picture.
        same_top1: the same first class for all of them, and in `levit predict`.
        same_tensor: what preprocessing makes of pictures is the same to the last bit.
        there: machine, and versions of what ran on it.
    """

    name: str
    cpu: str
    passed: bool
    golden_error: float | None = None
    host_golden_error: float | None = None
    host_difference: float | None = None
    tolerance: float | None = None
    same_top1: bool | None = None
    same_tensor: bool | None = None
    there: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


# ------------------------------------------------------------------------- what it takes


def obstacle(
    system: str, machine: str, user_id: int, which: Callable[[str], str | None]
) -> str | None:
    """Reason that it cannot run on such a machine, and what to do; None if it can."""
    if system != "Linux":
        return f"qemu's user-mode emulation and mount namespaces are Linux's, and this is {system}"
    if machine in ("aarch64", "arm64"):
        return "this machine is an aarch64 one itself: run levit check ARTIFACT directly"
    missing = [tool for tool in TOOLS if which(tool) is None]
    if missing:
        packages = " ".join(dict.fromkeys(TOOLS[tool] for tool in missing))
        verb = "is" if len(missing) == 1 else "are"
        return f"{', '.join(missing)} {verb} missing: apt-get install {packages}"
    if user_id != 0:
        return "only root may mount and chroot: run it with sudo, or in a container"
    return None


def ended(
    line: list[str], problem: str, *, capture: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run it to its end. Not to end in LIMIT_S is a problem too."""
    try:
        return subprocess.run(line, capture_output=capture, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise CannotRunError(f"{problem}: no answer in {LIMIT_S} s, so it was ended") from None
    except OSError as error:
        raise CannotRunError(f"{problem}: {error}") from error


def command(line: list[str], problem: str) -> str:
    """Run it; its standard output."""
    done = ended(line, problem)
    # An artifact out of tolerance has a status of 1 too, and is a report.
    reported = done.returncode == 1 and done.stdout.startswith("{")
    if done.returncode != 0 and not reported:
        raise CannotRunError(f"{problem}: {reason(done.stderr) or f'status {done.returncode}'}")
    return done.stdout


def reason(text: str) -> str:
    """The line of a standard error that says why: the last that says error, or else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [n for n in lines if n.lower().startswith(("error:", "e:", "qemu:"))]
    return (marked or lines or [""])[-1]


# ------------------------------------------------------------------------- the tree


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time builds in `folder`; the kernel lets go when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made whole or not at all; what a killed run has left half made is swept first."""
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            make(part)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def unpack_debian(folder: Path) -> None:
    """Debian's packages, unpacked: no maintainer script runs, so no binfmt_misc is needed."""
    print(f"unpacking Debian {SUITE} for arm64", flush=True)
    build = ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", "--architectures=arm64"]
    include = "--include=base-files,python3,libstdc++6"
    line = [*APART, "--mount-proc", *build, include, SUITE, str(folder)]
    command(line, f"Debian {SUITE} for arm64 cannot be unpacked")
    for name in ("proc", "tmp", "opt"):
        (folder / name).mkdir(exist_ok=True)


def unpack_wheels(folder: Path, versions: Mapping[str, str]) -> None:
    """Unpack the wheels that pip would install on aarch64, in these versions."""
    names = [f"{name}=={version}" for name, version in versions.items()]
    print(f"unpacking the aarch64 wheels of {', '.join(names)}", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    tags = [f"--platform={platform}_aarch64" for platform in WHEEL_PLATFORMS]
    about = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    with tempfile.TemporaryDirectory() as wheels:
        command(
            [*pip, *tags, *about, f"--dest={wheels}", *names],
            f"no aarch64 wheels for Python {PYTHON} of the versions that this machine has",
        )
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)


def unpacked_levit(wheel: Path | None, work: Path) -> Path:
    """The package in a wheel; without one that of this process, whose engine is not for aarch64."""
    if wheel is None:
        return Path(levit.__file__).parent
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "wheel")
    return work / "wheel" / "levit"


def cpuinfo(cpu: str) -> str:
    """/proc/cpuinfo of a machine with as many of these CPUs as this one has."""
    implementer, part, features = CPUS[cpu]
    return "".join(
        f"processor\t: {number}\nBogoMIPS\t: 100.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {part}\nCPU revision\t: 0\n\n"
        for number in range(os.cpu_count() or 1)
    )


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Folders that are mounted: Debian, the wheels of others, and levit."""

    debian: Path
    packages: Path
    levit: Path


def emulated_python(trees: Trees, cpu: str, work: Path, more: Mapping[str, Path]) -> list[str]:
    """The command line of Python in the tree, with the wheels, levit and more that is mounted."""
    mounts = {
        QEMU: Path(shutil.which("qemu-aarch64-static") or ""),
        CPUINFO: work / f"{cpu}.cpuinfo",
        "/opt/packages": trees.packages,
        f"{CHECKOUT}/levit": trees.levit,
        **more,
    }
    pairs = [word for at, source in mounts.items() for word in (str(source.resolve()), at)]
    enter = ["sh", "-c", ENTER, "sh", str(trees.debian.resolve()), *pairs, "--"]
    return [*APART, *enter, QEMU, "-cpu", cpu, "/usr/bin/python3"]


# ------------------------------------------------------------------------- comparing


def answers(python: list[str], artifact: str, picture: str) -> dict[str, Any]:
    """Answers of one side: of `levit check`, `levit predict`, and its outputs."""
    lines = {
        "check": ["-m", "levit", "check", "--json", artifact],
        "predict": ["-m", "levit", "predict", "--json", artifact, picture],
        "outputs": ["-c", OUTPUTS, artifact, picture],
    }
    return {name: json.loads(command([*python, *line], name)) for name, line in lines.items()}


def compare(name: str, cpu: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Result:
    """The verdict on what the two sides have said."""
    difference, same_top1 = 0.0, True
    for on, expected in here["outputs"]["outputs"].items():
        sides = (there["outputs"]["outputs"][on], expected)
        arrays = ({k: np.array(v, np.float32) for k, v in side.items()} for side in sides)
        relative, _, agreement = compare_outputs(*arrays)
        difference = max(difference, relative)
        same_top1 = same_top1 and agreement in (None, 1.0)
    first = [side["predict"][0]["top"][0]["index"] for side in (there, here)]
    same_top1 = same_top1 and first[0] == first[1]
    tensors = [side["outputs"]["tensor_sha256"] for side in (there, here)]
    same_tensor = tensors[0] == tensors[1] and not there["check"]["preprocessing_error"]
    tolerance = here["check"]["tolerance"]
    about = {k: there["outputs"][k] for k in ("machine", "python", "glibc", "versions")}
    emulated = about["machine"] == "aarch64"
    proven = there["check"]["passed"] and here["check"]["passed"] and difference <= tolerance
    return Result(
        name=name,
        cpu=cpu,
        passed=proven and same_top1 and same_tensor and emulated,
        golden_error=there["check"]["max_relative_error"],
        host_golden_error=here["check"]["max_relative_error"],
        host_difference=difference,
        tolerance=tolerance,
        same_top1=same_top1,
        same_tensor=same_tensor,
        there=about,
        problem="" if emulated else f"it ran on {about['machine']}, not on aarch64",
    )


def line_of(result: Result) -> str:
    begin = f"{'ok  ' if result.passed else 'FAIL'} {result.name} on {result.cpu}: "
    if result.golden_error is None:
        return begin + result.problem
    top1 = "the same" if result.same_top1 else "NOT the same"
    tensor = "the same" if result.same_tensor else "NOT the same"
    return begin + (
        f"{result.golden_error:.1e} from float64 ({platform.machine()}: "
        f"{result.host_golden_error:.1e}), {result.host_difference:.1e} from "
        f"{platform.machine()}; top-1 {top1}, preprocessing {tensor}"
        f"{result.problem and '; '}{result.problem}"
    )


# ------------------------------------------------------------------------- running


def artifacts(named: list[Path], target: str, work: Path) -> Iterator[Path]:
    """Artifacts that the user has named, or else one of each model, exported in its turn."""
    yield from named
    for model in () if named else MODELS:
        seed = None if model == "levit_digits" else 0
        options = ExportOptions(
            model=model, target=target, random_weights=seed, output=work / model
        )
        yield export(options).path


def check(trees: Trees, cpus: list[str], work: Path, artifact: Path) -> Iterator[Result]:
    """One result for each CPU."""
    name = artifact.resolve().name
    try:
        here = answers([sys.executable], str(artifact), str(work / "picture.jpg"))
    except CannotRunError as error:
        yield Result(name=name, cpu="this machine", passed=False, problem=str(error))
        return
    mounts = {ARTIFACT: artifact, PICTURE: work / "picture.jpg"}
    for cpu in cpus:
        try:
            there = answers(emulated_python(trees, cpu, work, mounts), ARTIFACT, PICTURE)
        except CannotRunError as error:
            yield Result(name=name, cpu=cpu, passed=False, problem=str(error))
        else:
            yield compare(name, cpu, there, here)


def tests_pass(trees: Trees, cpu: str, work: Path, tests: list[str]) -> bool:
    """Run tests of this checkout in the tree; pytest prints what it finds."""
    root = Path(__file__).resolve().parents[1]
    mounts = {f"{CHECKOUT}/{name}": root / name for name in ("tests", "pyproject.toml")}
    python = emulated_python(trees, cpu, work, mounts)
    print(f"tests on {cpu}:", flush=True)
    named = [f"{CHECKOUT}/{test}" for test in tests]
    line = [*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *named]
    return ended(line, "tests", capture=False).returncode == 0


def run(arguments: argparse.Namespace, work: Path) -> int:
    command([*APART, "true"], "this root may not mount (in a container: start it --privileged)")
    names = (*PACKAGES, *(TEST_PACKAGES if arguments.tests else ()))
    versions = {name: metadata.version(name) for name in names}
    key = "-".join(f"{name}-{version}" for name, version in versions.items())
    with locked(arguments.tree):
        trees = Trees(
            debian=made(arguments.tree / f"debian-{SUITE}", unpack_debian),
            packages=made(arguments.tree / key, lambda part: unpack_wheels(part, versions)),
            levit=unpacked_levit(arguments.wheel, work),
        )
    qemu = command(["qemu-aarch64-static", "--version"], "qemu").splitlines()[0]
    print(f"{qemu}; Debian {SUITE}; {', '.join(f'{n} {v}' for n, v in versions.items())}")
    print(OF_NO_MEANING, flush=True)
    pixels = smooth_pictures(np.random.default_rng(0), 1, (375, 500))[0]
    Image.fromarray(pixels).save(work / "picture.jpg", quality=90)
    cpus = list(dict.fromkeys(arguments.cpu or ["neoverse-n1"]))
    for cpu in cpus:
        (work / f"{cpu}.cpuinfo").write_text(cpuinfo(cpu))
    # This side's levit is the one that this process has.
    os.environ["PYTHONPATH"] = str(Path(levit.__file__).parents[1])
    tested = [tests_pass(trees, cpu, work, arguments.tests) for cpu in cpus if arguments.tests]
    results = []
    target = "native" if arguments.wheel else "onnx"
    for artifact in artifacts(arguments.artifacts, target, work):
        for result in check(trees, cpus, work, artifact):
            results.append(result)
            print(line_of(result), flush=True)
    passed = sum(result.passed for result in results)
    if arguments.json:
        about = {"qemu": qemu, "debian": SUITE, "host": platform.machine(), "times": OF_NO_MEANING}
        report = {**about, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{passed} of {len(results)} answer on aarch64 as here; {OF_NO_MEANING}")
    return 0 if all(tested) and passed == len(results) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("artifacts", nargs="*", type=Path, metavar="ARTIFACT")
    parser.add_argument("--cpu", action="append", choices=CPUS, help="default: neoverse-n1")
    about = "levit in a wheel for aarch64; models are then exported to its engine"
    parser.add_argument("--wheel", metavar="FILE", type=Path, help=about)
    about = "tests to run there, as pytest names them from the checkout's root"
    parser.add_argument("--tests", nargs="+", metavar="TEST", default=[], help=about)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report there too")
    cache = Path.home() / ".cache" / "levit" / "arm64"
    parser.add_argument("--tree", type=Path, default=cache, metavar="FOLDER")
    arguments = parser.parse_args()
    for path in arguments.artifacts:
        if not (path / "manifest.json").is_file():
            parser.error(f"{path}: not an artifact, it holds no manifest.json")
    if arguments.wheel and not arguments.wheel.name.endswith("_aarch64.whl"):
        parser.error(f"{arguments.wheel}: not a wheel for aarch64")
    if arguments.tests and not arguments.wheel:
        parser.error("--tests: of the engine in a wheel, so name one with --wheel")
    # SIGTERM as Ctrl-C: running commands are ended, and temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        problem = obstacle(platform.system(), platform.machine(), os.geteuid(), shutil.which)
        if problem:
            raise CannotRunError(problem)
        with tempfile.TemporaryDirectory() as work:
            return run(arguments, Path(work))
    except (CannotRunError, LevitError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
