"""Mirror of the C ABI in ``native/abi.h``."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_int64, c_void_p
from typing import Any, Final

__all__ = [
    "ABI",
    "ACTIVATIONS",
    "ALONE",
    "DTYPES",
    "FILTERS",
    "KINDS",
    "NO_MEMORY",
    "NO_THREADS",
    "PIXELS",
    "CBuffer",
    "CCrop",
    "CInput",
    "CPicture",
    "CProgram",
    "CStep",
    "CView",
    "declare",
]

ABI: Final = 4
# In the order of `levit_kind`, `levit_activation`, `levit_dtype` and `levit_filter`.
KINDS: Final = (
    *("Conv", "Linear", "Project", "Attention", "Subsample", "Mean", "Output"),
    *("Patches", "LayerNorm", "Stack", "Rows"),
)
ACTIVATIONS: Final = (None, "hard_swish", "silu", "gelu", "tanh")
DTYPES: Final = ("float32", "bfloat16", "uint8")
FILTERS: Final = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
PIXELS: Final = 1
ALONE: Final = 2
NO_MEMORY: Final = 1
NO_THREADS: Final = 2


def _fields(*names: str) -> list[tuple[str, Any]]:
    return [(name, c_int64) for name in names]


class CInput(Structure):
    """``levit_input``."""

    _fields_ = [
        *_fields("is_uint8", "channels", "height", "width", "dtype", "raw", "border"),
        ("inverse_scale", c_double),
        ("shift", c_double),
    ]


class CBuffer(Structure):
    """``levit_buffer``."""

    _fields_ = [
        *_fields("rows", "columns", "stride", "offset", "carried", "grid_height", "grid_width"),
        *_fields("dtype"),
        ("inverse_scale", c_double),
        ("shift", c_double),
    ]


class CView(Structure):
    """``levit_view``."""

    _fields_ = _fields("buffer", "column", "width")


class CStep(Structure):
    """``levit_step``."""

    _fields_ = [
        *_fields(
            *("kind", "stage", "activation", "source", "target", "residual", "copy"),
            *("heads", "has_table"),
        ),
        ("queries", CView),
        ("keys", CView),
        ("values", CView),
        *_fields("grid_height", "grid_width", "step", "output", "transposed"),
        *_fields("first", "size", "together", "has_positions", "has_affine"),
        ("eps", c_double),
    ]


class CProgram(Structure):
    """``levit_program``."""

    _fields_ = [
        ("input", CInput),
        *_fields("buffers", "steps", "stages"),
        ("buffer", POINTER(CBuffer)),
        ("step", POINTER(CStep)),
    ]


class CPicture(Structure):
    """``levit_picture``."""

    _fields_ = [("pixels", c_void_p), *_fields("width", "height", "pitch", "pixel", "reversed")]


class CCrop(Structure):
    """``levit_crop``."""

    _fields_ = _fields(
        *("filter", "width", "height", "left", "top", "crop_width", "crop_height", "rows_first")
    )


# (result, arguments) by function; arrays are passed as addresses.
_FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "levit_abi": (c_int, []),
    "levit_isa_count": (c_int, []),
    "levit_isa_name": (c_char_p, [c_int]),
    "levit_isa_usable": (c_int, [c_int]),
    "levit_isa_multiplies": (c_int, [c_int, c_int]),
    "levit_isa_peak": (c_double, [c_int, c_int, c_double]),
    "levit_open": (c_void_p, [POINTER(CProgram), c_int, c_int]),
    "levit_start": (c_int, [c_void_p]),
    "levit_pack": (c_int, [c_void_p, c_int64, c_int64, *[c_void_p] * 4]),
    "levit_pack_positions": (None, [c_void_p, c_int64, c_void_p, c_void_p]),
    "levit_set_pixels": (None, [c_void_p, POINTER(c_float), POINTER(c_float)]),
    "levit_run": (c_int, [c_void_p, c_void_p, c_int64, c_void_p, c_int]),
    "levit_set_tables": (None, [c_void_p, c_void_p]),
    "levit_profile": (c_int, [c_void_p, c_void_p, c_int64, c_void_p, c_void_p]),
    "levit_close": (None, [c_void_p]),
    "levit_resize": (c_int, [c_int, POINTER(CPicture), POINTER(CCrop), c_void_p]),
    "levit_planes": (None, [c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p]),
}


def declare(library: ctypes.CDLL) -> None:
    """Give every function of the library its types; raises ``AttributeError`` if one is missing."""
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
