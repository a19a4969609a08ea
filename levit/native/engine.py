"""Engines: a checked program with its weights packed for this CPU, run by any number of threads."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import CorruptArtifactError, ResourceError
from levit.native.abi import (
    ACTIVATIONS,
    ALONE,
    DTYPES,
    KINDS,
    NO_MEMORY,
    PIXELS,
    CBuffer,
    CInput,
    CProgram,
    CStep,
    CView,
)
from levit.native.library import Library, load_library
from levit.native.program import (
    Attention,
    Conv,
    Input,
    LayerNorm,
    Linear,
    Output,
    Patches,
    Program,
    Project,
    Rows,
    Stack,
    Step,
    Subsample,
    View,
)
from levit.native.widening import widened, widened_array

__all__ = ["Engine"]

Arrays = Callable[[str], NDArray[Any]]

_NO_VIEW: Final = CView(-1, 0, 0)


class Engine:
    """A program on this CPU.

    ::

        engine = Engine(program, arrays.__getitem__, threads=2)
        engine.run(images)["logits"]            # (B, classes) float32

    Its methods may be called from many threads at once: those that come while its own threads work
    compute on theirs. After a fork it works in the child, with threads of the child's own.

    Attributes:
        isa: the instruction set that it uses.
        program: as it runs: of one in bfloat16, on a CPU without products of that, in float32.

    Args:
        program: which has passed `levit.native.check`: nothing is checked again.
        arrays: gives each array by name, contiguous and of the dtype that the program says; asked
            for one at a time.
        threads: that work on one batch.
        isa: an instruction set of the library; None for `Library.chosen_isa`. One without products
            of bfloat16 computes in float32 what is bfloat16 in the program.

    Raises:
        BackendUnavailableError: the library does not load.
        ResourceError: there is no memory for the weights, or the system gives no more threads.
        CorruptArtifactError: a weight is not a finite number.
    """

    def __init__(
        self, program: Program, arrays: Arrays, *, threads: int, isa: str | None = None
    ) -> None:
        library = load_library()
        self.isa = library.chosen_isa() if isa is None else isa
        self.threads = threads
        if not library.multiplies(self.isa, "bfloat16"):
            program, arrays = widened(program), widened_array(arrays)
        self.program = program
        self._functions = library.functions
        self._outputs = [step for step in program.steps if isinstance(step, Output)]
        self._handle = _opened(library, self.isa, program, threads)
        self._close = weakref.finalize(self, self._functions.levit_close, self._handle)
        # The interpreter's end ends the threads, which wait and hold nothing.
        self._close.atexit = False
        _pack(self._functions, self._handle, program, arrays)
        self._raise(self._functions.levit_start(self._handle))

    def run(
        self, batch: NDArray[Any], *, pixels: bool = False, alone: bool = False
    ) -> dict[str, NDArray[np.float32]]:
        """Compute all outputs of a batch: (B, …) of the program's input, contiguous, any B.

        Args:
            pixels: the batch is (B, H, W, C) uint8, by `set_tables`; the outputs are, to the last
                bit, those of planes of the numbers in them.
            alone: compute on the calling thread alone, which others may do at the same time.

        Raises:
            ResourceError: there is no memory for it.
        """
        outputs, addresses = self._allocate(len(batch))
        status = self._functions.levit_run(
            self._handle,
            batch.ctypes.data,
            len(batch),
            ctypes.addressof(addresses),
            PIXELS * pixels + ALONE * alone,
        )
        if status:
            self._raise(status)
        return outputs

    def set_tables(self, tables: NDArray[np.float32]) -> None:
        """Take pixels too, from now on, where the program takes planes of up to four channels.

        Args:
            tables: (C, 256), the number that each byte of a channel stands for.
        """
        tables = np.ascontiguousarray(tables, np.float32)
        self._functions.levit_set_tables(self._handle, tables.ctypes.data)

    def profile(self, batch: NDArray[Any]) -> list[float]:
        """Run a batch with all threads together; seconds that each step took, in their order."""
        seconds = np.zeros(len(self.program.steps))
        _, addresses = self._allocate(len(batch))
        self._raise(
            self._functions.levit_profile(
                self._handle,
                batch.ctypes.data,
                len(batch),
                ctypes.addressof(addresses),
                seconds.ctypes.data,
            )
        )
        return [float(value) for value in seconds]

    def _allocate(self, images: int) -> tuple[dict[str, NDArray[np.float32]], Any]:
        try:
            outputs = {
                step.name: np.empty((images, *step.shape), np.float32) for step in self._outputs
            }
        except MemoryError as error:
            raise _no_memory() from error
        addresses = (ctypes.c_void_p * len(outputs))(
            *[array.ctypes.data for array in outputs.values()]
        )
        return outputs, addresses

    def _raise(self, status: int) -> None:
        if status == NO_MEMORY:
            raise _no_memory()
        if status:
            raise ResourceError(
                f"the system gives the native engine no {self.threads} threads: ask for fewer"
            )


def _no_memory() -> ResourceError:
    return ResourceError(
        "there is not enough memory for the native engine: take smaller batches, or fewer threads"
    )


def _opened(library: Library, isa: str, program: Program, threads: int) -> int:
    source = program.input
    buffers = (CBuffer * len(program.buffers))(
        *[
            CBuffer(
                *(b.rows, b.columns, b.stride * b.numbers.itemsize, b.offset, b.carried),
                *(b.grid or (0, 0)),
                *(DTYPES.index(b.numbers.dtype), b.numbers.inverse_scale, b.numbers.zero_point),
            )
            for b in program.buffers
        ]
    )
    outputs = 0
    steps = (CStep * len(program.steps))()
    for i, step in enumerate(program.steps):
        steps[i] = _step(step)
        if isinstance(step, Output):
            steps[i].output = outputs
            outputs += 1
    c_program = CProgram(
        input=_input(source),
        buffers=len(buffers),
        steps=len(steps),
        stages=program.steps[-1].stage + 1,
        buffer=buffers,
        step=steps,
    )
    handle = library.functions.levit_open(ctypes.byref(c_program), library.number(isa), threads)
    if not handle:
        raise _no_memory()
    return int(handle)


def _input(source: Input) -> CInput:
    numbers = source.numbers
    border = source.border
    if border is None:
        border = (numbers.zero_point,) * min(source.channels, 4)
    return CInput(
        source.dtype == "uint8",
        *(source.channels, source.height, source.width),
        DTYPES.index(numbers.dtype),
        source.border is not None,
        int.from_bytes(bytes(border), "little"),
        numbers.inverse_scale,
        numbers.zero_point,
    )


def _step(step: Step) -> CStep:
    values = CStep(
        kind=KINDS.index(type(step).__name__),
        stage=step.stage,
        activation=ACTIVATIONS.index(getattr(step, "activation", None)),
        source=_number(getattr(step, "source", None)),
        target=_number(getattr(step, "target", None)),
        residual=_number(getattr(step, "residual", None)),
        copy=_number(getattr(step, "copy", None)),
        first=getattr(step, "first", 0),
        queries=_NO_VIEW,
        keys=_NO_VIEW,
        values=_NO_VIEW,
    )
    match step:
        case Project():
            values.heads = step.heads
        case Attention():
            values.heads, values.has_table = step.heads, step.table is not None
            values.has_positions = step.positions is not None
            values.queries, values.keys = _view(step.queries), _view(step.keys)
            values.values = _view(step.values)
        case Subsample():
            values.grid_height, values.grid_width = step.grid
            values.step = step.step
        case Output():
            values.transposed = step.transposed
        case Patches():
            values.size = step.size
        case LayerNorm():
            values.has_affine, values.eps = step.weight is not None, step.eps
        case Rows():
            values.together = step.together
        case _:
            pass
    return values


def _number(buffer: int | None) -> int:
    return -1 if buffer is None else buffer


def _view(view: View) -> CView:
    return CView(view.buffer, view.column, view.width)


def _pack(functions: ctypes.CDLL, handle: int, program: Program, arrays: Arrays) -> None:
    """Hand over the weights, one array after the other: no two are in memory at once."""
    for number, step in enumerate(program.steps):
        parts: Sequence[tuple[int, tuple[str | None, ...]]]
        match step:
            case Conv() | Linear():
                parts = [(0, (step.weight, step.bias, step.scale, None))]
            case Project():
                parts = [
                    (part.width, (part.weight, part.bias, part.scale, None)) for part in step.parts
                ]
            case Attention():
                of_values = step.value_scale, step.value_offset
                parts = [(0, (step.table, step.score_scale, *of_values))]
                _pack_positions(functions, handle, number, arrays, step)
            case LayerNorm():
                parts = [(0, (step.weight, step.bias, None, None))]
            case Stack():
                parts = [(0, (step.rows, None, None, None))]
            case _:
                continue
        for width, names in parts:
            kept = [_finite(arrays, name) for name in names]
            addresses = [_address(array) for array in kept]
            if functions.levit_pack(handle, number, width, *addresses):
                raise _no_memory()
    source = program.input
    if source.scale is not None and source.shift is not None:
        count = len(source.scale)
        values = [(ctypes.c_float * count)(*each) for each in (source.scale, source.shift)]
        functions.levit_set_pixels(handle, *values)


def _pack_positions(
    functions: ctypes.CDLL, handle: int, number: int, arrays: Arrays, step: Attention
) -> None:
    if step.positions is not None:
        kept = [_finite(arrays, name) for name in (step.positions, step.rest)]
        functions.levit_pack_positions(handle, number, *map(_address, kept))


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _finite(arrays: Arrays, name: str | None) -> NDArray[Any] | None:
    if name is None:
        return None
    array = arrays(name)
    if array.dtype == np.uint16:  # bits of bfloat16, whose exponent is all ones
        if ((array & 0x7F80) == 0x7F80).any():
            raise CorruptArtifactError(f"array {name!r} holds values that are no finite numbers")
        return array
    if array.dtype != np.float32:
        return array
    # A sum is a third of the work, and finite where all of it is; or it has overflowed.
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()
    if not np.isfinite(total) and not np.isfinite(array).all():
        raise CorruptArtifactError(f"array {name!r} holds values that are no finite numbers")
    return array
