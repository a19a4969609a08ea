"""The compiled library: found beside this package, loaded once, asked for its instruction sets."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from levit.errors import BackendUnavailableError, ConfigError, brief
from levit.native.abi import ABI, DTYPES, declare

__all__ = ["INSTALL", "Library", "load_library"]

_FILE: Final = "_levit.so"
# Another library than the one that is installed, for sanitizers and other builds.
_NAMED_BY: Final = "LEVIT_NATIVE_LIBRARY"
_ISA_NAMED_BY: Final = "LEVIT_NATIVE_ISA"
# In a clone: levit is on no index.
INSTALL: Final = "pip install --force-reinstall --no-deps ."
# Python that is started in a clone takes levit from there, whatever has been installed.
_INSTALL_IN_CLONE: Final = "LEVIT_REQUIRE_NATIVE=1 pip install --no-deps -e ."
# Numbers of CPUs in an ELF file.
_MACHINES: Final = {"x86_64": 62, "aarch64": 183}


class Library:
    """The engine's functions.

    ::

        library = load_library()
        library.isas            # ("avx512", "avx2", "portable")

    Attributes:
        functions: the library itself, with typed functions.
        isas: instruction sets that this CPU has, the best first.
    """

    def __init__(self, functions: ctypes.CDLL) -> None:
        self.functions = functions
        self._names = [
            functions.levit_isa_name(number).decode()
            for number in range(functions.levit_isa_count())
        ]
        self.isas = tuple(
            name for number, name in enumerate(self._names) if functions.levit_isa_usable(number)
        )

    def chosen_isa(self) -> str:
        """The best instruction set here, or the one that ``LEVIT_NATIVE_ISA`` names.

        Raises:
            ConfigError: this CPU or this build does not have it.
        """
        name = os.environ.get(_ISA_NAMED_BY) or self.isas[0]
        if name not in self.isas:
            raise ConfigError(
                f"{_ISA_NAMED_BY}={name}: not on this machine; there are: {', '.join(self.isas)}"
            )
        return name

    def number(self, isa: str) -> int:
        """The number of an instruction set in the library's own order."""
        return self._names.index(isa)

    def peak(self, isa: str, seconds: float = 0.2, dtype: str = "float32") -> float:
        """Measure what one thread reaches in registers alone, in FLOP/s: a multiply-add is two.

        Args:
            dtype: of the numbers that are multiplied.

        Raises:
            ConfigError: the instruction set does not multiply them.
        """
        if not self.multiplies(isa, dtype):
            raise ConfigError(f"{isa} has no products of {dtype}")
        number = self.number(isa), DTYPES.index(dtype)
        return float(self.functions.levit_isa_peak(*number, seconds))

    def multiplies(self, isa: str, dtype: str) -> bool:
        """Tell whether an instruction set multiplies such numbers; all do float32 and uint8."""
        return bool(self.functions.levit_isa_multiplies(self.number(isa), DTYPES.index(dtype)))


def load_library() -> Library:
    """Load the library, once in a process.

    Raises:
        BackendUnavailableError: it is not there, or does not load; says why, and what to do.
    """
    return _load(os.environ.get(_NAMED_BY) or _beside_this_package())


def _beside_this_package() -> str:
    """Find the library: in an editable install it lies elsewhere than this file."""
    spec = find_spec("levit.native")
    folders = (spec.submodule_search_locations if spec else None) or ()
    for folder in folders:
        path = Path(folder) / _FILE
        if path.is_file():
            return str(path)
    return ""


@cache
def _load(path: str) -> Library:
    if not path:
        clone = Path(__file__).parents[2]
        if (clone / "CMakeLists.txt").is_file():
            raise BackendUnavailableError(
                f"Python takes levit from the clone {clone}, in which no native engine has been "
                f"compiled: {_INSTALL_IN_CLONE}"
            )
        raise BackendUnavailableError(
            f"this installation of levit has no native engine, which is compiled on Linux (here is "
            f"{sys.platform}): {INSTALL}"
        )
    try:
        if Path(path).is_file():
            _require_loadable(Path(path).read_bytes())
        functions = ctypes.CDLL(path)
        declare(functions)
    except (OSError, AttributeError, ValueError) as error:
        raise BackendUnavailableError(
            f"the native engine cannot be loaded ({brief(error)}): {INSTALL}"
        ) from error
    if functions.levit_abi() != ABI:
        raise BackendUnavailableError(
            f"the native engine is of another release than this package ({path}): {INSTALL}"
        )
    return Library(functions)


def _require_loadable(library: bytes) -> None:
    """Raise ``ValueError`` for a library that ends the process when it is loaded, or unexplained.

    The system maps the segments that an ELF file lists without asking whether the file reaches so
    far, and of one for another CPU it says that there is no such file. Source: elf(5).
    """
    if library[:5] != b"\x7fELF\x02":
        return  # which the system says well
    try:
        (machine,) = struct.unpack_from("<H", library, 18)
        (table,) = struct.unpack_from("<Q", library, 32)
        entry, count = struct.unpack_from("<HH", library, 54)
        places = [table + entry * i for i in range(count)]
        segments = [struct.unpack_from("<8xQ16xQ", library, place) for place in places]
    except struct.error:
        raise ValueError("it is cut short") from None
    if machine != _MACHINES.get(platform.machine(), machine):
        raise ValueError(f"it is built for another CPU than {platform.machine()}")
    if any(offset + size > len(library) for offset, size in segments):
        raise ValueError("it is cut short")
