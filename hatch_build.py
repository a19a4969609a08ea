"""Build the CPU engine into the wheel, or where it cannot be built, a wheel of Python alone.

Environment variables:

``LEVIT_REQUIRE_NATIVE=1``
    An engine that cannot be built is an error.
``LEVIT_ZIG``
    1: compile with zig's clang, fetched from the package index; 0: never do. By default it is taken
    where the machine has no C++ compiler.
``LEVIT_WHEEL_PLATFORM``
    ``manylinux_2_17_aarch64``, say: build with zig for that machine and its glibc.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "levit/native/_levit.so"
PLATFORMS = ("linux_x86_64", "linux_aarch64")
ZIG = "ziglang>=0.15"
OLDEST_CMAKE = (3, 20)


class CannotBuildError(Exception):
    """One line: why there is no engine."""


class EngineHook(BuildHookInterface[Any]):
    """Compile for a wheel; for an editable one, into the checkout."""

    def dependencies(self) -> list[str]:
        """Packages to build with that this machine lacks."""
        if not wheel_platform() and this_platform() not in PLATFORMS:
            return []
        cmake = f"cmake>={'.'.join(map(str, OLDEST_CMAKE))}"
        needed = {ZIG: wants_zig(), cmake: lacks_cmake(), "ninja": shutil.which("ninja") is None}
        return [name for name, lacking in needed.items() if lacking]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and say in the wheel's tag which machines it is for."""
        root, editable = Path(self.root), version == "editable"
        # What is built for a wheel is read after this method has ended.
        self.work = tempfile.TemporaryDirectory(prefix="levit-build-")
        prefix = root if editable else Path(self.work.name)
        if editable:  # an older engine does not stay where the new one fails
            (root / LIBRARY).unlink(missing_ok=True)
        try:
            build(root, Path(self.work.name, "build"), prefix)
        except CannotBuildError as error:
            problem = f"the CPU engine was not built: {error}"
            if os.environ.get("LEVIT_REQUIRE_NATIVE") == "1":
                raise SystemExit(f"error: {problem}") from None
            self.app.display_warning(f"{problem}; levit is installed without it")
            return
        if not editable:
            build_data["force_include"][str(prefix / LIBRARY)] = LIBRARY
        build_data["pure_python"] = False
        # Loaded by ctypes: one for all Pythons.
        build_data["tag"] = f"py3-none-{wheel_platform() or this_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the build has left."""
        self.work.cleanup()


def this_platform() -> str:
    """As in tags of wheels; it is that of this Python, which on a 64-bit machine may be of 32."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def wheel_platform() -> str:
    """Another platform to build for, or nothing."""
    return os.environ.get("LEVIT_WHEEL_PLATFORM", "")


def wants_zig() -> bool:
    """Say if zig is to compile."""
    if wheel_platform():
        return True
    if os.environ.get("LEVIT_ZIG", "") in ("0", "1"):
        return os.environ["LEVIT_ZIG"] == "1"
    return "CXX" not in os.environ and not any(map(shutil.which, ("c++", "g++", "clang++")))


def lacks_cmake() -> bool:
    """Say if this machine has no CMake, or too old a one."""
    cmake = shutil.which("cmake")
    if cmake is None:
        return True
    said = subprocess.run([cmake, "--version"], capture_output=True, text=True).stdout
    numbers = re.findall(r"version (\d+)\.(\d+)", said)
    return not numbers or tuple(map(int, numbers[0])) < OLDEST_CMAKE


def zig_options() -> list[str]:
    """Options of CMake for zig, which compiles for the very CPU that it runs on unless told."""
    wanted = wheel_platform() or this_platform().replace("linux", "manylinux_2_17")
    found = re.fullmatch(r"manylinux_(\d+)_(\d+)_(x86_64|aarch64)", wanted)
    if not found:
        raise CannotBuildError(f"LEVIT_WHEEL_PLATFORM={wanted}: not manylinux_2_17_x86_64 or alike")
    try:
        import ziglang
    except ImportError:
        raise CannotBuildError(f"zig is missing: pip install '{ZIG}'") from None
    zig = Path(ziglang.__file__).with_name("zig")
    major, minor, machine = found.groups()
    musl = not wheel_platform() and platform.libc_ver()[0] != "glibc"
    libc = "musl" if musl else f"gnu.{major}.{minor}"
    return [
        f"-DCMAKE_CXX_COMPILER={zig};c++;-target;{machine}-linux-{libc}",
        f"-DCMAKE_SYSTEM_PROCESSOR={machine}",
        "-DCMAKE_SYSTEM_NAME=Linux",
        # To try to link a program, zig would first compile the library of C++, which is not used.
        "-DCMAKE_CXX_COMPILER_ID_TEST_FLAGS_FIRST=-c",
        "-DCMAKE_CXX_COMPILER_WORKS=ON",
        "-DCMAKE_CXX_ABI_COMPILED=ON",
    ]


def build(root: Path, folder: Path, prefix: Path) -> None:
    """Compile in `folder` and install below `prefix`."""
    if not wheel_platform() and this_platform() not in PLATFORMS:
        known = "Linux on x86-64 and aarch64"
        raise CannotBuildError(f"it is for {known}, and this is {this_platform()}")
    caches = {name: str(folder / "zig") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
    options = zig_options() if wants_zig() else []
    for line in (
        ["cmake", "-G", "Ninja", "-S", str(root), "-B", str(folder), *options],
        ["cmake", "--build", str(folder)],
        ["cmake", "--install", str(folder), "--prefix", str(prefix)],
    ):
        try:
            done = subprocess.run(line, env={**caches, **os.environ}, stdout=sys.stderr)
        except OSError as error:
            raise CannotBuildError(f"cmake: {error}") from error
        if done.returncode != 0:
            raise CannotBuildError(f"{' '.join(line[:2])} failed with status {done.returncode}")
