"""Writes the format of torch.save without PyTorch, and what torch.save would never write."""

import io
import pickle
import zipfile
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclass(frozen=True, eq=False)
class Name:
    """A global, by name only."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """What pickle writes for an object: a global, its arguments, perhaps a state."""

    function: object
    arguments: object = ()
    state: object = None


@dataclass(frozen=True, eq=False)
class Persistent:
    identity: object


class Pickler(pickle._Pickler):
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def persistent_id(self, value):
        return value.identity if isinstance(value, Persistent) else None

    def save_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    def save_call(self, value):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)
        self.memoize(value)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    dispatch[Name] = save_name
    dispatch[Call] = save_call


def pickled(tree, protocol=2):
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(tree)
    return stream.getvalue()


def storage(key, length, kind="FloatStorage"):
    return Persistent(("storage", Name("torch", kind), key, "cpu", length))


def tensor(of, size, stride, offset=0, **more):
    hooks = Call(Name("collections", "OrderedDict"))
    arguments = (of, offset, size, stride, False, hooks, *more.values())
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def write_zip(path, members, folder="archive", compression=zipfile.ZIP_STORED):
    """(path, {name: bytes}) → the path of an archive with these members under a folder."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"{folder}/{name}" if folder else name, data)
    return path


def write_pth(path, tree, storages=None, **more):
    """(path, tree, {key: bytes}) → the path of a file as torch.save makes them.

    Arrays in the tree, a dict of dicts, become tensors with storages of their own.
    """
    data = dict(storages or {})

    def converted(value):
        if isinstance(value, dict):
            return {key: converted(item) for key, item in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        key = f"array{len(data)}"
        data[key] = value.tobytes()
        steps = tuple(step // value.itemsize for step in np.empty(value.shape, value.dtype).strides)
        return tensor(storage(key, value.size, STORAGES[value.dtype.name]), value.shape, steps)

    members = {"data.pkl": tree if isinstance(tree, bytes) else pickled(converted(tree))}
    members |= {f"data/{key}": value for key, value in data.items()}
    return write_zip(path, {**members, "version": b"3\n", **more.pop("members", {})}, **more)
