"""Float64 answers of steps, and how far rounding to float32 may take a kernel from each value.

A sum of n products meets 2n roundings, each of at most half a unit in the last place of a partial
sum. Of terms with independent signs partial sums walk from 0 to the value and stray from that way
by the root of the sum of their squares; and so the roundings add up to some λ·√(2n) of one (Higham
& Mary, SIAM J. Sci. Comput. 41, 2019).
"""

import numpy as np

from levit.native.interpreter import ACTIVATIONS

UNIT = 2.0**-24  # half a unit in the last place of 1
SMALLEST = 2.0**-126  # what is below becomes 0
LAMBDA = 2  # the largest of ten million errors was half of what this gives


def roundings(terms):
    return LAMBDA * np.sqrt(2 * terms) * UNIT


def added(x, y, *terms):
    """(value, bound) of ``x @ y + terms``, all in float64."""
    value, squares = x @ y, np.square(x) @ np.square(y)
    for term in terms:
        if term is not None:
            value, squares = value + term, squares + np.square(term, dtype=np.float64)
    return value, roundings(x.shape[-1] + len(terms)) * (np.abs(value) + np.sqrt(squares))


def activated(y, error, name):
    """(value, bound) of an activation of values that are `error` off."""
    value, size = ACTIVATIONS[name](y), np.abs(y)
    match name:
        case None:
            return value, error
        case "hard_swish":  # of slope 1.5 at most
            return value, 1.5 * error + 3 * UNIT * size
        case "silu":  # e^-x is as far off as its exponent is rounded; below e^-87 it stays there
            gate = np.exp(-np.logaddexp(0, -y))
            off = (1 - gate) * (2 * size + 4) + 3
            return value, 1.1 * error + (UNIT * off * gate + 1.01 * SMALLEST) * size
        case "gelu":  # what is taken off the positive part is 1.6e-7 off, and nothing beyond 5.3
            return value, 1.13 * error + 1.6e-7 + UNIT * (3 * np.minimum(size, 5.3) + np.abs(value))
        case "tanh":  # 1 - 2 / (e^2x + 1), whose power is as far off as its exponent is rounded
            slope = 1 - np.square(value)
            return value, error + UNIT * (slope * (3 * size + 4) + 4)
    raise ValueError(name)


def product(x, weight, bias=None, activation=None, residual=None):
    """(value, bound) of ``activation(x @ weight.T + bias) + residual``."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    return activated(*added(x, weight.T, bias, residual), activation)


def convolution(x, weight, bias=None, activation=None):
    """(value, bound) of a 3×3 convolution with stride 2: (B, H, W, I) → (B, h · w, O)."""
    batch, height, width, channels = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.concatenate(
        [x[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)], -1
    )
    flat = weight.transpose(0, 2, 3, 1).reshape(len(weight), 9 * channels)
    return product(windows.reshape(batch, -1, 9 * channels), flat, bias, activation)


def layer_norm(x, eps, weight=None, bias=None):
    """(value, bound) of a norm over the last axis."""
    x = x.astype(np.float64)
    mean = x.mean(-1, keepdims=True)
    squares = np.square(x).sum(-1, keepdims=True)
    columns = x.shape[-1]
    off = roundings(columns) * (np.abs(mean) + np.sqrt(squares) / columns)
    off = off + UNIT * (np.abs(x) + 2 * np.abs(mean))  # of what is centred
    centred = x - mean
    variance = np.square(centred).mean(-1, keepdims=True) + eps
    widest = off.max(-1, keepdims=True)
    share = (2 * np.sqrt(variance) * widest + np.square(widest)) / variance + roundings(columns)
    value = centred / np.sqrt(variance)
    bound = off / np.sqrt(variance) + np.abs(value) * (share / 2 + 5 * UNIT)
    if weight is None:
        return value, bound
    value, bound = value * weight, bound * np.abs(weight)
    bound = bound + UNIT * (np.abs(value) + np.abs(value + bias))
    return value + bias, bound


def attention(q, k, v, table, activation=None, positions=None, rest=1.0):
    """(value, bound) of a head: (B, Nq, D), (B, N, D), (B, N, Dv), (Nq, N) → (B, Nq, Dv)."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores, off = added(q, k.swapaxes(1, 2), table)
    below = scores.max(-1, keepdims=True) - scores
    share = np.exp2(-below)
    share /= share.sum(-1, keepdims=True)
    # Of a power of two: its exponent's rounding, and two units in its last place.
    exponent = np.where(below < 126, off + UNIT * below, 0)
    power = share * (np.expm1(np.log(2) * exponent) + 4 * UNIT)
    value, error = added(share, v)
    error += power @ np.abs(v) + np.abs(value) * (power.sum(-1, keepdims=True) + 3 * UNIT)
    # The sum of the powers, all of one sign.
    error += np.abs(value) * roundings(k.shape[1])
    error += k.shape[1] * SMALLEST * np.abs(v).max()
    if positions is not None:  # each weight is rounded twice before it meets the values
        beside, more = added(positions[None].astype(np.float64), v)
        whole = rest * share + np.abs(positions)
        value, error = rest * value + beside, rest * error + more
        error += (3 * UNIT + roundings(k.shape[1])) * (whole @ np.abs(v))
    return activated(value, error, activation)


def excess(found, value, bound):
    """The largest error as a fraction of its bound; 1 is too much already."""
    assert found.shape == value.shape
    with np.errstate(invalid="ignore"):
        error = np.abs(found - value)
        ratio = np.where(error == 0, 0, error / np.where(bound == 0, SMALLEST, bound))
    return np.inf if np.isnan(ratio).any() else float(ratio.max(initial=0))
