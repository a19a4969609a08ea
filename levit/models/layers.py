"""Layers: frozen records of arrays that apply themselves through `Ops` and fold their norm."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from levit.models.ops import Array, Ops

__all__ = [
    "ACTIVATIONS",
    "Affine",
    "BatchNorm",
    "Conv",
    "DotProductAttention",
    "LayerNorm",
    "Linear",
    "Mlp",
    "RelativeBias",
    "activate",
    "activation_name",
    "classify",
    "layers_of",
    "parts_of_attentions",
    "transform",
]

ACTIVATIONS = ("hard_swish", "silu", "gelu")
# Other names of the same: timm's, and those of PyTorch's classes.
_ALIASES = {
    **{"hardswish": "hard_swish", "swish": "silu"},
    **{"Hardswish": "hard_swish", "SiLU": "silu", "GELU": "gelu"},
}


def activation_name(value: object) -> str:
    """An activation's name as this package spells it; ``ValueError`` if it is unknown."""
    name = _ALIASES.get(str(value), str(value))
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {value!r}; known: {', '.join(ACTIVATIONS)}")
    return name


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """``(x - mean) / sqrt(var + eps) * weight + bias``, arrays (C,)."""

    weight: Array
    bias: Array
    mean: Array
    var: Array
    eps: float = 1e-5

    def apply(self, ops: Ops, x: Any, axis: int) -> Any:
        """Normalise along `axis`."""
        return ops.batch_norm(x, self.weight, self.bias, self.mean, self.var, self.eps, axis)

    def affine(self) -> tuple[Array, Array]:
        """(scale, shift) in float64 with ``apply(x) == x * scale + shift``."""
        scale = self.weight.astype(np.float64) / np.sqrt(self.var.astype(np.float64) + self.eps)
        return scale, self.bias.astype(np.float64) - self.mean.astype(np.float64) * scale


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis of each token.

    ``weight`` and ``bias`` (C,), or None once they are in what reads the result.
    """

    weight: Array | None
    bias: Array | None
    eps: float

    def apply(self, ops: Ops, x: Any) -> Any:
        """(…, C) → the same shape."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


@dataclass(frozen=True, eq=False)
class Affine:
    """A convolution or Linear: ``weight`` (O, I, …), ``bias`` (O,) or None, and a norm after it."""

    weight: Array
    bias: Array | None = None
    norm: BatchNorm | None = None

    @property
    def is_plain(self) -> bool:
        """True where no norm stands before or behind the layer."""
        return self.norm is None


@dataclass(frozen=True, eq=False)
class Conv(Affine):
    """k×k convolution with zero padding, ``weight`` (O, I, k, k)."""

    stride: int = 2
    padding: int = 1

    def apply(self, ops: Ops, x: Any) -> Any:
        """(B, I, H, W) → (B, O, H', W')."""
        y = ops.conv(x, self.weight, self.bias, self.stride, self.padding)
        return y if self.norm is None else self.norm.apply(ops, y, axis=1)

    def fold(self) -> Conv:
        """Return the same map without a norm, in float64."""
        if self.norm is None:
            return self
        scale, shift = self.norm.affine()
        bias = shift if self.bias is None else shift + scale * self.bias
        weight = self.weight.astype(np.float64) * scale[:, None, None, None]
        return replace(self, weight=weight, bias=bias, norm=None)


@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """``x @ weight.T + bias``, ``weight`` (O, I); LeViT's heads have their BatchNorm before it."""

    norm_before: BatchNorm | None = None

    @property
    def is_plain(self) -> bool:
        """True where no norm stands before or behind the layer."""
        return self.norm is None and self.norm_before is None

    def apply(self, ops: Ops, x: Any) -> Any:
        """(…, I) → (…, O)."""
        if self.norm_before is not None:
            x = self.norm_before.apply(ops, x, axis=-1)
        y = ops.linear(x, self.weight, self.bias)
        return y if self.norm is None else self.norm.apply(ops, y, axis=-1)

    def apply_pointwise(self, ops: Ops, x: Any, stride: int = 1) -> Any:
        """(B, I, H, W) → (B, O, H', W'): the same map as a 1×1 convolution."""
        if self.norm_before is not None:
            x = self.norm_before.apply(ops, x, axis=1)
        y = ops.conv(x, self.weight[:, :, None, None], self.bias, stride, 0)
        return y if self.norm is None else self.norm.apply(ops, y, axis=1)

    def fold(self) -> Linear:
        """Return the same map without norms, in float64.

        ``W(s·x + t) + b = (W·s)x + (Wt + b)`` for the norm before,
        ``s(Wx + b) + t = (s·W)x + (sb + t)`` for the norm after.
        """
        if self.is_plain:
            return self
        weight = self.weight.astype(np.float64)
        bias = np.zeros(len(weight)) if self.bias is None else self.bias.astype(np.float64)
        if self.norm_before is not None:
            scale, shift = self.norm_before.affine()
            weight, bias = weight * scale, weight @ shift + bias
        if self.norm is not None:
            scale, shift = self.norm.affine()
            weight, bias = weight * scale[:, None], bias * scale + shift
        return replace(self, weight=weight, bias=bias, norm=None, norm_before=None)


