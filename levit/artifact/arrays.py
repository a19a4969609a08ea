"""Arrays from an ``.npz`` of whatever origin: plain numbers, as many as are there, no pickles."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import brief

__all__ = ["read_arrays"]

_SUFFIX: Final = ".npy"
_KINDS: Final = "fiub"  # floats, integers, truth values
_MOST_AXES: Final = 32


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what ``numpy.savez`` has written.

    ``numpy.load`` inflates members, hands out as bytes what is no array, and allocates what a
    header claims before it looks whether it is there. Here the members are stored as they are,
    together no longer than the file, and each holds exactly the numbers that its header says.

    Returns:
        Arrays by name, in the machine's byte order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such an archive; the message is a part of a line.
    """
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("compressed members")
            if sum(member.file_size for member in members) > len(data):
                raise ValueError("members are longer than the file")
            arrays = {_name(member.filename): _array(archive.read(member)) for member in members}
    except ValueError:
        raise
    except Exception as error:  # zipfile's, struct's and NumPy's share no base
        raise ValueError(brief(error)) from error
    if len(arrays) != len(members):
        raise ValueError("two members have one name")
    return arrays


def _name(member: str) -> str:
    if not member.endswith(_SUFFIX):
        raise ValueError(f"{member!r} is not an array")
    return member.removesuffix(_SUFFIX)


def _array(data: bytes) -> NDArray[Any]:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of a newer format")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in _KINDS or len(shape) > _MOST_AXES or any(n < 0 for n in shape):
        raise ValueError(f"an array of {dtype} and shape {shape}")
    start = stream.tell()
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("an array of another length than its header says")
    # A copy: of its own alignment, and to be written to.
    flat = np.frombuffer(data, dtype, offset=start).astype(dtype.newbyteorder("="))
    return flat.reshape(shape, order="F" if by_columns else "C")
