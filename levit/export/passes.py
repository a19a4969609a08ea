"""The compiler's passes: exact algebra, one function each, in the order in which they run.

A pass takes a model and returns (model, count), where count says how often it fired; 0 means
that the model is the one it was given. Each keeps every output, in number, shape and value:
max|difference| / max|reference| is at most 1e-12 in float64, which `prove` checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from levit.errors import VerificationError
from levit.models.layers import Conv, Linear, RelativeBias, layers_of, transform
from levit.models.levit.layers import Attention, LevitParams, Mlp
from levit.models.model import Model
from levit.models.ops import Array, NumpyOps

__all__ = [
    "EXACT",
    "PASSES",
    "Applied",
    "passes_for",
    "prove",
    "relative_difference",
    "require_exact",
    "run_passes",
]

Pass = Callable[[Model], tuple[Model, int]]

EXACT: Final = 1e-12


def fold_batchnorm(model: Model) -> tuple[Model, int]:
    """BatchNorm into the convolution or Linear before it, and a head's into the Linear after it.

    ``BN(Wx + b) = (s·W)x + (s·b + t)`` with ``s = γ/√(σ² + ε)``, ``t = β - s·μ``, and
    ``W·BN(x) + b = (W·s)x + (W·t + b)``. Exact: at inference a BatchNorm is affine with
    constants, and every one here has a single producer or consumer to go into. Each head
    has its own.
    """
    params, convs = transform(model.params, Conv, Conv.fold)
    params, linears = transform(params, Linear, Linear.fold)
    return _with_params(model, params, convs + linears)


def fold_query_scale(model: Model) -> tuple[Model, int]:
    """The score scale into the query's weights and bias: ``(q·k)/√d = (q/√d)·k``.

    Fires only where the query is a plain affine map: behind a BatchNorm the scale would have
    to go into the norm.
    """

    def fold(attention: Attention) -> Attention:
        if attention.scale is None or not _is_plain(attention.q):
            return attention
        return replace(attention, q=_scaled(attention.q, attention.scale), scale=None)

    params, count = transform(model.params, Attention, fold)
    return _with_params(model, params, count)


def drop_key_bias(model: Model) -> tuple[Model, int]:
    """The key's bias adds ``q·b_k`` to every score of a query; softmax over keys ignores it.

    ``softmax(x + c·1) = softmax(x)``, whatever is added per (query, key) beside it. After
    fold_batchnorm, which makes such biases. Fires only where a plain bias is left to drop.
    """

    def drop(attention: Attention) -> Attention:
        if attention.k.bias is None or not _is_plain(attention.k):
            return attention
        return replace(attention, k=replace(attention.k, bias=None))

    params, count = transform(model.params, Attention, drop)
    return _with_params(model, params, count)


def fold_relative_bias(model: Model) -> tuple[Model, int]:
    """``attention_biases[:, index]`` is the same at every call: a static (H, Nq, Nk) table."""
    params, count = transform(model.params, RelativeBias, RelativeBias.fold)
    return _with_params(model, params, count)


def merge_heads(model: Model) -> tuple[Model, int]:
    """Two heads on one embedding into one Linear with the mean of their weights.

    ``(W₁x + b₁ + W₂x + b₂)/2 = ((W₁+W₂)/2)x + (b₁+b₂)/2``. Not when a head is an output of
    its own, and only once both are plain (their norms differ).
    """
    params = model.params
    if not isinstance(params, LevitParams) or params.head is None or params.head_dist is None:
        return model, 0
    if {"logits_head", "logits_dist"} & set(model.plan.outputs):
        return model, 0
    if not (_is_plain(params.head) and _is_plain(params.head_dist)):
        return model, 0
    if params.head.bias is None or params.head_dist.bias is None:
        return model, 0
    merged = Linear(
        (params.head.weight.astype(np.float64) + params.head_dist.weight) / 2,
        (params.head.bias.astype(np.float64) + params.head_dist.bias) / 2,
    )
    return _with_params(model, replace(params, head=merged, head_dist=None), 1)


def pool_before_last_linear(model: Model) -> tuple[Model, int]:
    """The token mean before the last MLP's second Linear, and of the residual beside it.

    ``mean(x + Wh + b) = mean(x) + W·mean(h) + b``: the product then runs on one token
    instead of all. Not when the tokens themselves are an output, nor where there is no MLP
    or a norm is still in between (its order with the mean is exact too, but then nothing has
    been folded and the model is wanted as trained).
    """
    if model.plan.pool_early or "features" in model.plan.outputs:
        return model, 0
    mlps = layers_of(model.params, Mlp)
    if not mlps or not _is_plain(mlps[-1].down):
        return model, 0
    return model.with_plan(pool_early=True), 1


def fold_input_normalization(model: Model) -> tuple[Model, int]:
    """``1/(255·std)`` into the first convolution, where the input is uint8 pixels.

    ``W·((x/255 - μ)/σ) = (W/(255·σ))·(x - 255·μ)``, per input channel. The subtraction stays
    in front: the convolution's zero padding happens after normalisation and stands for the
    mean, so the border is exact; folding it too would need a border correction, which costs
    as much as it saves (docs/decisions.md).
    """
    plan, stem = model.plan, getattr(model.params, "stem", ())
    if plan.pixels is None or plan.pixels_folded or not stem or stem[0].norm is not None:
        return model, 0
    std = np.asarray(plan.pixels[1], np.float64)
    weight = stem[0].weight / (255 * std)[None, :, None, None]
    params = replace(model.params, stem=(replace(stem[0], weight=weight), *stem[1:]))
    return replace(model, params=params).with_plan(pixels_folded=True), 1


PASSES: Final[Sequence[Pass]] = (
    fold_batchnorm,
    fold_query_scale,
    drop_key_bias,
    fold_relative_bias,
    merge_heads,
    pool_before_last_linear,
    fold_input_normalization,
)


def passes_for(precision: str) -> Sequence[Pass]:
    """Those that are exact in numbers and do no harm in this precision.

    Not fold_input_normalization at less than float32: ``W/(255·σ)`` is a hundredth of ``W``,
    where float16 runs out of digits, and ``x - 255·μ`` has eight bits before the point.
    Pixels are normalised in float32 then, and cast once.
    """
    if precision == "fp32":
        return PASSES
    return tuple(function for function in PASSES if function is not fold_input_normalization)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """One pass that was run: its name, how often it fired, and the model after it."""

    name: str
    count: int
    model: Model


def run_passes(model: Model, passes: Sequence[Pass] = PASSES) -> list[Applied]:
    """Run `passes` in order; the last entry's model is the deployed form."""
    applied: list[Applied] = []
    for function in passes:
        model, count = function(model)
        applied.append(Applied(name=function.__name__, count=count, model=model))
    return applied


