"""A model's convolutions and Linears by the names under which it applies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from levit.models.counting import ShapeOps
from levit.models.layers import Conv, Linear, transform
from levit.models.model import Model
from levit.models.ops import Array

__all__ = ["layer_names", "layers_by_name", "name_of", "with_layers"]


class _NamingOps(ShapeOps):
    """Notes under which name each weight is applied, by where it lies in memory.

    A name of `ops.scope` is the one that graphs and messages have; the tree does not know it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[int, str] = {}
        self.layer_macs: dict[str, int] = {}

    def linear(self, x: tuple[int, ...], weight: Array, bias: Array | None) -> tuple[int, ...]:
        before = self.macs
        y = super().linear(x, weight, bias)
        self._note(weight, before)
        return y

    def conv(
        self, x: tuple[int, ...], weight: Array, bias: Array | None, stride: int, padding: int
    ) -> tuple[int, ...]:
        before = self.macs
        y = super().conv(x, weight, bias, stride, padding)
        self._note(weight, before)
        return y

    def _note(self, weight: Array, before: int) -> None:
        self.names[_address(weight)] = self.path
        self.layer_macs[self.path] = self.macs - before


def _address(weight: Array) -> int:
    address: int = weight.__array_interface__["data"][0]
    return address


def layer_names(model: Model) -> tuple[Mapping[int, str], Mapping[str, int]]:
    """(name by the address of its weight, multiply-accumulates by name) of every layer."""
    config, ops = model.config, _NamingOps()
    shape: tuple[int, ...] = (1, config.in_channels, *config.image_size)
    if model.plan.pixels is not None:
        shape = (1, *config.image_size, config.in_channels)
    model.forward(ops, shape)
    return ops.names, ops.layer_macs


def name_of(layer: Conv | Linear, names: Mapping[int, str]) -> str:
    """A layer's name, or nothing where the model does not apply it."""
    return names.get(_address(layer.weight), "")


def with_layers(model: Model, change: Callable[[str, Any], Any]) -> Model:
    """The model with `change` applied to each of its convolutions and Linears, by name."""
    names, _ = layer_names(model)

    def visit(layer: Any) -> Any:
        name = name_of(layer, names)
        return change(name, layer) if name else layer

    params, _ = transform(model.params, Conv, visit)
    params, _ = transform(params, Linear, visit)
    return replace(model, params=params)


def layers_by_name(model: Model) -> dict[str, Conv | Linear]:
    """Every layer that the model applies."""
    found: dict[str, Conv | Linear] = {}

    def note(name: str, layer: Any) -> Any:
        found[name] = layer
        return layer

    with_layers(model, note)
    return found
