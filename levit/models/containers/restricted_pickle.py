"""A pickle as plain data: no class is looked up and nothing that the file names is called.

`pickle.Unpickler` with a strict ``find_class`` is not enough: besides classes it lets a file choose
attributes (``__setstate__``, ``append``, slots of our own classes), hashes any key (a tuple of
tuples of tuples takes for ever), grows its memo to any index that the file says, and asks
``copyreg``'s cache before ``find_class``. Here

- a global is a `Global`, a name in a box that cannot be called;
- a call of a global gives an `Inert`, unless the caller's table has a function of ours for it;
  an `Inert` keeps arguments, state and items as the data that they are, and swallows calls;
- containers are ``list``, ``tuple`` and ``dict`` and nothing else; keys are strings and whole
  numbers below 2^20, any other key is replaced by an `Inert`, so that no hash is of the file's
  choosing;
- opcodes that Python 3 does not write (of protocol 0, class instances of Python 2, extension
  codes, buffers outside of the pickle) are refused;
- what it makes, joins and copies is paid for in bytes before it is done (`Budget`); names and keys
  are of limited length, as one that stands in the file once can be used a million times.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, Final, TypeAlias

from levit.models.containers.budget import Budget

__all__ = ["Global", "Inert", "read_pickle"]

# An operation makes one object at most, beside what is counted by length: an empty dict of 64
# bytes, its place on the stack and in the memo.
_OPERATION_BYTES: Final = 128
_REFERENCE_BYTES: Final = 8

_LARGEST_KEY: Final = 1 << 20
# torch's own are 60 characters; a class inside of functions of a user's, 200.
_LONGEST_GLOBAL: Final = 512
# Names of tensors are up to 150 characters, ImageNet-21k's of classes up to 300.
_LONGEST_KEY: Final = 1024

Constructors: TypeAlias = Mapping[str, Callable[..., object]]


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """Name of a Python object, as ``module.name``. It stays a name."""

    name: str


@dataclass(slots=True, eq=False)
class Inert:
    """Stand-in for an object that was not made.

    Attributes:
        name: the global that would have made it.
        arguments: with which it would have been called.
        state: its attributes, where the file sets any.
        items: its entries, where it would have been a kind of dict.
    """

    name: str
    arguments: tuple[object, ...] = ()
    state: object = None
    items: dict[object, object] | None = None


def read_pickle(
    data: bytes,
    *,
    constructors: Constructors,
    persistent: Callable[[object], object],
    budget: Budget,
    start: int = 0,
) -> tuple[object, int]:
    """Read a pickle of ``None``, numbers, text, bytes, lists, tuples, dicts, and objects of ours.

    Example::

        tree, end = read_pickle(data, constructors={}, persistent=storage_of, budget=budget)

    Args:
        data: a pickle of protocol 1 to 5; bytes after it are ignored.
        constructors: functions of ours by ``module.name``, called in place of the file's globals
            with the file's arguments, unchecked.
        persistent: function from a persistent id to an object.
        budget: pays for what the pickle makes.
        start: the place in `data` where the pickle begins.

    Returns:
        The object, and where the pickle ends.

    Raises:
        UnpicklingError: damaged, or of operations that no checkpoint needs.
        CheckpointError: it would take more memory or work than the budget has.
    """
    machine = _Machine(data, start, constructors, persistent, budget)
    try:
        return machine.run(), machine.at
    except UnpicklingError:
        raise
    except (IndexError, KeyError, ValueError, TypeError, struct.error) as error:
        # An empty stack, an empty memo, text that is no number, the end of the data: all damage.
        raise UnpicklingError(f"damaged near byte {machine.at}") from error


class _Machine:
    """Stack machine whose program is a pickle."""

    __slots__ = (
        "at", "budget", "constructors", "data", "globals", "marks", "memo", "persistent", "stack",
    )  # fmt: skip

    def __init__(
        self,
        data: bytes,
        start: int,
        constructors: Constructors,
        persistent: Callable[[object], object],
        budget: Budget,
    ) -> None:
        self.data = data
        self.at = start
        self.budget = budget
        self.constructors = constructors
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[str, Global] = {}

    def run(self) -> object:
        data, keep = self.data, self.budget.keep
        while True:
            keep(_OPERATION_BYTES)
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                return self.stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise UnpicklingError(f"operation {code:#04x} near byte {self.at} is not known")
            operation(self)

    def take(self, count: int) -> bytes:
        start = self.at
        self.at = end = start + count
        if count < 0 or end > len(self.data):
            raise UnpicklingError("truncated")
        self.budget.keep(count)
        return self.data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        text = self.take(self.data.index(b"\n", self.at) - self.at).decode()
        self.at += 1
        return text

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def named(self, module: object, name: object) -> Global:
        if type(module) is not str or type(name) is not str:
            raise UnpicklingError("a global whose name is no text")
        length = len(module) + len(name) + 1
        if length > _LONGEST_GLOBAL:
            raise UnpicklingError(f"a global with a name of {length:,} characters")
        self.budget.touch(length)
        full = f"{module}.{name}"
        if full not in self.globals:
            self.budget.keep(4 * length)  # characters of up to 4 bytes
            self.globals[full] = Global(full)
        return self.globals[full]

    def make(self, keywords: object = None) -> object:
        """Stand in for the call of a global with its arguments; both are on top of the stack."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or type(function) not in (Global, Inert):
            raise UnpicklingError("a call of what cannot be called")
        constructor = self.constructors.get(function.name) if type(function) is Global else None
        if constructor is None:
            return Inert(function.name, arguments)
        if keywords:
            raise UnpicklingError(f"keywords for {function.name}")
        # Python copies them for the call.
        self.budget.touch(_REFERENCE_BYTES * len(arguments))
        return constructor(*arguments)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            self.budget.keep(2 * _REFERENCE_BYTES * len(items))  # with places to grow
            target.extend(items)
        elif type(target) is not Inert:
            raise UnpicklingError("items for what is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is Inert:
            target.items = target.items or {}
            target = target.items
        if type(target) is not dict:
            raise UnpicklingError("keys for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is str:
                self.budget.touch(len(key))  # compared with an equal key, or hashed
            target[key if _is_key(key) else Inert(type(key).__name__)] = value

    def set_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Inert:
            target.state = state
        elif type(target) is not dict:  # a state dict's attributes (``_metadata``) are of no use
            raise UnpicklingError("a state for what has none")

    def pop(self) -> None:
        # The bottom of the stack is above a mark: then the mark goes.
        self.stack.pop() if self.stack else self.since_mark()

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def last(self, count: int) -> None:
        """A tuple of the last items."""
        if len(self.stack) < count:
            raise UnpicklingError("a tuple of too few items")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def since_mark_as_tuple(self) -> tuple[Any, ...]:
        items = self.since_mark()
        self.budget.keep(_REFERENCE_BYTES * len(items))
        return tuple(items)

    def text_number(self) -> int | bool:
        text = self.line()
        return {"00": False, "01": True}[text] if text in ("00", "01") else int(text.rstrip("L"))

    def old_text(self, size: int) -> str:
        return self.take(size).decode("latin-1")

    def long(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little", signed=True)

    def text(self, size: int) -> str:
        data = self.take(size)
        if not data.isascii():
            self.budget.keep(3 * size)  # one character of four bytes makes all of them so
        return data.decode("utf-8", "surrogatepass")


def _is_key(value: object) -> bool:
    # A whole number is its own hash: below the limit, few of them can meet in one place.
    if type(value) is int:
        return 0 <= value < _LARGEST_KEY
    return type(value) is str and len(value) <= _LONGEST_KEY


def _push(value: Callable[[_Machine], object]) -> Callable[[_Machine], None]:
    def push(machine: _Machine) -> None:
        made = value(machine)  # which may go back to the stack below a mark: so first
        machine.stack.append(made)

    return push


def _skip(size: int) -> Callable[[_Machine], None]:
    def skip(machine: _Machine) -> None:
        machine.take(size)

    return skip


def _frozen_set(machine: _Machine) -> Inert:
    machine.since_mark()
    return Inert("frozenset")


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _named_on_stack(machine: _Machine) -> Global:
    name, module = machine.stack.pop(), machine.stack.pop()
    return machine.named(module, name)


_STOP: Final = pickle.STOP[0]
_by_opcode: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: _skip(1),
    pickle.FRAME: _skip(8),
    # constants and numbers
    pickle.NONE: _push(lambda m: None),
    pickle.NEWTRUE: _push(lambda m: True),
    pickle.NEWFALSE: _push(lambda m: False),
    pickle.BININT: _push(lambda m: m.long(4)),
    pickle.BININT1: _push(lambda m: m.number(1)),
    pickle.BININT2: _push(lambda m: m.number(2)),
    pickle.LONG1: _push(lambda m: m.long(m.number(1))),
    pickle.LONG4: _push(lambda m: m.long(m.long(4))),
    pickle.INT: _push(_Machine.text_number),
    pickle.LONG: _push(_Machine.text_number),
    pickle.BINFLOAT: _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    # text and bytes; each length is checked against what is there before anything is allocated
    pickle.SHORT_BINUNICODE: _push(lambda m: m.text(m.number(1))),
    pickle.BINUNICODE: _push(lambda m: m.text(m.number(4))),
    pickle.BINUNICODE8: _push(lambda m: m.text(m.number(8))),
    pickle.SHORT_BINSTRING: _push(lambda m: m.old_text(m.number(1))),
    pickle.BINSTRING: _push(lambda m: m.old_text(m.long(4))),
    pickle.SHORT_BINBYTES: _push(lambda m: m.take(m.number(1))),
    pickle.BINBYTES: _push(lambda m: m.take(m.number(4))),
    pickle.BINBYTES8: _push(lambda m: m.take(m.number(8))),
    pickle.BYTEARRAY8: _push(lambda m: m.take(m.number(8))),
    # containers
    pickle.EMPTY_LIST: _push(lambda m: []),
    pickle.EMPTY_DICT: _push(lambda m: {}),
    pickle.EMPTY_TUPLE: _push(lambda m: ()),
    pickle.EMPTY_SET: _push(lambda m: Inert("set")),
    pickle.APPEND: lambda m: m.append([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.append(m.since_mark()),
    pickle.ADDITEMS: lambda m: m.append(m.since_mark()),
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
    pickle.TUPLE1: lambda m: m.last(1),
    pickle.TUPLE2: lambda m: m.last(2),
    pickle.TUPLE3: lambda m: m.last(3),
    pickle.TUPLE: _push(_Machine.since_mark_as_tuple),
    pickle.FROZENSET: _push(_frozen_set),
    # the stack and the memo
    pickle.MARK: _Machine.mark,
    pickle.POP: _Machine.pop,
    pickle.POP_MARK: lambda m: m.since_mark().clear(),
    pickle.DUP: _push(lambda m: m.stack[-1]),
    pickle.BINPUT: lambda m: m.remember(m.number(1)),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number(4)),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.BINGET: _push(lambda m: m.memo[m.number(1)]),
    pickle.LONG_BINGET: _push(lambda m: m.memo[m.number(4)]),
    # what would be code
    pickle.GLOBAL: _push(lambda m: m.named(m.line(), m.line())),
    pickle.STACK_GLOBAL: _push(_named_on_stack),
    pickle.REDUCE: _push(_Machine.make),
    pickle.NEWOBJ: _push(_Machine.make),
    pickle.NEWOBJ_EX: _push(lambda m: m.make(m.stack.pop())),
    pickle.BUILD: _Machine.set_state,
    pickle.BINPERSID: _push(lambda m: m.persistent(m.stack.pop())),
}
_OPERATIONS: Final = {code[0]: operation for code, operation in _by_opcode.items()}