def relative_difference(name: str, reference: Mapping[str, Array], model: Model, x: Array) -> float:
    """Evaluate `model` on `x` in float64; max|difference| / max|reference| over the outputs.

    Args:
        name: of what was done to the model, for the message.
        reference: the outputs before, in float64.

    Raises:
        VerificationError: an output has another name or shape.
    """
    found = model.forward(NumpyOps(), x)
    worst = 0.0
    for output, expected in reference.items():
        if output not in found or found[output].shape != expected.shape:
            raise VerificationError(f"{name} changed the shape of output {output!r}")
        scale = np.abs(expected).max()
        difference = float(np.abs(found[output] - expected).max() / (scale or 1.0))
        # A NaN is a difference that no comparison shows.
        worst = max(worst, difference if np.isfinite(difference) else np.inf)
    return worst


def require_exact(name: str, difference: float) -> None:
    """Raise `VerificationError` where a difference exceeds 1e-12."""
    if not difference <= EXACT:
        raise VerificationError(
            f"{name} changed the outputs by {difference:.1e} of the largest, allowed is "
            f"{EXACT:.0e}: the weights are badly conditioned (--force exports them all the same "
            f"and says so in the manifest), or this is a bug: please report it"
        )


def prove(name: str, reference: Mapping[str, Array], model: Model, x: Array) -> float:
    """`relative_difference`, required to be exact."""
    difference = relative_difference(name, reference, model, x)
    require_exact(name, difference)
    return difference


def _with_params(model: Model, params: Any, count: int) -> tuple[Model, int]:
    return (replace(model, params=params), count) if count else (model, 0)


def _is_plain(linear: Linear) -> bool:
    return linear.norm is None and linear.norm_before is None


def _scaled(linear: Linear, factor: float) -> Linear:
    bias = None if linear.bias is None else linear.bias.astype(np.float64) * factor
    return replace(linear, weight=linear.weight.astype(np.float64) * factor, bias=bias)
