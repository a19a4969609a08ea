"""`Model`, its `Plan`, and the `Family` that it is of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from levit.models.heads import HeadKeymap
from levit.models.ops import Array, Ops

__all__ = ["Config", "Family", "Keymap", "Model", "Plan", "SourceNetwork", "Variant", "Weights"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Dataflow choices that a pass or a target may make; never the numbers.

    Attributes:
        outputs: names of what ``forward`` returns, in order.
        pixels: the input is (B, H, W, C) uint8 pixels, and (mean, std) on 0..1 are applied
            inside; None for a preprocessed (B, C, H, W) float32 input.
        pixels_folded: the first convolution already holds the scale of `pixels`; what is
            left is to subtract 255·mean.
        pool_early: the mean over tokens is taken before the last MLP's second Linear.
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
    """Fields that every family's config has, a frozen dataclass."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        ...

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        ...

    @property
    def num_classes(self) -> int:
        """0 for a headless model."""
        ...

    @property
    def classifier_heads(self) -> int:
        """Number of heads that give logits, 0 for a headless model."""
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
        """Shape of one image without the batch: (C, H, W), or (H, W, C) of pixels."""
        channels, size = self.config.in_channels, self.config.image_size
        return (channels, *size) if self.plan.pixels is None else (*size, channels)

    def forward(self, ops: Ops, x: Any) -> dict[str, Any]:
        """Apply the model: input → outputs by name, in the order of ``plan.outputs``.

        model.forward(NumpyOps(), images)["logits"]
        """
        values = self.family.forward(ops, self, x)
        return {name: values[name] for name in self.plan.outputs}

    def with_plan(self, **changes: Any) -> Model:
        """Return the same model under a changed plan."""
        return replace(self, plan=replace(self.plan, **changes))


class Weights(Protocol):
    """Source of the tensors that a family's ``build`` asks for."""

    def tensor(self, key: str, shape: tuple[int, ...]) -> Array:
        """The tensor called `key`, which must have this shape."""
        ...

    def constant(self, key: str, value: Array) -> None:
        """Check that a tensor called `key`, if there is one, holds this, element by element."""
        ...


class Keymap(HeadKeymap, Protocol):
    """The names of one source format, as data."""

    @property
    def source(self) -> str:
        """The source format's name."""
        ...

    @property
    def archive_keys(self) -> tuple[str, ...]:
        """Keys of a training checkpoint under which only this source keeps weights of these names.

        Empty where the names alone tell whose they are.
        """
        ...

    @property
    def prefix(self) -> str:
        """Prefix of all names but those of heads; empty where there is none."""
        ...

    @property
    def own_modules(self) -> tuple[str, ...]:
        """Patterns of names, after a layer whose inner one this format itself calls ``module``.

        The layer is their group ``layer``; ``module.`` is left out.
        """
        ...

    @property
    def sign(self) -> str:
        """The name of a tensor that every checkpoint of this format has."""
        ...

    def matches(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Return True if these names are this format's."""
        ...

    def ignores(self, key: str) -> bool:
        """Return True if a key carries nothing that inference needs."""
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
        headless_output: the output of ours that a headless network gives.
    """

    library: str
    module: str
    name: str
    arguments: Mapping[str, Any]
    config: str = ""
    norm_eps: float | None = None
    pooler: bool = False
    headless_output: str = "embedding"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named configuration with what is published about it.

    Attributes:
        hub_id: repository of the published weights, or None.
        top1, top5: published ImageNet-1k accuracy in percent.
        preprocessing: settings of timm's ``pretrained_cfg`` that differ from the family's.
    """

    config: Any
    hub_id: str | None = None
    top1: float | None = None
    top5: float | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Family(ABC):
    """An architecture, as far as the rest of the package knows it.

        family = FAMILIES["levit"]
        params = family.build(config, family.keymap_for(config), weights)

    Attributes:
        variants: by timm name.
        keymaps: source formats, tried in order.
        networks: by source format, (config) → the source library's network; raises `ExportError`.
            The first stands for sources that are no library.
        model_types: transformers' names of it.
        sized_names: whether a variant's name states its image size.
        has_grid: tokens may be kept as a grid (B, C, H, W), so that ``plan.channels_first`` is a
            choice.
    """

    name: str
    title: str
    variants: Mapping[str, Variant]
    keymaps: Sequence[Any]
    networks: Mapping[str, Callable[[Any], SourceNetwork]]
    model_types: tuple[str, ...] = ()
    has_grid: bool = False
    sized_names: bool = False

    @abstractmethod
    def infer(
        self, shapes: Mapping[str, tuple[int, ...]], keymap: Any, hints: Any
    ) -> tuple[Any, list[str]]:
        """Read the config off a checkpoint, and say in words what was assumed.

        Raises:
            CheckpointError, ConfigError: the shapes are those of no such network, or of several.
        """

    @abstractmethod
    def build(self, config: Any, keymap: Any, weights: Weights) -> Any:
        """Assemble the tree of layers from tensors that are named as `keymap` says."""

    @abstractmethod
    def forward(self, ops: Ops, model: Model, x: Any) -> dict[str, Any]:
        """Apply the model: every output that its plan asks for, by name."""

    @abstractmethod
    def outputs(self, config: Any) -> tuple[str, ...]:
        """Names of the outputs that a config can give, the default first."""

    @abstractmethod
    def output_layout(self, config: Any, name: str) -> tuple[str, tuple[int, ...]]:
        """(layout, shape without the batch) of an output; raises `ConfigError`."""

    @abstractmethod
    def config_from_dict(self, values: Mapping[str, Any]) -> Any:
        """Read a config from what its ``to_dict`` gives."""

    @abstractmethod
    def randomize(self, params: Any, rng: np.random.Generator) -> None:
        """Fill the tree's arrays in place, all but the statistics of norms."""

    @abstractmethod
    def same_architecture(self, one: Any, other: Any) -> bool:
        """Return True if two configs are equal in all that fine-tuning leaves alone."""

    @abstractmethod
    def resize(
        self, config: Any, params: Any, size: tuple[int, int]
    ) -> tuple[Any, Any, tuple[str, ...]]:
        """Config and params at another image size, and how, in words; raises `ConfigError`."""

    @abstractmethod
    def holds_arguments(self, values: Mapping[str, Any]) -> bool:
        """Return True if a JSON object states the widths of such a network."""

    @abstractmethod
    def config_from_arguments(self, values: Mapping[str, Any], file: str) -> Any:
        """Read a config from a file's JSON object; raises `ConfigError`."""

    @abstractmethod
    def with_arguments(self, config: Any, values: Mapping[str, Any], file: str) -> Any:
        """Return the config with the arguments that a file's JSON object states in part.

        Raises:
            ConfigError: a value is not what it should be, or says nothing without others.
        """

    def preprocessing(self, config: Any, source: str) -> Mapping[str, Any]:
        """Values that the source library's file would state, where there is none."""
        return {}

    def named_form(self, config: Any, named: Any) -> Any:
        """The config in the form of a named variant's, where one architecture has several."""
        return config

    def keymap_for(self, config: Any) -> Any:
        """The keymap by which a model without a checkpoint is named."""
        return self.keymaps[0]
