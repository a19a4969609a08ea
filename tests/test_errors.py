import inspect
import pickle
import re

import pytest

from levit import errors
from levit.errors import LevitError


def drawn_tree():
    """(name, parent, what it means) of every line of the tree in the docstring."""
    found, parents = [], {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"^( *(?:[│ ] *)*(?:├── |└── )?)([A-Z]\w+Error)(?: +(\S.*))?$", line)
        if match is None:
            continue
        depth = len(match[1])
        parents = {d: name for d, name in parents.items() if d < depth}
        parent = parents[max(parents)] if parents else "Exception"
        parents[depth] = match[2]
        found.append((match[2], parent, match[3]))
    return found


def real_tree():
    classes = inspect.getmembers(errors, inspect.isclass)
    return {(name, cls.__bases__[0].__name__) for name, cls in classes}


def test_tree_in_the_docstring_is_the_tree_of_the_classes():
    assert {(name, parent) for name, parent, _ in drawn_tree()} == real_tree()
    assert len(drawn_tree()) == len(real_tree()) == 12


def test_every_leaf_is_explained():
    assert [name for name, parent, text in drawn_tree() if not text and parent != "Exception"] == []


def test_all_names_every_class():
    assert set(errors.__all__) == {name for name, _ in real_tree()}
    assert errors.__all__ == sorted(errors.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_caught_as_one_and_survives_a_pickle(name):
    # Workers of a process pool send them home.
    cls = getattr(errors, name)
    error = pickle.loads(pickle.dumps(cls("what, and what to do")))
    assert type(error) is cls
    assert isinstance(error, LevitError)
    assert not isinstance(error, (OSError, ValueError))
    assert str(error) == "what, and what to do"
    assert cls.__doc__


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\ud800", r"\ud800"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("鯉 × – ü", "鯉 × – ü"),
        ("", ""),
    ],
)
def test_message_is_one_line_whatever_is_in_it(message, shown):
    error = LevitError(message)
    assert str(error) == shown
    assert str(pickle.loads(pickle.dumps(error))) == shown


def test_long_message_keeps_what_is_wrong_and_what_to_do():
    message = f"wrong: {'x' * 100_000}: do this"
    error = LevitError(message)
    assert len(str(error)) <= errors.MAX_MESSAGE
    assert str(error).startswith("wrong: x")
    assert str(error).endswith(": do this")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(LevitError("y" * errors.MAX_MESSAGE)) == "y" * errors.MAX_MESSAGE
