import json
import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit.json_values import (
    flag,
    listed,
    number,
    number_pair,
    parsed,
    shown,
    table,
    text,
    whole,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    getter=st.sampled_from([whole, number, text, flag, listed, table, number_pair]),
    value=ANYTHING,
)
def test_a_value_is_taken_as_it_is_or_refused_in_a_short_line(getter, value):
    message = None
    try:
        taken = getter(value, "depth")
    except (TypeError, ValueError) as error:
        message = str(error)
    if message is None:
        assert taken == value or (getter is number_pair and taken == tuple(value))
    else:
        assert message.startswith("depth: expected ")
        assert len(message) < 160


@pytest.mark.parametrize("value", [True, 2.0, "2", None, [2], 10**400, -1])
def test_a_count_is_an_integer_within_its_limits(value):
    expected = "a whole number from 0 to 9"
    with pytest.raises((TypeError, ValueError), match=f"^depth: expected {expected}, not "):
        whole(value, "depth", least=0, most=9)
    assert whole(9, least=0, most=9) == 9
    with pytest.raises(ValueError, match="at least 3"):
        whole(2, least=3)


def test_a_number_is_a_finite_float():
    for value in (math.nan, math.inf, 10**400, 10**5000):
        with pytest.raises(ValueError, match=r"^eps: expected a number, not "):
            number(value, "eps")
    assert number(3, "eps") == 3.0


def test_a_number_may_be_infinite_where_its_reader_says_so():
    assert number(math.inf, finite=False) == math.inf


def test_values_are_shown_short():
    assert shown("cat") == "'cat'"
    assert len(shown("x" * 5000)) < 90
    assert shown(10**5000) == "an int that cannot be shown"
    assert shown([10**5000]) == "a list that cannot be shown"


def test_nesting_without_end_is_shown_short():
    value = []
    for _ in range(100_000):
        value = [value]
    assert shown(value) == "a list that cannot be shown"


def timed(function, *arguments):
    """Seconds that a call takes, whether it raises ValueError or not; and its message."""
    started, message = time.perf_counter(), ""
    try:
        function(*arguments)
    except ValueError as error:
        message = str(error)
    return time.perf_counter() - started, message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=9,
)


@given(value=JSON)
def test_a_document_is_parsed_as_python_parses_it(value):
    assert parsed(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "'a' stands twice in one object"),
        ('[{"x": [{"\\u0061": 1, "a": 2}]}]', "'a' stands twice in one object"),
        ("9" * 5000, "99999999999999999999… is a number of 5000 digits"),
        ("[-" + "9" * 400 + "]", "is a number of 401 digits"),
        ("1e400", "1e400 is no finite number"),
        ("-1" + "0" * 400 + ".5", "is no finite number"),
        ("NaN", "NaN is no finite number"),
        ('{"a": -Infinity}', "-Infinity is no finite number"),
        ("[" * 66 + "]" * 66, "nested more than 64 deep"),
        ('{"a":[' * 33 + "]}" * 33, "nested more than 64 deep"),
        ("[" * 500_000, "nested more than 64 deep"),
        ('{"a":' * 500_000, "nested more than 64 deep"),
        ("", "Expecting value"),
        ("[1, 2", "Expecting ',' delimiter"),
    ],
)
def test_what_readers_of_json_may_take_differently_is_refused_in_a_short_line(words, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        parsed(words)
    assert len(str(raised.value)) < 160
    assert str(raised.value).isprintable()


def test_a_document_may_be_as_deep_as_the_limit():
    assert parsed("[" * 64 + "]" * 64)[0] is not None
    assert parsed("[" + "9" * 300 + "]")[0] == 10**300 - 1
    assert math.isinf(parsed("-Infinity", finite=False))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: "{" + ",".join(f'"{i}":1' for i in range(n)) + ',"x":1,"x":1}',
        lambda n: "{" + ",".join(['"x":1'] * n) + "}",
        lambda n: "[" + ",".join(["9" * 290] * (n // 50)) + "]",
        lambda n: "[" + "[]," * n + "[]]",
        lambda n: json.dumps("\\" * n),
    ],
    ids=["last names equal", "all names equal", "long numbers", "many lists", "backslashes"],
)
def test_time_grows_with_length_and_no_faster(make):
    small, _ = timed(parsed, make(20_000))
    large, _ = timed(parsed, make(320_000))  # 2 to 5 MB: 16 times as long, 256 if quadratic
    assert large < 160 * max(small, 1e-3)


def test_getters_take_or_refuse_every_number_that_was_let_in():
    for words in ("1e308", "-1e308", "9" * 300, "5e-324", "-0.0"):
        value = parsed(words)
        assert number(value, "eps") == float(words)
