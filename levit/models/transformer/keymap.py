"""Tensor names of vision transformers by source format, as data."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from levit.models.heads import HeadNames

__all__ = ["Part", "TransformerKeymap", "timm_keymap", "transformers_keymaps"]

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
# (layer, which of its equal parts, of how many): queries, keys and values may lie in one tensor.
Part: TypeAlias = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True)
class TransformerKeymap:
    """Names of the tensors in one source format. ``{i}`` is the number of a block.

    Attributes:
        source: the source format's name.
        prefix: of all but the heads.
        requires: layers that must be there beside the sign, such as a head.
        archive_keys: of a training checkpoint, under which only this source keeps its weights,
            where the names do not tell it from another; empty where they do.
        q, k, v: of a block.
        gated: the same of a block with positional attention; empty where there are none.
        gate, position: of those, the gate and the positional projection.
        heads: of the class token and of the distillation token.
        pooler: transformers'.
        registers, norm_pre, fc_norm: empty where the source has none.
        scales: of a block, the factors of what attention and MLP add; empty likewise.
        optional_class_token: whether a checkpoint may have none.
        token_positions: whether tokens in front have positions; None where either may be.
        excludes: tensors that are of another format with the same names otherwise.
        default_eps: of the LayerNorms, where nothing states it.
        distilled: whether it has a distillation token; None where either may be.
        ignored: patterns of what carries nothing that inference needs.
    """

    source: str
    prefix: str = ""
    requires: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    archive_keys: tuple[str, ...] = ()
    class_token: str
    distillation_token: str
    positions: str
    patch: str
    block: str
    norm1: str = "norm1"
    q: Part = ("attn.qkv", 0, 3)
    k: Part = ("attn.qkv", 1, 3)
    v: Part = ("attn.qkv", 2, 3)
    gated: tuple[Part, ...] = ()
    gate: str = ""
    position: str = ""
    proj: str = "attn.proj"
    norm2: str = "norm2"
    up: str = "mlp.fc1"
    down: str = "mlp.fc2"
    norm: str = "norm"
    heads: tuple[str, ...] = ("head", "head_dist")
    pooler: str = ""
    registers: str = ""
    norm_pre: str = ""
    fc_norm: str = ""
    scales: tuple[str, ...] = ()
    optional_class_token: bool = False
    token_positions: bool | None = True
    default_eps: float = 1e-6
    distilled: bool | None = None
    ignored: tuple[str, ...] = ("n_averaged",)

    @property
    def own_modules(self) -> tuple[str, ...]:
        """Empty: no layer of these formats has an inner one called ``module``."""
        return ()

    @property
    def sign(self) -> str:
        """The name of a tensor that every checkpoint of this format has."""
        if self.gate:
            return self.block_name(0) + self.gate
        if self.optional_class_token:
            return f"{self.prefix}{self.patch}.weight"
        return self.prefix + (self.distillation_token if self.distilled else self.class_token)

    def block_name(self, number: int) -> str:
        """Prefix of a block's names."""
        return self.prefix + self.block.format(i=number)

    @property
    def normed_heads(self) -> bool:
        """The source has no norm in its classifiers."""
        return False

    def head_names(self, which: int, *, norm: bool) -> HeadNames:
        """Tensors of a classifier: a Linear, or one behind a BatchNorm in its place."""
        layer = self.heads[which]
        if not norm:
            return HeadNames(f"{layer}.weight", f"{layer}.bias")
        parts = {"weight": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        return HeadNames(
            f"{layer}.linear.weight",
            f"{layer}.linear.bias",
            {part: f"{layer}.norm.{name}" for part, name in parts.items()},
        )

    def is_gated(self, number: int, shapes: Shapes) -> bool:
        """Return True if a block has positional attention."""
        return bool(self.gate) and self.block_name(number) + self.gate in shapes

    def matches(self, shapes: Shapes) -> bool:
        """Return True if tokens, patches and first block are where this format has them."""
        if (
            self.sign not in shapes
            or len(shapes.get(self.prefix + self.patch + ".weight", ())) != 4
        ):
            return False
        if not {self.prefix + self.class_token, self.prefix + self.positions} & set(shapes):
            return False
        if not all(
            any(n == name or n.startswith(f"{name}.") for n in shapes) for name in self.requires
        ):
            return False
        if any(key in shapes for key in self.excludes):
            return False
        if self.distilled is False and self.prefix + self.distillation_token in shapes:
            return False
        layer = (self.gated[0] if self.gated else self.q)[0]
        return f"{self.block_name(0)}{layer}.weight" in shapes

    def ignores(self, key: str) -> bool:
        """Return True if a key carries nothing that inference needs."""
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.ignored)


_TIMM: Final = TransformerKeymap(
    source="timm",
    class_token="cls_token",  # noqa: S106
    distillation_token="dist_token",  # noqa: S106
    positions="pos_embed",
    patch="patch_embed.proj",
    block="blocks.{i}.",
    registers="reg_token",
    norm_pre="norm_pre",
    fc_norm="fc_norm",
    scales=("ls1.gamma", "ls2.gamma"),
    optional_class_token=True,
    token_positions=None,
    excludes=("blocks.0.gamma_1",),
)


def timm_keymap(**changes: object) -> TransformerKeymap:
    """Timm's names, which the original code has too."""
    return replace(_TIMM, **changes)  # type: ignore[arg-type]


def transformers_keymaps(model: str, **changes: object) -> Sequence[TransformerKeymap]:
    """Transformers' names of a model type: with a head or without, as files and as modules.

    Since version 5 a module has other names than its files.
    """
    files = TransformerKeymap(
        source="transformers",
        class_token="embeddings.cls_token",  # noqa: S106
        distillation_token="embeddings.distillation_token",  # noqa: S106
        positions="embeddings.position_embeddings",
        patch="embeddings.patch_embeddings.projection",
        block="encoder.layer.{i}.",
        norm1="layernorm_before",
        q=("attention.attention.query", 0, 1),
        k=("attention.attention.key", 0, 1),
        v=("attention.attention.value", 0, 1),
        proj="attention.output.dense",
        norm2="layernorm_after",
        up="intermediate.dense",
        down="output.dense",
        norm="layernorm",
        heads=("classifier",),
        pooler="pooler.dense",
        default_eps=1e-12,
    )
    files = replace(files, **changes)  # type: ignore[arg-type]
    modules = replace(
        files,
        block="layers.{i}.",
        q=("attention.q_proj", 0, 1),
        k=("attention.k_proj", 0, 1),
        v=("attention.v_proj", 0, 1),
        proj="attention.o_proj",
        up="mlp.fc1",
        down="mlp.fc2",
    )
    return tuple(
        replace(names, prefix=prefix) for names in (files, modules) for prefix in (f"{model}.", "")
    )
