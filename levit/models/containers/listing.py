"""Names that come from files, in one printable line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["listing"]

_LISTED: Final = 12


def listing(names: Sequence[str], most: int = _LISTED) -> str:
    """List the first of these names in one printable line.

    ::

        listing(["a", "b"])  # "a, b"
    """
    shown = [name if len(name) <= 100 else f"{name[:100]}…" for name in names[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name if name.isprintable() else ascii(name) for name in shown) + more
