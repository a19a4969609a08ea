import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit.json_values import flag, listed, number, number_pair, shown, table, text, whole

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
