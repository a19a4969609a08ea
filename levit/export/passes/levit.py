"""Passes of LeViT alone."""

from __future__ import annotations

from levit.export.passes.shared import with_params
from levit.models.layers import RelativeBias, layers_of, transform
from levit.models.levit.layers import LevitBlock
from levit.models.model import Model

__all__ = ["fold_relative_bias", "pool_before_last_linear"]


def fold_relative_bias(model: Model) -> tuple[Model, int]:
    """Look ``attention_biases[:, index]`` up once: a static (H, Nq, Nk) table."""
    params, count = transform(model.params, RelativeBias, lambda _, bias: bias.fold())
    return with_params(model, params, count)


def pool_before_last_linear(model: Model) -> tuple[Model, int]:
    """Take the token mean before the last MLP's second Linear, and of the residual beside it.

    ``mean(x + Wh + b) = mean(x) + W·mean(h) + b``: the product then runs on one token
    instead of all. Not when the tokens themselves are an output, nor where there is no MLP
    or a norm is still in between (its order with the mean is exact too, but then nothing has
    been folded and the model is wanted as trained).
    """
    if model.plan.pool_early or "features" in model.plan.outputs:
        return model, 0
    blocks = [*layers_of(model.params, LevitBlock).values()]
    if not blocks or not blocks[-1].mlp.down.is_plain:
        return model, 0
    return model.with_plan(pool_early=True), 1
