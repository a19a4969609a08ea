"""Tensors as a pickle of ``torch.save`` describes them, checked and read without PyTorch.

A tensor in the pickle is a call of ``torch._utils._rebuild_…`` for which `CONSTRUCTORS` has
functions of ours. They note its storage, shape and strides, and nothing is read until
`TensorReader.arrays` is asked for it, so optimizer states and averages cost nothing. Bounds are
checked against the bytes that are there. Tensors may share storages, but together be no more than
a few times as large as the file: a single zero that is stretched to a terabyte is refused.

Source: torch/_utils.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import CheckpointError
from levit.models.containers.budget import Budget
from levit.models.containers.listing import listing
from levit.models.containers.memory import refuse_what_memory_lacks
from levit.models.containers.restricted_pickle import Global, Inert
from levit.models.ops import Array

__all__ = [
    "CONSTRUCTORS", "Storage", "StoredTensor", "TensorReader", "TorchFile", "storage_of",
    "widened_bfloat16",
]  # fmt: skip

_DTYPES: Final = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",  # widened when it is read
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

# Bytes an element of quantised tensors, which are not read but may lie between those that are.
_UNREAD: Final = {"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4}

_MOST_AXES: Final = 32  # NumPy 1's limit
# How many times a file's size its tensors may be as they are read; see above. Halves are twice as
# large as in the file, and one set of weights may be tied, or be in the file beside its average.
_SHARED: Final = 4
_SLACK_BYTES: Final = 1 << 20
_LARGEST: Final = 1 << 48  # number of elements: NumPy multiplies them in 63 bits
_LONGEST_KEY: Final = 256  # of a storage: a number of up to 20 digits
_WIDENED: Final = ("float16", "bfloat16")  # to float32, which holds them exactly


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Elements that tensors are views of: `length` of them, of the class `kind` of torch's."""

    key: str
    kind: str
    length: int

    @property
    def dtype(self) -> str:
        """Name of torch's, such as ``float32``."""
        return _STORAGES.get(self.kind.removeprefix("torch.").removeprefix("storage."), self.kind)

    @property
    def size_bytes(self) -> int | None:
        """Length in bytes, or None for a dtype that NumPy lacks."""
        kind = _DTYPES.get(self.dtype)
        item = np.dtype(kind).itemsize if kind else _UNREAD.get(self.kind.rpartition(".")[2])
        return None if item is None else self.length * item


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor as the pickle describes it, in elements; nothing is checked yet."""

    storage: Storage
    stated_dtype: str | None
    offset: object
    size: object
    stride: object

    @property
    def dtype(self) -> str:
        """Name of torch's, such as ``float32``."""
        # Made when asked for: a pickle may name one dtype in a million tensors.
        stated = self.stated_dtype
        return self.storage.dtype if stated is None else stated.removeprefix("torch.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes as the file claims them, or none where they are no sizes."""
        return _whole(self.size) or ()


class TorchFile:
    """An opened file of ``torch.save``, of either format.

    Attributes:
        tree: the saved object: numbers, text, lists, tuples, dicts with `StoredTensor` for
            tensors and `Inert` for everything else.
        budget: what is left of what its pickles may cost, for whoever walks the tree.
        tensors: reads them.
    """

    tree: object
    budget: Budget
    tensors: TensorReader


class TensorReader:
    """Reads the tensors of one file.

    Args:
        file: its name, for messages.
        size_bytes: its length, which bounds what its tensors may be.
        read: function from a storage to its bytes; it checks that there are as many as it says.
        big_endian: the order of bytes in storages.
    """

    def __init__(
        self,
        file: str,
        size_bytes: int,
        read: Callable[[Storage], NDArray[np.uint8]],
        *,
        big_endian: bool = False,
    ) -> None:
        self._file = file
        self._read = read
        self._big_endian = big_endian
        self._storages: dict[str, NDArray[np.uint8]] = {}
        self._bytes_left = _SHARED * size_bytes + _SLACK_BYTES

    def arrays(self, entries: Mapping[str, StoredTensor], names: Sequence[str]) -> dict[str, Array]:
        """Read these tensors: contiguous, half types as float32.

        A storage is kept in memory until the last of them that shares it is read. Tensors that are
        the whole of one storage share its memory.

        Raises:
            CheckpointError: one reaches beyond its storage, is of a dtype that NumPy lacks, or
                all of them are more than the file can hold or the memory.
        """
        needed = sum(_bytes_of(entries[name]) for name in names)
        # Tensors that claim more than the file may hold are refused below, for that.
        refuse_what_memory_lacks(self._file, min(needed, self._bytes_left))
        uses = Counter(entries[name].storage.key for name in names)
        arrays: dict[str, Array] = {}
        for name in names:
            arrays[name] = self._array(name, entries[name])
            key = entries[name].storage.key
            uses[key] -= 1
            if not uses[key]:
                self._storages.pop(key, None)
        return arrays

    def _array(self, name: str, tensor: StoredTensor) -> Array:
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
        if tensor.dtype == "float16":
            return view.astype(np.float32, order="C")
        if tensor.dtype == "bool":
            return view.astype(np.bool_, order="C")
        return view.astype(dtype, order="C", copy=False)

    def _checked(
        self, name: str, tensor: StoredTensor, dtype: np.dtype[np.generic]
    ) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Return (size, stride, offset) in elements, once they are found to be possible."""
        size, stride, offset = _whole(tensor.size), _whole(tensor.stride), _whole((tensor.offset,))
        if size is None or stride is None or offset is None or len(size) != len(stride):
            raise self._wrong(name, "has no sensible shape")
        if 0 in size:
            if math.prod(n or 1 for n in size) >= _LARGEST:
                raise self._wrong(name, "has no sensible shape")
            return size, (0,) * len(size), 0
        self._bytes_left -= _bytes_of(tensor)
        if self._bytes_left < 0:
            raise self._wrong(name, "and others claim to be larger than the file")
        # Where an axis has one element its stride means nothing, and may be anything.
        stride = tuple(step if n > 1 else 0 for n, step in zip(size, stride, strict=True))
        last = offset[0] + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (last + 1) * dtype.itemsize > len(self._storage(name, tensor.storage)):
            raise self._wrong(name, "reaches beyond its storage")
        return size, stride, offset[0]

    def _storage(self, name: str, storage: Storage) -> NDArray[np.uint8]:
        data = self._storages.get(storage.key)
        if data is None:
            data = self._storages[storage.key] = self._read(storage)
        # Another tensor may have called it otherwise.
        if len(data) != storage.size_bytes:
            raise self._wrong(name, "has a storage of another length than its pickle says")
        return data

    def _wrong(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._file}: damaged ({listing([name])} {what}); download or save it again"
        )


def _bytes_of(tensor: StoredTensor) -> int:
    """Bytes of a tensor as it is read, however few of the file's; 0 where it cannot be read."""
    kind, size = _DTYPES.get(tensor.dtype), _whole(tensor.size)
    if kind is None or size is None:
        return 0
    return math.prod(size) * (4 if tensor.dtype in _WIDENED else np.dtype(kind).itemsize)


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


def storage_of(identity: object) -> Storage:
    """Read the persistent id of a storage.

    Raises:
        UnpicklingError: it is none.
    """
    match identity:
        case ("storage", Global(name), str(key), _, int(length), *_) if 0 <= length < _LARGEST:
            if len(key) <= _LONGEST_KEY:
                return Storage(key, name, length)
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
    if type(storage) is not Storage:
        raise UnpicklingError("a tensor without a storage")
    if metadata:
        return Inert("a tensor that is to be negated or conjugated")
    return StoredTensor(storage, None, offset, size, stride)


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
    if type(storage) is not Storage or type(dtype) is not Global:
        raise UnpicklingError("a tensor without a storage or a dtype")
    if metadata:
        return Inert("a tensor that is to be negated or conjugated")
    return StoredTensor(storage, dtype.name, offset, size, stride)


def _parameter(
    data: object, requires_grad: object = True, hooks: object = None, state: object = None
) -> object:
    return data


def _moved(data: object, dtype: object, device: object, requires_grad: object) -> object:
    """A tensor that was moved here to be saved."""
    if not isinstance(data, StoredTensor) or not isinstance(dtype, Global):
        return Inert("a tensor of another device")
    if dtype.name.removeprefix("torch.") != data.dtype:
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


# Makes a tensor without storage of its own from others: DTensor, the quantised ones of torchao.
_WRAPPER: Final = "torch._utils._rebuild_wrapper_subclass"

_REBUILDS: Final[dict[str, Callable[..., object]]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _moved,
}

CONSTRUCTORS: Final[dict[str, Callable[..., object]]] = {
    **_REBUILDS,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _size,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _defaultdict,
}
