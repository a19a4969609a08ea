import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.errors import ExportError
from levit.export.precision import PRECISIONS, choose_opset, rounded, to_bfloat16

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def as_float64(bits):
    return bits.view(ml_dtypes.bfloat16).astype(np.float64)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_range_is_the_types(precision):
    kind = PRECISIONS[precision]
    limits = ml_dtypes.finfo(DTYPES[kind.dtype])
    assert kind.largest == float(limits.max)
    assert kind.smallest == float(limits.smallest_normal)


def test_bfloat16_of_float32_is_ml_dtypes(rng):
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(to_bfloat16(values), expected)


@settings(deadline=None, max_examples=300)
@given(st.floats(-(2.0**100), 2.0**100, allow_nan=False, width=64))
def test_bfloat16_of_float64_is_the_nearest(value):
    """The two neighbours in bfloat16 say which is nearer, in exact arithmetic."""
    found = to_bfloat16(np.array([value]))
    around = as_float64(
        np.array([max(int(found[0] & 0x7FFF) - 1, 0), found[0] & 0x7FFF, (found[0] & 0x7FFF) + 1])
        .astype(np.uint16)
    )  # fmt: skip
    distances = np.abs(around - abs(value))
    assert distances[1] == distances.min()
    if np.sum(distances == distances.min()) > 1 and around[0] != around[1]:
        assert found[0] % 2 == 0, "a tie that did not go to the even one"


def test_bfloat16_is_rounded_once():
    """Just over a tie by less than float32 can say: by way of it, the tie would go down."""
    above = 1 + 2.0**-8 + 2.0**-40
    assert as_float64(to_bfloat16(np.array([above, 1 + 2.0**-8])))[0] == 1 + 2.0**-7
    assert as_float64(to_bfloat16(np.array([above, 1 + 2.0**-8])))[1] == 1


def test_what_is_not_finite_stays_so():
    found = as_float64(to_bfloat16(np.array([np.inf, -np.inf, np.nan, 1e39])))
    assert found[0] == np.inf
    assert found[1] == -np.inf
    assert np.isnan(found[2])
    assert found[3] == np.inf


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_largest_value_fits_and_twice_that_does_not(precision):
    kind = PRECISIONS[precision]
    found = rounded(np.array([kind.largest, -kind.largest]), kind.dtype)
    assert found.dtype == (np.uint16 if precision == "bf16" else kind.dtype)
    with pytest.raises(OverflowError):
        rounded(np.array([1.0, 2 * kind.largest]), kind.dtype)


def test_opsets_are_each_precisions_own():
    assert {name: choose_opset(name, None) for name in PRECISIONS} == {
        "fp32": 17,
        "fp16": 17,
        "bf16": 22,
    }
    assert choose_opset("fp32", None, quantized=True) == 17
    # QuantizeLinear takes float16 from 19 on.
    assert choose_opset("fp16", None, quantized=True) == 19
    assert choose_opset("fp16", 21, quantized=True) == 21
    with pytest.raises(ExportError, match="from 19 to 21 for int8, not 17"):
        choose_opset("fp16", 17, quantized=True)
    assert choose_opset("fp16", 21) == 21
    assert choose_opset("bf16", 22) == 22


@pytest.mark.parametrize(
    ("precision", "opset", "message"),
    [
        ("fp32", 22, "from 14 to 21 for fp32, not 22"),
        ("fp16", 13, "from 14 to 21 for fp16, not 13"),
        ("bf16", 17, "must be 22 for bf16, not 17"),
        ("bf16", 23, "must be 22 for bf16, not 23"),
    ],
)
def test_other_opsets_are_refused(precision, opset, message):
    with pytest.raises(ExportError, match=message):
        choose_opset(precision, opset)
