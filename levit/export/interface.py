"""Inputs and outputs of a deployed model, as its manifest and every target's payload state them."""

from __future__ import annotations

from levit.artifact import TensorSpec
from levit.models.model import Model

__all__ = ["input_spec", "output_specs"]


def input_spec(model: Model, batch: int | None) -> TensorSpec:
    """Specify the input; `batch` None stands for any size."""
    shape: tuple[int | str, ...] = ("batch" if batch is None else batch, *model.input_shape)
    if model.plan.pixels is not None:
        return TensorSpec(name="pixels", dtype="uint8", layout="NHWC", shape=shape)
    return TensorSpec(name="image", dtype="float32", layout="NCHW", shape=shape)


def output_specs(model: Model, batch: int | None) -> tuple[TensorSpec, ...]:
    """The outputs in the plan's order."""
    first: int | str = "batch" if batch is None else batch
    specs = []
    for name in model.plan.outputs:
        layout, shape = model.family.output_layout(model.config, name)
        specs.append(TensorSpec(name=name, dtype="float32", layout=layout, shape=(first, *shape)))
    return tuple(specs)
