import inspect
import pickle
import re

import pytest

from levit import errors
from levit.errors import ConfigError, LevitError


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
    assert len(drawn_tree()) == len(real_tree()) == 11


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


def test_a_message_is_one_line_of_a_length_to_read():
    assert str(ConfigError("runs\n/m.pth: no such file")) == "runs /m.pth: no such file"
    assert str(ConfigError("x" * 3_000)) == "x" * 3_000
    shown = str(ConfigError(f"size: not {'9' * 100_000}; correct that"))
    assert shown.startswith("size: not 999")
    assert shown.endswith("999; correct that")
    assert len(shown) < 3_010
