"""Random weights on which a comparison means something.

An untrained LeViT outputs nearly zero (the last norm of every residual branch is zero) and
passes any check. With everything random, the network is deaf (its answers hardly depend on
the picture) or chaotic (float32 itself is wrong by a percent). Here BatchNorm statistics are
taken from data, layer after layer, the last norms of residual branches are small, and
attention favours near tokens; a draw that is deaf or chaotic all the same is drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Final

import numpy as np

from levit.errors import ExportError
from levit.models.layers import BatchNorm, layers_of
from levit.models.model import Family, Keymap, Model, Plan
from levit.models.ops import Array, NumpyOps
from levit.models.pictures import smooth_pictures, standardized

__all__ = ["conditioning", "flatten", "random_model"]

MIN_SPREAD: Final = 0.1
MAX_FLOAT32_ERROR: Final = 1e-5
_ATTEMPTS: Final = 8
_PICTURES: Final = 8


class _Empty:
    """Hands out writable arrays, for the randomiser to fill."""

    def tensor(self, key: str, shape: tuple[int, ...]) -> Array:
        return np.ones(shape, np.float32)

    def constant(self, key: str, value: Array) -> None:
        pass


class _CalibratingOps(NumpyOps):
    """Sets every BatchNorm's statistics to those of what reaches it, then applies it."""

    def batch_norm(
        self, x: Array, scale: Array, shift: Array, mean: Array, var: Array, eps: float, axis: int
    ) -> Array:
        others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        mean[...] = x.mean(axis=others)
        spread = x.var(axis=others)
        # A channel that hardly varies would have its rounding errors blown up to size one.
        var[...] = np.maximum(spread, spread.mean() + 0.3 * np.square(mean).mean() + 1e-6)
        return super().batch_norm(x, scale, shift, mean, var, eps, axis)


def random_model(family: Family, config: Any, seed: int) -> Model:
    """A model with random weights whose outputs vary with the picture and are well rounded.

    Raises:
        ExportError: no draw of eight was fit (a very unusual config).
    """
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        params = family.build(config, family.keymaps[0], _Empty())
        family.randomize(params, rng)
        model = Model(family, config, params, Plan(outputs=family.outputs(config)[:1]))
        pictures = smooth_pictures(rng, _PICTURES, config.image_size, config.in_channels)
        inputs = standardized(pictures)
        if layers_of(params, BatchNorm):
            model.forward(_CalibratingOps(np.float32), inputs)
        spread, error = conditioning(model, inputs[:2])
        if spread >= MIN_SPREAD and error <= MAX_FLOAT32_ERROR:
            return model
    raise ExportError(
        f"no random weights of seed {seed} make a network fit to compare (the last draw: spread "
        f"{spread:.3f}, float32 error {error:.1e}); try another --random-weights SEED"
    )


def conditioning(model: Model, inputs: Array) -> tuple[float, float]:
    """(spread between inputs, float32 error), both as a fraction of the largest output.

    Args:
        inputs: (N, C, H, W), N at least 2.
    """
    name = model.plan.outputs[0]
    exact = model.forward(NumpyOps(np.float64), inputs.astype(np.float64))[name]
    single = model.forward(NumpyOps(np.float32), inputs.astype(np.float32))[name]
    largest = np.abs(exact).max()
    spread = np.ptp(exact, axis=0).max() / largest
    return float(spread), float(np.abs(single - exact).max() / largest)


def flatten(model: Model, keymap: Keymap) -> dict[str, Array]:
    """The tensors of a model as trained under the names of a source format: build's inverse.

    The family's ``build`` is run on arrays that hold every element's number instead of its
    value; where a number arrives in the tree, there the value belongs.
    """
    numbers = _Numbers()
    places = model.family.build(model.config, keymap, numbers)
    kinds = {array.dtype for array in _arrays(model.params) if array.dtype.kind == "f"}
    values = np.zeros(numbers.total, np.result_type(*kinds))
    _scatter(places, model.params, values)
    return {
        key: values[start : start + int(np.prod(shape))].reshape(shape)
        for key, (start, shape) in numbers.tensors.items()
    }


class _Numbers:
    """Hands out arrays of consecutive numbers."""

    def __init__(self) -> None:
        self.total = 0
        self.tensors: dict[str, tuple[int, tuple[int, ...]]] = {}

    def tensor(self, key: str, shape: tuple[int, ...]) -> Array:
        start = self.total
        self.total += int(np.prod(shape))
        self.tensors[key] = (start, shape)
        return np.arange(start, self.total).reshape(shape)

    def constant(self, key: str, value: Array) -> None:
        pass


def _arrays(tree: Any) -> Iterator[Array]:
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, tuple):
        for item in tree:
            yield from _arrays(item)
    elif is_dataclass(tree):
        for f in fields(tree):
            yield from _arrays(getattr(tree, f.name))


def _scatter(places: Any, tree: Any, values: Array) -> None:
    if isinstance(places, np.ndarray):
        values[places] = tree
    elif isinstance(places, tuple):
        for place, item in zip(places, tree, strict=True):
            _scatter(place, item, values)
    elif is_dataclass(places):
        for f in fields(places):
            if f.name != "index":
                _scatter(getattr(places, f.name), getattr(tree, f.name), values)
