"""Results that belong to a model and are made once for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from levit.models.model import Model

__all__ = ["OncePerModel"]

T = TypeVar("T")


class OncePerModel(Generic[T]):
    """Results by model: by its weights, its dataflow, and what else they depend on.

    ::

        sessions: OncePerModel[Taps] = OncePerModel()
        sessions.get(model, lambda: Taps(model))

    Args:
        most: how many results are kept, the latest; None for all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        # The weights are held too: an address that is free may be another model's.
        self._made: dict[Hashable, tuple[Any, T]] = {}

    def find(self, model: Model, *also: Hashable) -> T | None:
        """The result that was made for `model` (and `also`), or None."""
        found = self._made.get((id(model.params), model.plan, *also))
        return None if found is None else found[1]

    def get(self, model: Model, make: Callable[[], T], *also: Hashable) -> T:
        """The result that was made for `model` (and `also`), or one that `make` makes now."""
        key = (id(model.params), model.plan, *also)
        if key not in self._made:
            if len(self._made) == self._most:
                self._made.pop(next(iter(self._made)))
            self._made[key] = (model.params, make())
        return self._made[key][1]
