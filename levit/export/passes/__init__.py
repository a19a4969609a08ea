"""The compiler's passes: exact algebra, one function each, in the order in which they run.

A pass takes a model and returns (model, count), where count says how often it fired; 0 means
that the model is the one it was given. Each keeps every output, in number, shape and value:
max|difference| / max|reference| is at most 1e-12 in float64, which `prove` checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from levit.errors import VerificationError
from levit.export.passes.common import (
    drop_key_bias,
    fold_batchnorm,
    fold_input_normalization,
    fold_query_scale,
    merge_heads,
)
from levit.export.passes.levit import fold_relative_bias, pool_before_last_linear
from levit.export.passes.transformer import (
    average_before_last_linear,
    fold_gate,
    fold_layer_scale,
    fold_layernorm_affine,
    fold_position_attention,
    fold_tokens_and_positions,
    fold_value_bias,
    keep_only_read_tokens,
)
from levit.models.counting import ShapeOps
from levit.models.layers import BatchNorm, LayerNorm, RelativeBias, layers_of
from levit.models.levit.layers import LevitBlock
from levit.models.model import Model
from levit.models.ops import Array, NumpyOps
from levit.models.transformer.layers import LayerScale, TransformerBlock
from levit.relative_error import relative_error

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

PASSES: Final[Sequence[Pass]] = (
    fold_batchnorm,
    fold_layer_scale,
    fold_layernorm_affine,
    fold_query_scale,
    drop_key_bias,
    fold_value_bias,
    fold_relative_bias,
    merge_heads,
    pool_before_last_linear,
    average_before_last_linear,
    keep_only_read_tokens,
    fold_position_attention,
    fold_gate,
    fold_tokens_and_positions,
    fold_input_normalization,
)

# Passes about one kind of layer: the manifest lists them where a model has such layers.
_ABOUT: Final[Mapping[type, Sequence[Pass]]] = {
    BatchNorm: (fold_batchnorm,),
    LayerNorm: (fold_layernorm_affine,),
    LayerScale: (fold_layer_scale,),
    RelativeBias: (fold_relative_bias,),
    LevitBlock: (pool_before_last_linear,),
    TransformerBlock: (
        fold_value_bias,
        average_before_last_linear,
        keep_only_read_tokens,
        fold_position_attention,
        fold_gate,
        fold_tokens_and_positions,
    ),
}


def passes_for(precision: str) -> Sequence[Pass]:
    """Choose the passes that do no harm in a precision.

    Not fold_input_normalization at less than float32: ``W/(255·σ)`` is a hundredth of ``W``,
    where float16 runs out of digits, and ``x - 255·μ`` has eight bits before the point.
    Pixels are normalised in float32 then, and cast once.
    """
    if precision == "fp32":
        return PASSES
    return tuple(function for function in PASSES if function is not fold_input_normalization)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """One pass that was run.

    Attributes:
        name: of its function.
        count: how often it fired.
        model: after it.
        macs_saved: multiply-accumulates of one image that it has taken away.
    """

    name: str
    count: int
    model: Model
    macs_saved: int = 0


def run_passes(model: Model, passes: Sequence[Pass] = PASSES) -> list[Applied]:
    """Run the passes that are about such a model; the last entry holds the deployed form."""
    foreign = {
        function
        for kind, functions in _ABOUT.items()
        if not layers_of(model.params, kind)
        for function in functions
    }
    passes = [function for function in passes if function not in foreign]
    applied: list[Applied] = []
    macs = _macs(model)
    for function in passes:
        model, count = function(model)
        left = _macs(model) if count else macs
        name = function.__name__
        applied.append(Applied(name=name, count=count, model=model, macs_saved=macs - left))
        macs = left
    return applied


def _macs(model: Model) -> int:
    """Multiply-accumulates of one image, as the model stands."""
    ops = ShapeOps()
    model.forward(ops, (1, *model.input_shape))
    return ops.macs


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
        worst = max(worst, relative_error(found[output], expected))
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
