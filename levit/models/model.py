"""What every family is made of: `Model`, its `Plan`, and the `Family` record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from levit.models.ops import Array, Ops

__all__ = ["Config", "Family", "Keymap", "Model", "Plan", "SourceNetwork", "Variant", "Weights"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The dataflow choices that a pass or a target may make; never the numbers.

    Attributes:
        outputs: names of what ``forward`` returns, in order.
        pixels: the input is (B, H, W, C) uint8 pixels, and (mean, std) on 0..1 are applied
            inside; None for a preprocessed (B, C, H, W) float32 input.
        pixels_folded: the first convolution already holds the scale of `pixels`; what is
            left is to subtract 255·mean.
        pool_early: the token mean is taken before the last MLP's second Linear.
        read_tokens_only: the last block makes only the tokens that the heads read.
        channels_first: Linears over tokens are 1×1 convolutions over (B, C, H, W), where the
            family has a grid; otherwise products over (B, N, C).
    """

    outputs: tuple[str, ...]
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    pixels_folded: bool = False
    pool_early: bool = False
    read_tokens_only: bool = False
    channels_first: bool = False


class Config(Protocol):
    """What the rest of the package reads of any family's config, a frozen dataclass."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        ...

    @property
    def in_channels(self) -> int:
        """Of the image."""
        ...

    @property
    def num_classes(self) -> int:
        """0 for a headless model."""
        ...

    @property
    def classifier_heads(self) -> int:
        """How many, 0 for a headless model."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        ...


@dataclass(frozen=True, eq=False)
class Model:
    """A config, the tree of layers that holds the weights, and a plan."""

    family: Family
    config: Any
    params: Any
    plan: Plan

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image, without the batch: (C, H, W), or (H, W, C) of pixels."""
        channels, size = self.config.in_channels, self.config.image_size
        return (channels, *size) if self.plan.pixels is None else (*size, channels)

    def forward(self, ops: Ops, x: Any) -> dict[str, Any]:
        """Apply the model: input → outputs by name, in the order of ``plan.outputs``."""
        values = self.family.forward(ops, self, x)
        return {name: values[name] for name in self.plan.outputs}

    def with_plan(self, **changes: Any) -> Model:
        """The same model under a changed plan."""
        return replace(self, plan=replace(self.plan, **changes))


class Weights(Protocol):
    """Where a family's ``build`` takes its tensors from."""

    def tensor(self, key: str, shape: tuple[int, ...]) -> Array:
        """The tensor called `key`, which must have this shape."""
        ...

    def constant(self, key: str, value: Array) -> None:
        """Where there is a tensor called `key`, it must hold this, element by element."""
        ...


class Keymap(Protocol):
    """The names of one source format, as data."""

    @property
    def source(self) -> str:
        """The source format's name."""
        ...

    @property
    def archive_keys(self) -> tuple[str, ...]:
        """Of a training checkpoint, under which only this source keeps weights of these names.

        Empty where the names alone tell whose they are.
        """
        ...

    @property
    def sign(self) -> str:
        """The name of a tensor that every checkpoint of this format has."""
        ...

    def matches(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether these keys are this format's."""
        ...

    def ignores(self, key: str) -> bool:
        """Whether a key carries nothing that inference needs."""
        ...


@dataclass(frozen=True, kw_only=True)
class SourceNetwork:
    """The source library's own network of a config, by name.

    Attributes:
        library: its distribution.
        module, name: of the class.
        arguments: of the class, or of its config where `config` names that.
        config: the config's class in the same module; empty where there is none.
        norm_eps: of timm's LayerNorms, which an argument of PyTorch's makes.
        pooler: whether a headless network of transformers has one.
    """

    library: str
    module: str
    name: str
    arguments: Mapping[str, Any]
    config: str = ""
    norm_eps: float | None = None
    pooler: bool = False


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named configuration with what is published about it.

    Attributes:
        hub_id: repository of the published weights, or None.
        top1, top5: published ImageNet-1k accuracy in percent.
    """

    config: Any
    hub_id: str | None = None
    top1: float | None = None
    top5: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """All that the rest of the package knows of an architecture.

    Attributes:
        variants: by timm name.
        keymaps: source formats, tried in order.
        infer: (shapes, keymap, hints) → config; raises `CheckpointError` or `ConfigError`.
        build: (config, keymap, weights) → params.
        forward: (ops, model, x) → every output that the plan asks for.
        outputs: (config) → names that this config can give, the default first.
        output_layout: (config, name) → (layout, shape without the batch).
        config_from_dict: the reverse of a config's ``to_dict``.
        randomize: (params, generator) fills the arrays in place, all but norm statistics.
        same_architecture: (one, other) → equal in all that fine-tuning leaves alone.
        resize: (config, params, image size) → config and params at that size, and how, in words;
            raises `ConfigError`.
        holds_arguments: (JSON object) → whether it states the widths of such a network.
        config_from_arguments: (JSON object, its file's name) → config; raises `ConfigError`.
        networks: by source format, (config) → the source library's network; raises `ExportError`.
            The first stands for sources that are no library.
        preprocessing: (config, source format) → what its library's file would state, where there
            is none.
        model_types: transformers' names of it.
        named_form: (config, config of a named variant) → the first in the form of the second,
            where one architecture has several.
        keymap_for: (config) → the keymap that a model without a checkpoint is named by.
        sized_names: whether a variant's name states its image size.
        has_grid: tokens may be kept as a grid (B, C, H, W), so that ``plan.channels_first`` is a
            choice.
    """

    name: str
    title: str
    variants: Mapping[str, Variant]
    keymaps: Sequence[Any]
    infer: Callable[..., Any]
    build: Callable[[Any, Any, Weights], Any]
    forward: Callable[[Ops, Model, Any], dict[str, Any]]
    outputs: Callable[[Any], tuple[str, ...]]
    output_layout: Callable[[Any, str], tuple[str, tuple[int, ...]]]
    config_from_dict: Callable[[Mapping[str, Any]], Any]
    randomize: Callable[[Any, np.random.Generator], None]
    same_architecture: Callable[[Any, Any], bool]
    resize: Callable[[Any, Any, tuple[int, int]], tuple[Any, Any, tuple[str, ...]]]
    holds_arguments: Callable[[Mapping[str, Any]], bool]
    config_from_arguments: Callable[[Mapping[str, Any], str], Any]
    networks: Mapping[str, Callable[[Any], SourceNetwork]]
    preprocessing: Callable[[Any, str], Mapping[str, Any]]
    model_types: tuple[str, ...]
    named_form: Callable[[Any, Any], Any]
    keymap_for: Callable[[Any], Any]
    sized_names: bool = False
    has_grid: bool = False
