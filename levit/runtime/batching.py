"""Batches: checked, and cut to the sizes that an artifact takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.artifact import Manifest, TensorSpec
from levit.errors import InputError

__all__ = ["check_batch", "run_in_chunks"]


def check_batch(batch: NDArray[Any], spec: TensorSpec) -> None:
    """Raise where `batch` does not fit an artifact's input.

    Raises:
        InputError: it is of another rank, shape or dtype; says what would make it fit.
    """
    if not isinstance(batch, np.ndarray):
        raise InputError(f"forward() takes a NumPy array, not {type(batch).__name__}")
    wanted = ("N", *spec.shape[1:])
    if batch.ndim == len(wanted) and batch.shape[1:] == wanted[1:] and batch.dtype == spec.dtype:
        return
    hint = ""
    if batch.ndim == len(wanted) - 1:
        hint = "; add the batch axis: batch[None]"
    elif batch.ndim == 4 and batch.shape[1:] != wanted[1:] and _is_other_layout(batch, wanted):
        axes = "(0, 3, 1, 2)" if spec.layout == "NCHW" else "(0, 2, 3, 1)"
        hint = f"; the layout is {spec.layout}: transpose{axes}"
    elif batch.shape[1:] == wanted[1:]:
        hint = f"; convert it with .astype('{spec.dtype}')"
        if spec.dtype == "uint8" or batch.dtype == np.uint8:
            hint = "; make it with preprocess()"
    shape = ", ".join(map(str, wanted))
    raise InputError(
        f"forward() takes ({shape}) {spec.dtype}, not {batch.shape} {batch.dtype}{hint}"
    )


def _is_other_layout(batch: NDArray[Any], wanted: tuple[int | str, ...]) -> bool:
    return sorted(batch.shape[1:]) == sorted(int(n) for n in wanted[1:])


def run_in_chunks(
    run: Callable[[NDArray[Any]], dict[str, NDArray[Any]]], batch: NDArray[Any], manifest: Manifest
) -> dict[str, NDArray[Any]]:
    """Run a batch of any N through a network of other sizes: cut, pad, put together.

    Returns:
        Every output by name, N first.
    """
    profile = manifest.batch
    if profile.static:
        parts = [
            {name: value[: len(chunk)] for name, value in run(padded).items()}
            for chunk, padded in _padded_chunks(batch, profile.max)
        ]
    else:
        parts = [run(chunk) for chunk in _chunks(batch, profile.max)]
    if len(parts) == 1:
        return parts[0]
    return {
        output.name: np.concatenate(
            [
                np.empty((0, *map(int, output.shape[1:])), output.dtype),
                *(part[output.name] for part in parts),
            ]
        )
        for output in manifest.outputs
    }


def _chunks(batch: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Cut into pieces of `size` rows or fewer, contiguous."""
    for start in range(0, len(batch), size):
        yield np.ascontiguousarray(batch[start : start + size])


def _padded_chunks(batch: NDArray[Any], size: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Cut into pieces of `size` rows or fewer; yield each, and a copy padded to `size`."""
    for chunk in _chunks(batch, size):
        missing = size - len(chunk)
        padding = np.zeros((missing, *chunk.shape[1:]), chunk.dtype)
        yield chunk, (np.concatenate([chunk, padding]) if missing else chunk)
