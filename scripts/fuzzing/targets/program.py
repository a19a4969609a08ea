"""Target that runs forged programs, on NumPy and on the native engine where it loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from fuzzing.artifact_seeds import export_bases
from fuzzing.program_damage import damaged_program
from fuzzing.target import WrongAnswerError
from levit.errors import BackendUnavailableError
from levit.models.pictures import smooth_pictures
from levit.native.engine import Engine
from levit.native.interpreter import interpret
from levit.native.library import load_library
from levit.native.payload import open_payload
from levit.native.program import FLOAT32, Input, Program
from levit.native.program_file import read_program
from levit.native.widening import widened

__all__ = ["ProgramTarget"]

_PAYLOAD = "model.safetensors"
_IMAGES = 9  # more than one group of any stage
_CALIBRATION = 8
# (largest difference of float32 from float64, largest of the engine) where an answer is judged:
# next to a tie other numbers are rounded to one side or the other.
_JUDGED = {"float32": (1e-5, 1e-3), "others": (1e-2, 1e-1)}


class ProgramTarget:
    """A program that is damaged, in a file that no hash covers.

    It is refused in a line, or it can be run: the engine computes what the interpreter does.
    """

    name = "program"
    memory_bytes = 1 << 30
    seconds = 60.0

    def __init__(self) -> None:
        self._seeds: list[bytes] = []
        self._has_engine = False

    def prepare(self, folder: Path) -> None:
        pictures = folder / "pictures"
        pictures.mkdir(exist_ok=True)
        drawn = smooth_pictures(np.random.default_rng(0), _CALIBRATION, (40, 56))
        for number, pixels in enumerate(drawn):
            Image.fromarray(pixels).save(pictures / f"{number}.png")
        # --force: so few pictures tell nothing of accuracy.
        integers = ("--precision", "int8", "--calibration", str(pictures), "--force")
        bases = export_bases(
            folder,
            "native",
            {
                "halves": ("--precision", "bf16"),
                "bytes": integers,
                "pixels": (*integers, "--input", "uint8"),
            },
        )
        self._seeds = [(base / _PAYLOAD).read_bytes() for base in bases.values()]
        try:
            load_library()
        except BackendUnavailableError:
            return  # the programs are proven and interpreted all the same
        self._has_engine = True

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        return damaged_program(data)

    def attempt(self, data: bytes, folder: Path) -> Any:
        path = folder / _PAYLOAD
        path.write_bytes(data)
        with open_payload(path) as payload:
            program = read_program(payload)
            if not self._has_engine:
                return None
            engine = Engine(program, payload.read, threads=1)
            return engine.run(_pictures(program.input))

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        with open_payload(folder / _PAYLOAD) as payload:
            program = read_program(payload)
            arrays = {name: payload.read(name) for name in payload.specs}
        program = _as_it_runs(program) if self._has_engine else program
        x = _pictures(program.input)
        with np.errstate(all="ignore"):
            exact = interpret(program, arrays, x)
            single = interpret(program, arrays, x, np.float32)
        for name, expected in exact.items():
            if answer is None:
                return
            largest = np.abs(expected).max()
            judged, most = _JUDGED["float32" if _in_float32(program) else "others"]
            error = np.abs(single[name] - expected).max() / largest
            # Where float32 itself is lost, so is the engine: scores of 1e16 tie by rounding.
            if not error < judged or not 1e-4 < largest < 1e4:
                continue
            found = np.abs(answer[name] - expected).max() / largest
            if not found <= most:
                raise WrongAnswerError(f"value: {name} is off by {found:.1e}")


def _as_it_runs(program: Program) -> Program:
    library = load_library()
    halves = library.multiplies(library.chosen_isa(), "bfloat16")
    return program if halves else widened(program)


def _in_float32(program: Program) -> bool:
    return all(buffer.numbers == FLOAT32 for buffer in program.buffers)


def _pictures(source: Input) -> Any:
    rng = np.random.default_rng(0)
    if source.dtype == "uint8":
        shape = (_IMAGES, source.height, source.width, source.channels)
        return rng.integers(0, 256, shape, np.uint8)
    shape = (_IMAGES, source.channels, source.height, source.width)
    return rng.standard_normal(shape).astype(np.float32)
