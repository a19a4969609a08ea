"""Damage to pickles, operation by operation, and programs that only a forger would write."""

from __future__ import annotations

import pickle
import pickletools
import random
import struct

from fuzzing.mutations import mutate_bytes, times

__all__ = ["mutate_pickle"]

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
_NUMBERS = (0, 1, -1, 2, 3, 255, 256, 65535, 2**31 - 1, -(2**31), 2**31, 2**32, 2**47, 2**48, 2**62,
            2**63 - 1, 2**63, -(2**63), 2**200, -(2**200))  # fmt: skip
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


def mutate_pickle(rng: random.Random, data: bytes) -> bytes:
    """One to eight operations taken out, repeated, moved, put in, or given other arguments."""
    if rng.random() < 0.15:
        return mutate_bytes(rng, data)
    operations = _operations(data)
    if not operations:
        return mutate_bytes(rng, data)
    for _ in range(times(rng)):
        i = rng.randrange(len(operations))
        kind = rng.randrange(8)
        if kind == 0:
            del operations[i : i + rng.choice((1, 1, 2, 10))]
        elif kind == 1:
            operations.insert(rng.randrange(len(operations) + 1), operations[i])
        elif kind == 2:
            j = rng.randrange(len(operations))
            operations[i], operations[j] = operations[j], operations[i]
        elif kind == 3:
            operations.insert(i, _new(rng))
        elif kind == 4:
            operations.insert(i, _bomb(rng))
        else:
            operations[i] = _other(rng, operations[i])
        if not operations:
            break
    return b"".join(operations)


def _operations(data: bytes) -> list[bytes]:
    """The operations of a pickle, each as its bytes."""
    try:
        starts = [position for _, _, position in pickletools.genops(data)]
    except (ValueError, IndexError, UnicodeDecodeError, struct.error):
        return []
    ends = [*starts[1:], (starts[-1] or 0) + 1]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _number(number: int) -> bytes:
    return pickle.dumps(number, 2)[2:-1]


def _global(rng: random.Random) -> bytes:
    module, _, name = rng.choice(_GLOBALS).rpartition(" ")
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _new(rng: random.Random) -> bytes:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(_PLAIN)
    if kind == 1:
        return _global(rng) + rng.choice((b"", b")R", _text("id") + b"\x85R", b")\x81", b")R}b"))
    if kind == 2:
        return _number(rng.choice(_NUMBERS))
    if kind == 3:
        return _text(rng.choice(_TEXTS))
    if kind == 4:
        return rng.choice(_CLAIMS)
    return b"h" + bytes([rng.randrange(256)])


def _bomb(rng: random.Random) -> bytes:
    """What grows when it is walked, printed, hashed, compared or copied."""
    count = rng.choice((40, 1000, 20_000))
    return rng.choice(
        (
            b")" + b"2\x86" * min(count, 1000),  # a pair of itself, of itself: 2^n leaves
            b"]" + b"\x85" * count,  # nested n deep
            b"(" * count,
            b"]q\xf0h\xf0a",  # a list that holds itself
            b"}q\xf1X\x01\0\0\0ah\xf1s",  # a dict that holds itself
            b"(" + b"N" * count + b"t" + b"2\x85" * 40,
            _text("y" * count),
        )
    )


def _other(rng: random.Random, operation: bytes) -> bytes:
    """An operation of the same kind with another argument, or of another kind."""
    code = operation[:1]
    if code in (b"c", b"\x93"):
        return _global(rng)
    if code in (b"X", b"\x8c", b"U", b"T"):
        return rng.choice((_text(rng.choice(_TEXTS)), _number(rng.choice(_NUMBERS))))
    if code in (b"K", b"M", b"J", b"\x8a"):
        near = int.from_bytes(operation[1:], "little") + rng.choice((-1, 1, 1000))
        return _number(rng.choice((near, *rng.sample(_NUMBERS, 2))))
    if code in (b"q", b"h"):
        return code + bytes([rng.randrange(256)])
    return _new(rng)
