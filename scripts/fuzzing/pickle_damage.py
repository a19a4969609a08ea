"""Hypothesis strategies of damaged pickles, and of programs that only a forger would write."""

from __future__ import annotations

import pickle
import pickletools
import struct
from typing import Any, Final

from hypothesis import strategies as st

from fuzzing.damage import NUMBERS, damaged, few, one_of

__all__ = ["damaged_pickle"]

_GLOBALS = (
    "os system", "posix system", "builtins eval", "builtins exec", "builtins getattr",
    "subprocess Popen", "runpy _run_code", "argparse Namespace", "collections OrderedDict",
    "collections defaultdict", "torch FloatStorage", "torch HalfStorage", "torch BoolStorage",
    "torch.storage UntypedStorage", "torch._utils _rebuild_tensor", "torch Size", "torch device",
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch bfloat16",
    "torch._utils _rebuild_parameter", "torch._tensor _rebuild_from_type_v2", "torch float8_e4m3fn",
    "torch._utils _rebuild_device_tensor_from_cpu_tensor", "torch._utils _rebuild_sparse_tensor",
    "numpy.core.multiarray _reconstruct", "_codecs encode", "copyreg _reconstructor",
    "levit.models.containers.torch_zip StoredTensor", "builtins object.__subclasses__", " ",
    "a" * 300 + " b",
)  # fmt: skip
_TEXTS = (
    "storage", "cpu", "cuda:0", "0", "1", "../0", "", "model", "state_dict", "model_ema", "module.",
    "state_dict_ema", "_metadata", "é\n\x1b[2J", "module.x", "_orig_mod.module.x", "k" * 2000,
)  # fmt: skip
# Operations without arguments.
_PLAIN = (b"(", b"0", b"1", b"2", b"N", b"\x88", b"\x89", b"]", b"}", b")", b"\x8f", b"a", b"e",
          b"s", b"u", b"t", b"\x85", b"\x86", b"\x87", b"R", b"\x81", b"\x92", b"b", b"Q", b"\x93",
          b"\x94", b"\x90", b"\x91", b".", b"l", b"d", b"o", b"\x97", b"\x98")  # fmt: skip
# With lengths that claim more than is there, and indices that leave a hole.
_CLAIMS = (b"T\xff\xff\xff\x7f", b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"B\xff\xff\xff\x7f",
           b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x96" + b"\xff" * 7 + b"\x7f", b"r\xff\xff\xff\xff",
           b"j\xff\xff\xff\xff", b"h\xff", b"\x8b\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8,
           b"I" + b"9" * 5000 + b"\n", b"L" + b"9" * 5000 + b"L\n", b"Inan\n", b"cos\nsystem\n",
           b"ios\nsystem\n", b"Pname\n", b"\x82\x01", b"\x83\x01\x00", b"\x80\x09")  # fmt: skip
# They grow when they are walked, printed, hashed, compared or copied.
_BOMBS = (
    b")" + b"2\x86" * 1000,  # a pair of itself, of itself: 2^n leaves
    b"]" + b"\x85" * 20_000,
    b"(" * 20_000,
    b"]q\xf0h\xf0a",  # a list that holds itself
    b"}q\xf1X\x01\0\0\0ah\xf1s",  # a dict that holds itself
    b"(" + b"N" * 1000 + b"t" + b"2\x85" * 40,
)
# Cheap for each operation, and dear for all: a long text or tuple in the memo, used many times.
_LONG: Final = 100_000
_LONG_TEXT: Final = b"X" + struct.pack("<I", _LONG) + b"n" * _LONG + b"q\xf2"
_DEAR = (
    b"0" + b"h\xf2X\x01\0\0\0a\x930" * 1000,  # as the module of a global
    b"0}" + b"h\xf2Ns" * 1000 + b"0",  # as a key
    b"0(" + b"cpathlib\nPurePosixPath\nh\xf2\x85R" * 500 + b"t0",  # as a part of a path
    b"\x85" + b"ccollections\nOrderedDict\nh\xf2\x85R0" * 500,  # as an argument
)
_LONG_TUPLE: Final = b"(" + b"K\x01" * _LONG + b"tq\xf30"
_REDUCED = b"ctorch\nSize\nq\xf40" + b"h\xf4h\xf3R0" * 2000
_dear = st.sampled_from((*(_LONG_TEXT + more for more in _DEAR), _LONG_TUPLE + _REDUCED))
_CALLS = (b"", b")R", b"X\x02\0\0\0id\x85R", b")\x81", b")R}b")


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _number(number: int) -> bytes:
    return pickle.dumps(number, 2)[2:-1]


_texts = st.sampled_from(_TEXTS).map(_text)
_numbers = (st.sampled_from((*NUMBERS, 2**200)) | st.integers(-(2**64), 2**64)).map(_number)
_globals = st.sampled_from(_GLOBALS).map(
    lambda name: b"c%b\n%b\n" % tuple(part.encode() for part in name.rpartition(" ")[::2])
)
_calls = st.tuples(_globals, st.sampled_from(_CALLS)).map(b"".join)
_new = st.one_of(
    st.sampled_from(_PLAIN),
    st.sampled_from(_CLAIMS),
    one_of(_BOMBS),
    _dear,
    st.integers(0, 255).map(lambda index: b"h" + bytes([index])),
    *(_calls, _numbers, _texts),
)


_TOLD = (b"c", b"X", b"K", b"M", b"J")  # globals, texts and numbers


def _other_argument(operation: bytes) -> st.SearchStrategy[bytes]:
    """An operation of the same kind with another argument, or another operation."""
    code = operation[:1]
    if code == b"c":
        return _globals
    if code == b"X":
        return _texts | _numbers
    if code in (b"K", b"M", b"J"):
        number = int.from_bytes(operation[1:], "little")
        return st.sampled_from((-1, 1, 3, 1000)).map(lambda step: _number(number + step)) | _numbers
    return _new


@st.composite
def damaged_pickle(draw: Any, data: bytes) -> bytes:
    """Draw a pickle with operations taken out, repeated, put in, or given other arguments."""
    try:
        starts = [position or 0 for _, _, position in pickletools.genops(data)]
    except (ValueError, IndexError, struct.error):
        return draw(damaged(data))
    ends = [*starts[1:], starts[-1] + 1]
    operations = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    for _ in range(draw(few)):
        i = draw(st.integers(0, len(operations) - 1))
        kind = draw(st.sampled_from(("argument", "argument", "argument", "new", "move", "cut")))
        if kind == "argument":
            # Most operations are the memo's: look at those that say something.
            told = [k for k, operation in enumerate(operations) if operation[:1] in _TOLD] or [i]
            i = told[draw(st.integers(0, len(told) - 1))]
            operations[i] = draw(_other_argument(operations[i]))
        elif kind == "new":
            operations.insert(i, draw(_new))
        elif kind == "move":
            operations.insert(i, draw(one_of(operations)))
        elif len(operations) > 10:
            del operations[i : i + draw(st.sampled_from((1, 1, 2, 10)))]
    return b"".join(operations)
