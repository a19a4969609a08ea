"""Files of ``torch.save``, read without PyTorch: zip archives of one pickle and raw storages.

::

    archive/data.pkl      the saved object; a tensor in it is a call of torch._utils._rebuild_…
    archive/data/0 …      the storages, uncompressed
    archive/byteorder     b"little" or b"big"; older files have none

The pickle is read as data (`restricted_pickle`) and the archive as ranges of the file
(`StoredZip`), so nothing that a file says is executed, imported or written to a disk. A tensor
is a description until `TorchZip.array` is asked for it, so optimizer states and averages cost
nothing. Its bounds are checked against the bytes that are there. Tensors may share storages, but
together be no more than a few times as large as the file: a single zero that is stretched to a
terabyte is refused.

Source: torch/serialization.py (`_save`, `_load`) and torch/_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from levit.artifact.stored_zip import CompressedMemberError, StoredZip
from levit.errors import CheckpointError, brief
from levit.models.containers.foreign import foreign_zip
from levit.models.containers.listing import listing
from levit.models.containers.restricted_pickle import Global, Inert, read_pickle
from levit.models.ops import Array

__all__ = ["StoredTensor", "TorchZip", "widened_bfloat16", "zip_errors"]

# A training checkpoint has one member a tensor, a few thousand.
_MOST_MEMBERS: Final = 100_000

_DTYPES: Final = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",  # widened after reading
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",  # any byte but 0 is true
    "complex64": "c8",
    "complex128": "c16",
}

_STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}

_MOST_AXES: Final = 32  # NumPy 1's limit
_SHARED: Final = 4  # how many times a file's size its tensors may be; see above
_SLACK_BYTES: Final = 1 << 20
_LARGEST: Final = 1 << 48  # number of elements: NumPy multiplies them in 63 bits


@dataclass(frozen=True, slots=True, eq=False)
class _Storage:
    """A member ``data/{key}``: `length` elements of `dtype`, a name of torch's."""

    key: str
    dtype: str
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor as the pickle describes it, in elements; nothing is checked yet."""

    storage: _Storage
    dtype: str
    offset: object
    size: object
    stride: object

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes as the file claims them, or none where they are no sizes."""
        return _whole(self.size) or ()


@contextmanager
def zip_errors(file: str) -> Iterator[None]:
    """Translate errors of `StoredZip` into those of a checkpoint, which name `file`."""
    try:
        yield
    except CompressedMemberError as error:
        raise CheckpointError(
            f"{file}: {error}, which PyTorch does not do; save the checkpoint again with torch.save"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{file}: damaged or truncated ({error}); download or save it again"
        ) from error


class TorchZip:
    """An opened ``.pth``.

    Args:
        stream: a binary file, open for reading; it stays the caller's to close.
        file: its name, for messages.

    Attributes:
        tree: the saved object: numbers, text, lists, tuples, dicts with `StoredTensor` for
            tensors and `Inert` for everything else.

    Raises:
        CheckpointError: truncated, damaged, TorchScript, or not from PyTorch.
    """

    tree: object

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self._file = file
        with zip_errors(file):
            self._archive = StoredZip(stream)
        count = len(self._archive.names)
        if count > _MOST_MEMBERS:
            raise CheckpointError(
                f"{file}: a zip file of {count:,} members is no checkpoint (at most "
                f"{_MOST_MEMBERS:,})"
            )
        self._folder = self._find_folder()
        self._big_endian = self._read_byte_order()
        self._storages: dict[str, NDArray[np.uint8]] = {}
        self._bytes_left = _SHARED * self._archive.size_bytes + _SLACK_BYTES
        pickle = self._read("data.pkl").tobytes()
        try:
            self.tree = read_pickle(pickle, constructors=_CONSTRUCTORS, persistent=_storage)
        except UnpicklingError as error:
            raise CheckpointError(
                f"{file}: its data.pkl cannot be read ({brief(error)}); download it again, or save "
                f"it again with torch.save({{'model': model.state_dict()}}, …)"
            ) from error

    def array(self, name: str, tensor: StoredTensor) -> Array:
        """A tensor's values, contiguous; bfloat16 as float32.

        Tensors that are the whole of one storage share its memory.

        Raises:
            CheckpointError: it reaches beyond its storage, is of a dtype that NumPy lacks, or
                claims more than the file can hold.
        """
        kind = _DTYPES.get(tensor.dtype)
        if kind is None:
            raise CheckpointError(
                f"{self._file}: {listing([name])} is {listing([tensor.dtype])}, which is not "
                f"supported; save it as float32"
            )
        dtype = np.dtype(kind)
        size, stride, offset = self._checked(name, tensor, dtype)
        view: Array = np.ndarray(
            size,
            dtype.newbyteorder(">") if self._big_endian else dtype,
            buffer=self._storage(name, tensor.storage) if 0 not in size else b"",
            offset=offset * dtype.itemsize,
            strides=tuple(step * dtype.itemsize for step in stride),
        )
        if tensor.dtype == "bfloat16":
            return widened_bfloat16(view)
        if tensor.dtype == "bool":
            return view.astype(np.bool_, order="C")
        return view.astype(dtype, order="C", copy=False)

    def _checked(
        self, name: str, tensor: StoredTensor, dtype: np.dtype[np.generic]
    ) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """(size, stride, offset) in elements, after they were found to be possible."""
        size, stride, offset = _whole(tensor.size), _whole(tensor.stride), _whole((tensor.offset,))
        if size is None or stride is None or offset is None or len(size) != len(stride):
            raise self._wrong(name, "has no sensible shape")
        if 0 in size:
            if math.prod(n or 1 for n in size) >= _LARGEST:
                raise self._wrong(name, "has no sensible shape")
            return size, (0,) * len(size), 0
        self._bytes_left -= math.prod(size) * dtype.itemsize
        if self._bytes_left < 0:
            raise self._wrong(name, "and others claim to be larger than the file")
        # Where an axis has one element its stride means nothing, and may be anything.
        stride = tuple(step if n > 1 else 0 for n, step in zip(size, stride, strict=True))
        last = offset[0] + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (last + 1) * dtype.itemsize > len(self._storage(name, tensor.storage)):
            raise self._wrong(name, "reaches beyond its storage")
        return size, stride, offset[0]

    def _storage(self, name: str, storage: _Storage) -> NDArray[np.uint8]:
        data = self._storages.get(storage.key)
        if data is None:
            data = self._storages[storage.key] = self._read(f"data/{storage.key}")
        kind = _DTYPES.get(storage.dtype)
        if kind is None or len(data) != storage.length * np.dtype(kind).itemsize:
            raise self._wrong(name, "has a storage of another length than data.pkl says")
        return data

    def _read(self, name: str) -> NDArray[np.uint8]:
        with zip_errors(self._file):
            return self._archive.read(f"{self._folder}/{name}")

    def _find_folder(self) -> str:
        names = self._archive.names
        folders = [n.removesuffix("/data.pkl") for n in names if n.endswith("/data.pkl")]
        folders = [folder for folder in folders if "/" not in folder]
        if len(folders) != 1:
            raise CheckpointError(f"{self._file}: {foreign_zip(names)}")
        if f"{folders[0]}/constants.pkl" in names:
            raise CheckpointError(
                f"{self._file}: a TorchScript archive, which holds code; load it with "
                f"torch.jit.load and save its weights: torch.save(model.state_dict(), …)"
            )
        return folders[0]

    def _read_byte_order(self) -> bool:
        if f"{self._folder}/byteorder" not in self._archive.names:
            return False
        order = self._read("byteorder").tobytes()
        if order not in (b"little", b"big"):
            raise CheckpointError(f"{self._file}: its byte order is neither little nor big")
        return order == b"big"

    def _wrong(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._file}: damaged ({listing([name])} {what}); download or save it again"
        )


