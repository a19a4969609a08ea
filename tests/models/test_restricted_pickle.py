"""Pickles as data: what comes out, and that nothing else happens."""

import argparse
import pickle
import pickletools
import sys
import types
from collections import Counter, OrderedDict
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pth_writer import Call, Name, Persistent, pickled

from levit.errors import CheckpointError
from levit.models.containers import restricted_pickle
from levit.models.containers.budget import Budget
from levit.models.containers.restricted_pickle import Global, Inert, read_pickle

PROTOCOLS = [1, 2, 3, 4, 5]


def read(data, constructors=None, persistent=lambda identity: ("persistent", identity)):
    budget = Budget("a.pth", len(data))
    constructors = constructors or {}
    return read_pickle(data, constructors=constructors, persistent=persistent, budget=budget)[0]


def refusal(data):
    """What is said against these bytes, if anything is."""
    try:
        read(data)
    except pickle.UnpicklingError as error:
        return str(error)
    return ""


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(st.characters()), inner)
    ),
)


@given(trees, st.sampled_from([3, 4, 5]))
def test_plain_data_comes_out_as_pickle_reads_it(tree, protocol):
    assert read(pickle.dumps(tree, protocol)) == tree


@given(trees, st.sampled_from([1, 2]))
def test_bytes_of_older_protocols_were_calls_and_are_inert(tree, protocol):
    def without_bytes(value):
        if isinstance(value, bytes):
            return None
        if isinstance(value, dict):
            return {key: without_bytes(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(without_bytes, value))
        return value

    def without_inert(value):
        if isinstance(value, Inert):
            assert value.name in ("_codecs.encode", "__builtin__.bytes")
            return None
        if isinstance(value, dict):
            return {key: without_inert(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(without_inert, value))
        return value

    assert without_inert(read(pickle.dumps(tree, protocol))) == without_bytes(tree)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_object_is_inert_whatever_is_done_to_it(protocol, monkeypatch):
    class Settings(dict):
        def __reduce__(self):
            return Settings, (1,), {"state": 2}, iter([3]), iter([("key", 4)])

    Settings.__qualname__, Settings.__module__ = "Settings", "somewhere"
    module = types.ModuleType("somewhere")
    module.Settings = Settings
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "somewhere", module)
        data = pickle.dumps({"settings": Settings(), "class": Settings, "after": 5}, protocol)
    found = read(data)
    assert type(found["settings"]) is Inert
    assert found["settings"].name == "somewhere.Settings"
    assert type(found["class"]) is Global
    assert found["after"] == 5
    for value in (found["settings"], found["class"]):
        assert not callable(value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_recursive_structures_keep_their_identity(protocol):
    shared = [1]
    tree = {"a": shared, "b": shared, "itself": []}
    tree["itself"].append((tree, tree["itself"]))
    found = read(pickle.dumps(tree, protocol))
    assert found["a"] is found["b"]
    assert found["itself"][0][0] is found
    assert found["itself"][0][1] is found["itself"]


def test_sets_and_what_is_no_string_as_a_key_are_inert():
    table = {1: "one", (2, 3): "two", "x": "y", 2**20: "large", -1: "below"}
    found = read(pickle.dumps([{1, 2}, frozenset("a"), table], 4))
    assert [value.name for value in found[:2]] == ["set", "frozenset"]
    assert list(found[2].values()) == ["one", "two", "y", "large", "below"]
    assert [getattr(key, "name", key) for key in found[2]] == [1, "tuple", "x", "int", "int"]


def test_the_arguments_attributes_and_items_of_what_is_not_made_are_data():
    made = argparse.Namespace(mean=[0.5], path=PurePosixPath("/a/b"))
    found = read(pickle.dumps(made, 2))
    assert (found.name, found.state["mean"]) == ("argparse.Namespace", [0.5])
    assert str(PurePosixPath(*found.state["path"].arguments)) == "/a/b"
    found = read(pickle.dumps(Counter(a=2), 2))
    assert (found.name, found.arguments) == ("collections.Counter", ({"a": 2},))


def test_a_constructor_of_ours_gets_the_arguments():
    data = pickle.dumps(OrderedDict(a=1), 2)
    found = read(data, {"collections.OrderedDict": lambda *arguments: dict(arguments)})
    assert found == {"a": 1}


def test_wrong_arguments_for_a_constructor_are_damage():
    data = pickled(Call(Name("ours", "f"), (1, 2)))
    assert read(data, {"ours.f": lambda a, b: a + b}) == 3
    with pytest.raises(pickle.UnpicklingError, match="damaged"):
        read(data, {"ours.f": lambda a: a})


def test_persistent_identities_go_to_the_caller():
    found = read(pickled({"a": Persistent(("storage", 1))}))
    assert found == {"a": ("persistent", ("storage", 1))}


def test_a_call_of_an_inert_thing_is_inert():
    # getattr(os, "system")("…"), step by step
    chain = Call(Call(Name("builtins", "getattr"), (Name("os", "path"), "system")), ("touch x",))
    assert read(pickled(chain)).name == "builtins.getattr"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02]",
        b"\x80\x02(.",
        b"a.",
        b"(]a.",
        b"]N]b.",  # a list has no state
        b"}K\x01a.",  # append to a dict
        b"]K\x01K\x02s.",  # an item of a list by key
        b"}(K\x01u.",  # a key without a value
        b"K\x01)R.",  # a call of a number
        b"cos\nsystem\nK\x01R.",  # arguments that are no tuple
        b"cos\nsystem",
        b"cos\n\xff\n.",
        b"K\x01K\x02\x93.",  # a global named by numbers
        b"h\x05.",  # what the memo does not hold
        b"q\x00.",
        b"\x85.",
        b"X\xff\xff\xff\xffabc.",
        b"X\x01\x00\x00\x00\xff.",
        b"\x8a\xff\x01.",
        b"\x8b\xff\xff\xff\x7f\x01.",
        b"\x8b\xff\xff\xff\xff\x01.",  # a negative length
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"I" + b"9" * 5000 + b"\n.",
        b"Ione\n.",
        b"1.",
        b"t.",
        b"\x94.",
    ],
)
def test_damage_is_one_error(data):
    with pytest.raises(pickle.UnpicklingError) as caught:
        read(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"(S'touch x'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nX\x07\x00\x00\x00touch xo.",  # OBJ
        b"\x82\x01.",  # EXT1
        b"\x83\x01\x00.",
        b"\x84\x01\x00\x00\x00.",
        b"P1\n.",  # PERSID
        b"\x97.",  # NEXT_BUFFER
        b"\x98.",
        b"g0\n.",
        b"\x00.",
        b"\xff.",
    ],
)
def test_operations_that_no_checkpoint_needs_are_refused(data):
    with pytest.raises(pickle.UnpicklingError, match="is not known"):
        read(data)


def test_every_other_operation_is_known():
    text_only = {"FLOAT", "STRING", "UNICODE", "GET", "PUT", "LIST", "DICT", "INST", "OBJ"}
    outside = {"PERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
    known = {*restricted_pickle._OPERATIONS, restricted_pickle._STOP}
    unknown = {code.name for code in pickletools.opcodes if ord(code.code) not in known}
    assert unknown == text_only | outside


def test_operations_are_paid_for():
    fits = b"N0" * 100_000 + b"N."
    assert read(fits) is None
    with pytest.raises(CheckpointError, match="takes more memory than any training writes"):
        read(b"N0" * 2_000_000 + b"N.")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    assert "\n" not in refusal(data)


@given(st.data())
def test_any_change_of_a_real_pickle_is_read_or_refused(data):
    tree = {"a": [1, 2.5, "text", (None, True)], "b": OrderedDict(c={1, 2}), "d": 10**30}
    original = pickle.dumps(tree, data.draw(st.sampled_from(PROTOCOLS)))
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    assert "\n" not in refusal(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
