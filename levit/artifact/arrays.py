"""Arrays from an ``.npz`` of any origin: plain numbers, as many as are there, and no pickles."""

from __future__ import annotations

import io
import math
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from levit.artifact.stored_zip import CompressedMemberError, StoredZip
from levit.errors import brief

__all__ = ["read_arrays"]

_SUFFIX: Final = ".npy"
_KINDS: Final = "fiub"  # floats, integers, truth values
_MOST_AXES: Final = 32


def read_arrays(stream: BinaryIO) -> dict[str, NDArray[Any]]:
    """Read what ``numpy.savez`` has written.

    ``numpy.load`` inflates members, hands out as bytes what is no array, and allocates what a
    header claims before it looks whether it is there. Here the members are ranges of the file
    (`StoredZip`), and each holds exactly the numbers that its header says.

    Returns:
        Arrays by name, in the machine's byte order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such an archive; the message is a part of a line.
    """
    try:
        archive = StoredZip(stream)
        return {_name(member): _array(archive.read(member)) for member in archive.names}
    except CompressedMemberError as error:
        raise ValueError(f"compressed members: {error}") from error
    except (OSError, ValueError):
        raise
    except Exception as error:  # NumPy's parser of headers lets through what it meets
        raise ValueError(brief(error)) from error


def _name(member: str) -> str:
    if not member.endswith(_SUFFIX):
        raise ValueError(f"{member!r} is not an array")
    return member.removesuffix(_SUFFIX)


def _array(data: NDArray[np.uint8]) -> NDArray[Any]:
    stream = io.BytesIO(data.data)
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
