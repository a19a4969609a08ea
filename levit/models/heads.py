"""Classifiers that users put in place of a model's own: a Linear, alone or in an nn.Sequential.

A state dict shows the Linear and perhaps a BatchNorm before it, under names such as ``head.1``.
They are read under the names of their source, where the algebra is plain; an MLP is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, TypeVar

import numpy as np

from levit.errors import CheckpointError
from levit.models.ops import Array

__all__ = [
    "HeadKeymap",
    "HeadNames",
    "read_heads",
    "with_plain_heads",
    "without_heads",
]

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
# Tensors by leaf, by the layer that holds them.
Parts: TypeAlias = Mapping[str, Mapping[str, Array]]
T = TypeVar("T")

_STATISTICS: Final = {"running_mean", "running_var"}
_COUNTER: Final = "num_batches_tracked"


@dataclass(frozen=True)
class HeadNames:
    """Names of a classifier's tensors; ``norm`` by ``weight``, ``bias``, ``mean``, ``var``."""

    weight: str
    bias: str
    norm: Mapping[str, str] = field(default_factory=dict)


class HeadKeymap(Protocol):
    """The part of a keymap that names classifiers."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the layers, the distillation head last."""
        ...

    @property
    def normed_heads(self) -> bool:
        """True where the source's own classifiers have a BatchNorm before the Linear."""
        ...

    def head_names(self, which: int, *, norm: bool) -> HeadNames:
        """Names of one classifier's tensors, with a BatchNorm before the Linear or without."""
        ...


def read_heads(
    shapes: Shapes, keymap: HeadKeymap, *, separable: bool = False
) -> tuple[int, list[bool]]:
    """Read the number of classes, and for each classifier whether it has a BatchNorm.

    Args:
        shapes: of a checkpoint whose classifiers have the names of their source.
        separable: whether the network is one without its distillation head too.

    Returns:
        (0, []) for a headless model.

    Raises:
        CheckpointError: a weight is no matrix, or two classifiers have other numbers of classes.
    """
    counts: dict[str, int] = {}
    norms: list[bool] = []
    for which, layer in enumerate(keymap.heads):
        names = {norm: keymap.head_names(which, norm=norm).weight for norm in (True, False)}
        norm = next((norm for norm, name in names.items() if name in shapes), None)
        if norm is None:
            break
        shape = shapes[names[norm]]
        if len(shape) != 2:
            raise CheckpointError(f"{names[norm]}: a weight of shape {shape} is no Linear")
        counts[layer] = shape[0]
        norms.append(norm)
    if len(set(counts.values())) > 1:
        said = " and ".join(f"{layer} has {classes}" for layer, classes in counts.items())
        way = (
            ", or take the first alone with --config '{\"distilled\": false}'" if separable else ""
        )
        raise CheckpointError(
            f"classifiers of different sizes ({said} classes), whose mean the network gives: "
            f"replace both before training{way}"
        )
    return next(iter(counts.values()), 0), norms


def with_plain_heads(
    tensors: Mapping[str, Array], keymap: HeadKeymap, file: str
) -> tuple[Mapping[str, Array], list[str]]:
    """Give the classifiers the names that their source has for them.

    ::

        tensors, assumed = with_plain_heads({"head.1.weight": weight}, keymap, "best.pth")

    Args:
        tensors: of a checkpoint.
        keymap: of its source.
        file: its name, for messages.

    Returns:
        The tensors, and what had to be assumed of the classifiers, in words.

    Raises:
        CheckpointError: a classifier is an MLP, or has a LayerNorm.
    """
    assumed = []
    for which, layer in enumerate(keymap.heads):
        plain, normed = (keymap.head_names(which, norm=norm) for norm in (False, True))
        # A classifier of the source's own form that lacks its norm is damaged.
        if normed.weight in tensors and (keymap.normed_heads or normed.norm["mean"] in tensors):
            continue
        if plain.weight in tensors:
            alone = {"weight": tensors[plain.weight]}
            if plain.bias not in tensors and _is_linear(alone):
                tensors = {**tensors, **_linear_tensors(alone, plain)}
                assumed.append(f"classifier {layer}: no bias, as the file has none")
            continue
        parts = _parts(tensors, _prefixes(keymap, which))
        found = _linear_and_norm(parts, layer, file)
        if found is None:
            continue
        linear, norm = found
        new = _linear_tensors(parts[linear], normed if norm else plain)
        if norm:
            new |= _norm_tensors(parts[norm], normed)
        gone = {f"{name}.{leaf}" for name, leaves in parts.items() for leaf in (*leaves, _COUNTER)}
        tensors = {**{k: v for k, v in tensors.items() if k not in gone}, **new}
        assumed.append(_words(linear, norm))
    return tensors, assumed


