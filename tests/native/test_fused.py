"""Multiply-adds of the interpreter are rounded once."""

from fractions import Fraction

import numpy as np

from levit.native.integers import fused

LARGEST = Fraction(2) ** 128


def nearest(exact: Fraction) -> np.float32:
    """The float32 nearest to a number, or else the even one."""
    below = np.float32(float(exact))  # at most one place off
    around = [np.nextafter(below, np.float32(x), dtype=np.float32) for x in (-np.inf, np.inf)]
    return min(
        (below, *around),
        key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) % 2),
    )


def test_random_and_halfway(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((2, 3000)).astype(np.float32)
    z = (rng.standard_normal(3000) * 10.0 ** rng.integers(-9, 9, 3000)).astype(np.float32)
    # Products a little off the middle between two float32, by less than float64 shows beside z.
    x[:1000] = 1 + np.float32(2.0**-12) * rng.integers(1, 64, 1000)
    y[:1000] = np.float32(2.0**-24) * (1 + 2.0**-20 * rng.integers(-3, 4, 1000))
    z[:1000] = rng.integers(1, 3, 1000)
    found = fused(x, y, z)
    for a, b, c, answer in zip(x, y, z, found, strict=True):
        assert answer == nearest(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)))


def test_rounded_twice_would_differ() -> None:
    x, y, z = np.float32(1 + 2.0**-23), np.float32(2.0**-24 - 2.0**-47), np.float32(1)
    assert Fraction(float(x)) * Fraction(float(y)) < Fraction(1, 2**24)
    assert fused(np.asarray(x), y, z) == 1
    x = np.float32(1 + 2.0**-12)
    y = np.float32((1 + 2.0**-12) * 2.0**-24)
    exact = Fraction(float(x)) * Fraction(float(y)) + 1
    assert fused(np.asarray(x), y, z) == nearest(exact) != 1


def test_what_is_no_number() -> None:
    infinite, none = np.float32(np.inf), np.float32(np.nan)
    assert fused(np.asarray(infinite), np.float32(1), np.float32(2)) == np.inf
    assert np.isnan(fused(np.asarray(none), np.float32(1), np.float32(2)))