@dataclass(frozen=True, eq=False)
class DotProductAttention:
    """Multi-head attention of any family: queries, keys, values, a projection.

    ``scale`` is 1/√Dk, or None once it is in the query weights. ``mixes_weights`` where more than
    a softmax makes the weights of the values.
    """

    mixes_weights: ClassVar[bool] = False

    q: Linear
    k: Linear
    v: Linear
    proj: Linear
    heads: int
    scale: float | None

    def _parts(self, ops: Ops, queries: Any, x: Any) -> list[Any]:
        """(B, Nq, C), (B, N, C) → queries (B, Nq, H, Dk), keys and values (B, N, H, D)."""
        parts = []
        for name, layer, source in (("q", self.q, queries), ("k", self.k, x), ("v", self.v, x)):
            with ops.scope(name):
                parts.append(ops.reshape(layer.apply(ops, source), (0, 0, self.heads, -1)))
        return parts


@dataclass(frozen=True, eq=False)
class Mlp:
    """Two Linears with an activation between."""

    up: Linear
    down: Linear
    activation: str

    def hidden(self, ops: Ops, x: Any, *, channels_first: bool = False) -> Any:
        """(B, N, C) or (B, C, h, w) → the hidden layer, after the activation."""
        with ops.scope("up"):
            apply = self.up.apply_pointwise if channels_first else self.up.apply
            return activate(ops, apply(ops, x), self.activation)

    def apply(self, ops: Ops, x: Any, *, channels_first: bool = False) -> Any:
        """(B, N, C) or (B, C, h, w) → the same shape."""
        hidden = self.hidden(ops, x, channels_first=channels_first)
        with ops.scope("down"):
            apply = self.down.apply_pointwise if channels_first else self.down.apply
            return apply(ops, hidden)


@dataclass(frozen=True, eq=False)
class RelativeBias:
    """Attention bias by relative position.

    ``values`` (H, P) and ``index`` (Nq, Nk) as trained; ``values`` (H, Nq, Nk) and no index
    once folded.
    """

    values: Array
    index: Array | None = None

    def apply(self, ops: Ops) -> Any:
        """→ (H, Nq, Nk)."""
        if self.index is None:
            return ops.constant(self.values, "attention_bias")
        return ops.take(self.values, self.index, "attention_biases")

    def fold(self) -> RelativeBias:
        """Return the static table."""
        return self if self.index is None else RelativeBias(self.values[:, self.index])


def activate(ops: Ops, x: Any, name: str) -> Any:
    """Apply the activation called `name`."""
    functions = {"hard_swish": ops.hard_swish, "silu": ops.silu, "gelu": ops.gelu}
    return functions[name](x)


class Classifier(Protocol):
    """A head: a layer that gives logits."""

    def apply(self, ops: Ops, x: Any) -> Any:
        """Result of the last block → (B, classes)."""
        ...


def classify(
    ops: Ops, wanted: Collection[str], head: Classifier | None, dist: Classifier | None, x: Any
) -> dict[str, Any]:
    """The logits that are wanted of one head, or of two, whose mean is ``logits``.

    Args:
        wanted: of ``logits``, ``logits_head``, ``logits_dist``; other names do not matter.
        x: what the heads read.
    """
    values: dict[str, Any] = {}
    if head is not None and not {"logits", "logits_head"}.isdisjoint(wanted):
        with ops.scope("head"):
            values["logits"] = values["logits_head"] = head.apply(ops, x)
    if dist is not None and not {"logits", "logits_dist"}.isdisjoint(wanted):
        with ops.scope("head_dist"):
            values["logits_dist"] = dist.apply(ops, x)
    if dist is not None and "logits" in wanted:
        with ops.scope("heads"):
            both = ops.add(values["logits_head"], values["logits_dist"])
            values["logits"] = ops.multiply(both, ops.constant(np.array(0.5), "half"))
    return values


Layer = TypeVar("Layer")


def transform(
    tree: Any, kind: type[Layer], function: Callable[[str, Layer], Layer], path: str = ""
) -> tuple[Any, int]:
    """Apply ``function(path, layer)`` to every layer of a kind in a tree of dataclasses and tuples.

    A layer's path is its name everywhere: in graphs, ranges, manifests and messages. It is made of
    the fields and places on the way to it, as ``stages.0.blocks.1.attn.q``.

        params, folded = transform(params, Conv, lambda path, conv: conv.fold())

    Args:
        path: of the tree, where it is a part of another.

    Returns:
        The new tree, and how many layers the function has changed (returned another object).
    """
    if isinstance(tree, kind):
        new = function(path, tree)
        return new, int(new is not tree)
    if isinstance(tree, tuple):
        children = {str(i): item for i, item in enumerate(tree)}
    elif is_dataclass(tree) and not isinstance(tree, type):
        children = {f.name: getattr(tree, f.name) for f in fields(tree)}
    else:
        return tree, 0
    changes, total = {}, 0
    for name, child in children.items():
        new_child, count = transform(child, kind, function, f"{path}.{name}" if path else name)
        if count:
            changes[name], total = new_child, total + count
    if not changes:
        return tree, 0
    if isinstance(tree, tuple):
        return tuple((children | changes).values()), total
    return replace(tree, **changes), total


def layers_of(tree: Any, kind: type[Layer], path: str = "") -> dict[str, Layer]:
    """Every layer of a kind by its path, in the order of the tree's fields.

    layers_of(model.params, Conv)["stem.0"].stride
    """
    found: dict[str, Layer] = {}

    def note(at: str, layer: Layer) -> Layer:
        found[at] = layer
        return layer

    transform(tree, kind, note, path)
    return found


def parts_of_attentions(tree: Any) -> list[str]:
    """The paths of all layers that make queries, keys or values."""
    return [f"{path}.{part}" for path in layers_of(tree, DotProductAttention) for part in "qkv"]