def without_heads(
    tensors: Mapping[str, T], keymap: HeadKeymap, first: int = 0
) -> tuple[Mapping[str, T], list[str]]:
    """Leave out the classifiers from the `first` on; says which, in words."""
    layers = [
        layer for which in range(first, len(keymap.heads)) for layer in _prefixes(keymap, which)
    ]
    gone = {name for name in tensors if name.startswith(tuple(f"{layer}." for layer in layers))}
    left = {name: tensor for name, tensor in tensors.items() if name not in gone}
    named = [layer for layer in layers if any(name.startswith(f"{layer}.") for name in gone)]
    return left, [f"classifier {layer}: left out, as --config says" for layer in named]


def _prefixes(keymap: HeadKeymap, which: int) -> tuple[str, ...]:
    """Layers under which a classifier may lie: its own name, and that of a plain Linear."""
    plain = keymap.head_names(which, norm=False).weight.removesuffix(".weight")
    return tuple(dict.fromkeys((keymap.heads[which], plain)))


def _parts(tensors: Mapping[str, Array], layers: Sequence[str]) -> dict[str, dict[str, Array]]:
    """Tensors under these layers by the layer that holds them, without BatchNorm's counters."""
    found: dict[str, dict[str, Array]] = {}
    for name, tensor in tensors.items():
        holder, _, leaf = name.rpartition(".")
        if name.startswith(tuple(f"{layer}." for layer in layers)) and leaf != _COUNTER:
            found.setdefault(holder, {})[leaf] = tensor
    return found


def _linear_and_norm(parts: Parts, layer: str, file: str) -> tuple[str, str | None] | None:
    """Find the only Linear of a classifier, and the only BatchNorm, which stands before it.

    Returns:
        Their names; None where the tensors are others, which the reader of all then lists.

    Raises:
        CheckpointError: there is more, and it can be named.
    """
    linears = [name for name, leaves in parts.items() if _is_linear(leaves)]
    norms = [name for name, leaves in parts.items() if _is_batch_norm(leaves)]
    if len(linears) == len(parts) == 1:
        return linears[0], None
    if len(linears) == len(norms) == 1 and len(parts) == 2:
        return (linears[0], norms[0]) if _stands_before(norms[0], linears[0], parts) else None
    if len(linears) > 1:
        what = f"{len(linears)} Linears ({', '.join(linears)}), such as an MLP"
    elif linears and any(_is_layer_norm(leaves) for leaves in parts.values()):
        what = f"a Linear and a norm that is no BatchNorm ({', '.join(parts)})"
    else:
        return None
    raise CheckpointError(
        f"{file}: its classifier {layer} is {what}, which is not supported: export what it reads "
        f"with --config '{{\"num_classes\": 0}}' (live: put torch.nn.Identity() in its place), and "
        f"apply it to the embedding"
    )


def _is_linear(leaves: Mapping[str, Array]) -> bool:
    return {"weight"} <= set(leaves) <= {"weight", "bias"} and leaves["weight"].ndim == 2


def _is_layer_norm(leaves: Mapping[str, Array]) -> bool:
    return {"weight"} <= set(leaves) <= {"weight", "bias"} and leaves["weight"].ndim == 1


def _is_batch_norm(leaves: Mapping[str, Array]) -> bool:
    return _STATISTICS <= set(leaves) <= _STATISTICS | {"weight", "bias"}


def _stands_before(norm: str, linear: str, parts: Parts) -> bool:
    """Tell a BatchNorm before the Linear, by their places in an nn.Sequential, or by its width."""
    out_features, in_features = parts[linear]["weight"].shape
    if parts[norm]["running_mean"].shape != (in_features,):
        return False
    places = [name.rpartition(".")[2] for name in (norm, linear)]
    if all(place.isdecimal() for place in places):
        return int(places[0]) < int(places[1])
    return bool(in_features != out_features)


def _linear_tensors(leaves: Mapping[str, Array], names: HeadNames) -> dict[str, Array]:
    """A Linear's tensors; without a bias it adds 0."""
    weight = leaves["weight"]
    bias = leaves.get("bias", np.zeros(len(weight), np.float32))
    return {names.weight: weight, names.bias: bias}


def _norm_tensors(leaves: Mapping[str, Array], names: HeadNames) -> dict[str, Array]:
    """A BatchNorm's tensors; without ``affine`` it scales by 1 and shifts by 0."""
    mean, var = leaves["running_mean"], leaves["running_var"]
    return {
        names.norm["weight"]: leaves.get("weight", np.ones_like(mean)),
        names.norm["bias"]: leaves.get("bias", np.zeros_like(mean)),
        names.norm["mean"]: mean,
        names.norm["var"]: var,
    }


def _words(linear: str, norm: str | None) -> str:
    """Say what tensors cannot show of a classifier."""
    if norm is None:
        return f"classifier {linear}: at most dropout around it (an activation has no tensors)"
    return (
        f"classifier {linear} behind the BatchNorm {norm}: epsilon 1e-05, PyTorch's default, "
        f"and at most dropout around them (an activation has no tensors)"
    )