def widened_bfloat16(halves: Array) -> Array:
    """Floats whose upper halves are these 16-bit integers, contiguous."""
    bits = halves.astype(np.uint32, order="C")
    bits <<= np.uint32(16)  # NumPy 1 takes a plain 16 for a long, where there are no axes
    return bits.view(np.float32)


def _whole(values: object) -> tuple[int, ...] | None:
    """Numbers that can be sizes, strides or offsets."""
    if type(values) is not tuple or len(values) > _MOST_AXES:
        return None
    if any(type(value) is not int or not 0 <= value < _LARGEST for value in values):
        return None
    return values


def _storage(identity: object) -> _Storage:
    match identity:
        case ("storage", Global(name), str(key), _, int(length), *_) if 0 <= length < _LARGEST:
            dtype = _STORAGES.get(name.removeprefix("torch.").removeprefix("storage."), name)
            return _Storage(key, dtype, length)
    raise UnpicklingError("a storage of another kind")


def _tensor(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> StoredTensor | Inert:
    if type(storage) is not _Storage:
        raise UnpicklingError("a tensor without a storage")
    if metadata:
        return Inert("a tensor that is to be negated or conjugated")
    return StoredTensor(storage, storage.dtype, offset, size, stride)


def _tensor_of_dtype(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> StoredTensor | Inert:
    if type(storage) is not _Storage or type(dtype) is not Global:
        raise UnpicklingError("a tensor without a storage or a dtype")
    if metadata:
        return Inert("a tensor that is to be negated or conjugated")
    return StoredTensor(storage, dtype.name.removeprefix("torch."), offset, size, stride)


def _parameter(
    data: object, requires_grad: object = True, hooks: object = None, state: object = None
) -> object:
    return data


def _moved(data: object, dtype: object, device: object, requires_grad: object) -> object:
    """A tensor that was moved here to be saved."""
    if not isinstance(data, StoredTensor) or not isinstance(dtype, Global):
        return Inert("a tensor of another device")
    if dtype.name != f"torch.{data.dtype}":
        return Inert("a tensor of another dtype on another device")
    return data


def _subclass(function: object, kind: object, arguments: object, state: object) -> object:
    """A tensor with attributes, or of a subclass: the tensor in it."""
    if type(function) is not Global or type(arguments) is not tuple:
        raise UnpicklingError("a tensor of a kind that is not known")
    if function.name == _WRAPPER and type(kind) is Global:
        return Inert(kind.name)  # whose values are in parts, or of another number format
    rebuild = _REBUILDS.get(function.name)
    return Inert(function.name) if rebuild is None else rebuild(*arguments)


def _size(values: object = ()) -> object:
    return values


def _dict(*arguments: object) -> dict[str, object] | Inert:
    # Python 3 gives no items here but sets them afterwards.
    return {} if not arguments else Inert("collections.OrderedDict of Python 2")


def _defaultdict(factory: object = None) -> dict[str, object]:
    return {}


# Of a tensor without storage of its own, made of others: DTensor, the quantised ones of torchao.
_WRAPPER: Final = "torch._utils._rebuild_wrapper_subclass"

_REBUILDS: Final[dict[str, Callable[..., object]]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _moved,
}

_CONSTRUCTORS: Final[dict[str, Callable[..., object]]] = {
    **_REBUILDS,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _size,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _defaultdict,
}
