"""A model's convolutions and Linears by the names under which it applies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from levit.models.counting import ShapeOps
from levit.models.layers import Conv, Linear, layers_of, transform
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

    def linear(self, x: tuple[int, ...], weight: Array, bias: Array | None) -> tuple[int, ...]:
        self.names[_address(weight)] = self.path
        return super().linear(x, weight, bias)

    def conv(
        self, x: tuple[int, ...], weight: Array, bias: Array | None, stride: int, padding: int
    ) -> tuple[int, ...]:
        self.names[_address(weight)] = self.path
        return super().conv(x, weight, bias, stride, padding)


def _address(weight: Array) -> int:
    address: int = weight.__array_interface__["data"][0]
    return address


def layer_names(model: Model) -> Mapping[int, str]:
    """The name of every layer by the address of its weight."""
    ops = _NamingOps()
    model.forward(ops, (1, *model.input_shape))
    return ops.names


def name_of(layer: Conv | Linear, names: Mapping[int, str]) -> str:
    """A layer's name, or nothing where the model does not apply it."""
    return names.get(_address(layer.weight), "")


def with_layers(model: Model, change: Callable[[str, Any], Any]) -> Model:
    """The model with `change` applied to each of its convolutions and Linears, by name."""
    names = layer_names(model)

    def visit(layer: Any) -> Any:
        name = name_of(layer, names)
        return change(name, layer) if name else layer

    params, _ = transform(model.params, Conv, visit)
    params, _ = transform(params, Linear, visit)
    return replace(model, params=params)


def layers_by_name(model: Model) -> dict[str, Conv | Linear]:
    """Every layer that the model applies."""
    names = layer_names(model)
    layers: list[Conv | Linear] = [*layers_of(model.params, Conv)]
    layers += layers_of(model.params, Linear)
    named = {name_of(layer, names): layer for layer in layers}
    return {name: layer for name, layer in named.items() if name}
