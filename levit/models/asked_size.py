"""The size that a user asks for, where a checkpoint's tensors fit it as they fit others."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["asked_size"]


def asked_size(size: tuple[int, int], fitting: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Say that this size is taken for that of the training, where a square fits too.

    ::

        asked_size((112, 448), [(112, 448), (224, 224), (448, 112)])

    Args:
        size: (height, width) in pixels, which nothing but the user states.
        fitting: sizes whose tokens are as many.

    Returns:
        What had to be assumed, in words; nothing where no other square fits.
    """
    square = next((other for other in fitting if other != size and other[0] == other[1]), None)
    if square is None:
        return ()
    height, width = size
    side = square[0]
    return (
        f"image size of the training {height}x{width}, as asked for ({side}x{side} has the same "
        f"tokens; --config '{{\"img_size\": {side}}}' has the model resized from it)",
    )
