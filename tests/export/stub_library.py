"""A shared library of functions that return 0, written byte by byte: no compiler is needed.

TensorRT's bindings link nine functions of libraries that cannot be installed here. With these in
their place they can be imported and asked for names, and do nothing else.
"""

import platform
import struct

# machine (e_machine), and `return 0`
_CODE = {
    "x86_64": (62, bytes.fromhex("31c0c3")),
    "aarch64": (183, struct.pack("<2I", 0xD2800000, 0xD65F03C0)),
}
_HEADER, _PROGRAM, _SYMBOL = 64, 56, 24


def stub_library(soname, functions):
    """The bytes of an ELF file."""
    machine, code = _CODE[platform.machine()]
    strings, places = b"\0", []
    for name in (soname, *functions):
        places.append(len(strings))
        strings += name.encode() + b"\0"
    count = len(functions) + 1  # the first symbol is none
    code_at = _HEADER + 2 * _PROGRAM
    strings_at = code_at + len(code)
    symbols_at = _aligned(strings_at + len(strings))
    hash_at = symbols_at + _SYMBOL * count
    dynamic_at = _aligned(hash_at + 4 * (3 + count))
    function = 0x12  # global, a function
    symbols = bytes(_SYMBOL) + b"".join(
        struct.pack("<I2BH2Q", place, function, 0, 1, code_at, len(code)) for place in places[1:]
    )
    # One bucket, and in it a chain of all.
    chain = struct.pack(f"<{3 + count}I", 1, count, 1, 0, *range(2, count), 0)
    entries = {14: places[0], 4: hash_at, 5: strings_at, 6: symbols_at, 10: len(strings), 11: 24}
    dynamic = b"".join(struct.pack("<2Q", *entry) for entry in (*entries.items(), (0, 0)))
    size = dynamic_at + len(dynamic)
    header = struct.pack(
        "<16s2HI3QI6H",
        *(b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, _HEADER, 0, 0),
        *(_HEADER, _PROGRAM, 2, 0, 0, 0),
    )
    load = struct.pack("<2I6Q", 1, 7, 0, 0, 0, size, size, 4096)
    dynamic_program = struct.pack(
        "<2I6Q", 2, 6, dynamic_at, dynamic_at, dynamic_at, len(dynamic), len(dynamic), 8
    )
    parts = {
        0: header + load + dynamic_program,
        code_at: code,
        strings_at: strings,
        symbols_at: symbols,
        hash_at: chain,
        dynamic_at: dynamic,
    }
    file = bytearray(size)
    for at, part in parts.items():
        file[at : at + len(part)] = part
    return bytes(file)


def _aligned(at):
    return -(-at // 8) * 8
