"""Heads of known queries, keys and values, for the tests of attention."""

import numpy as np


def parts_of(sketch, source, heads, widths):
    """Project the channels of a buffer, in their order, into a part of each width: no rounding."""
    columns, parts, first = heads * sum(widths), [], 0
    for width in widths:
        parts.append((np.eye(columns)[first : first + heads * width], None))
        first += heads * width
    return sketch.project(source, heads, parts)


def of_head(x, head, heads, widths, part):
    """(B, N, columns) → those of one head in a part."""
    first = heads * sum(widths[:part]) + head * widths[part]
    return x[..., first : first + widths[part]]
