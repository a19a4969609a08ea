"""LeViT's tensor names by source format, as data.

All four sources are one network under other names. They also count differently: timm numbers
the blocks of a stage and calls attention and MLP by name; the others put both in one list, by
stage (mmpretrain with the downsampling block at the head of its stage, transformers at the end
of the stage before) or through the whole network (the original). The templates below may use:

=========== ====================================================================
``{s}``     the stage; ``{p}`` the one before
``{b}``     the block in its stage, for timm
``{a}``     the attention's place in its stage's list; ``{m}`` the MLP's, the next one
``{d}``     the same with the stage's downsampling block in front; ``{e}`` the MLP's
``{n}``     the attention's place in the whole network; ``{o}`` the MLP's
``{i}``     the stem's convolution, from 1; ``{z}`` its place among the activations, from 0
=========== ====================================================================

For a downsampling block ``{a}`` and ``{m}`` count on from the blocks of the stage before.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from levit.models.heads import HeadNames

__all__ = ["KEYMAPS", "BlockNames", "DownsampleNames", "LevitKeymap"]

Shapes = Mapping[str, tuple[int, ...]]
_PLACE: Final = re.compile(r"\{\w\}")  # {s} of a template


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Prefix of an attention's own tensors, dot included."""

    attn: str

    @property
    def bias(self) -> str:
        """The bias table's name, the same in every source."""
        return self.attn + "attention_biases"

    @property
    def index(self) -> str:
        """The name of the stored indices into it."""
        return self.attn + "attention_bias_idxs"


@dataclass(frozen=True, kw_only=True)
class BlockNames(_Tables):
    """Layers of one block."""

    qkv: str
    proj: str
    up: str
    down: str


@dataclass(frozen=True, kw_only=True)
class DownsampleNames(_Tables):
    """Layers of one downsampling block."""

    kv: str
    q: str
    proj: str
    up: str
    down: str


@dataclass(frozen=True, kw_only=True)
class LevitKeymap:
    """Names of the tensors in one source format.

    Attributes:
        source: the format's name.
        prefix: of every name of the backbone.
        conv: Linears are stored as 1×1 convolutions.
        activation: the only one that the source's own code has; None where it has several.
        square: its grids are square.
        stem: template of the stem's convolutions.
        block, downsample: templates.
        heads: names of the classifier and of the distillation head.
        linear_heads: names of classifiers without a BatchNorm, where they have other ones.
        stem_weight, weight, head_weight: the weight's name under a layer's.
        norm: the norm's names under a layer's.
        ignored: patterns of keys that inference does not need.
    """

    source: str
    prefix: str = ""
    conv: bool = False
    activation: str | None = None
    square: bool = False
    stem: str
    block: BlockNames
    downsample: DownsampleNames
    heads: tuple[str, str]
    stem_weight: str
    weight: str
    head_weight: str
    norm: Mapping[str, str]
    linear_heads: tuple[str, ...] = ()
    # The second is how many models torch.optim.swa_utils.AveragedModel has averaged.
    ignored: tuple[str, ...] = ("*.num_batches_tracked", "n_averaged")

    @property
    def archive_keys(self) -> tuple[str, ...]:
        """Empty: names tell the sources apart."""
        return ()

    @property
    def own_modules(self) -> tuple[str, ...]:
        """Patterns of names, after a layer whose inner one this format itself calls ``module``."""
        templates = (*vars(self.block).values(), *vars(self.downsample).values())
        names = [_PLACE.sub("0", template) for template in templates]
        split = (name.partition(".module.") for name in names)
        inner = {(layer, child) for layer, module, child in split if module and child}
        # What other layers at such a place have too tells nothing.
        inner -= {(layer, child) for layer, _, child in (name.rpartition(".") for name in names)}
        return tuple(
            rf"(?P<layer>{re.escape(layer).replace('0', '[0-9]+')})[.]{re.escape(child)}[.]"
            for layer, child in sorted(inner)
        )

    @property
    def sign(self) -> str:
        """The name of a tensor that every checkpoint of this format has."""
        return self.stem_name(0) + self.stem_weight

    def stem_name(self, number: int) -> str:
        """The stem's convolution, from 0."""
        return self.prefix + self.stem.format(i=number + 1, z=2 * number)

    @property
    def normed_heads(self) -> bool:
        """The source has a BatchNorm before each classifier."""
        return True

    def head_names(self, which: int, *, norm: bool) -> HeadNames:
        """Tensors of a classifier: the source's own, or a plain Linear in its place."""
        layer = self.heads[which]
        if not norm:
            layer = dict(enumerate(self.linear_heads)).get(which, layer)
            return HeadNames(f"{layer}.weight", f"{layer}.bias")
        return HeadNames(
            layer + self.head_weight,
            layer + self.head_weight.removesuffix("weight") + "bias",
            {part: layer + name for part, name in self.norm.items()},
        )

    def block_names(self, stage: int, block: int, depths: Sequence[int]) -> BlockNames:
        """Names in one block; `depths` are those of the stages, or at least of those before."""
        before = sum(depths[:stage]) + stage  # blocks, downsampling ones included
        ahead = 2 if stage else 0
        places = dict(s=stage, b=block, a=2 * block, d=ahead + 2 * block, n=2 * (before + block))
        return BlockNames(**self._filled(self.block, places))

    def downsample_names(self, stage: int, depths: Sequence[int]) -> DownsampleNames:
        """Names in the downsampling block with which a stage (from 1) begins."""
        before = sum(depths[:stage]) + stage - 1
        places = dict(s=stage, p=stage - 1, a=2 * depths[stage - 1], d=0, n=2 * before)
        return DownsampleNames(**self._filled(self.downsample, places))

    def _filled(
        self, names: BlockNames | DownsampleNames, places: dict[str, int]
    ) -> dict[str, str]:
        places |= dict(m=places["a"] + 1, e=places["d"] + 1, o=places["n"] + 1)
        return {
            part: self.prefix + template.format(**places) for part, template in vars(names).items()
        }

    def matches(self, shapes: Shapes) -> bool:
        """Return True if the stem and an attention projection are where this format has them."""
        stem = shapes.get(self.sign)
        if stem is None or len(stem) != 4:
            return False
        first = self.block_names(0, 0, (0,)).qkv  # the first stage may have no block of its own
        for layer in (first, self.downsample_names(1, (0,)).kv):
            shape = shapes.get(layer + self.weight)
            if shape is not None:
                return len(shape) == (4 if self.conv else 2)
        return False

    def ignores(self, key: str) -> bool:
        """Return True if a key carries nothing that inference needs."""
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.ignored)


def _norm(name: str) -> dict[str, str]:
    return {
        "weight": f".{name}.weight",
        "bias": f".{name}.bias",
        "mean": f".{name}.running_mean",
        "var": f".{name}.running_var",
    }


def _timm(*, conv: bool) -> LevitKeymap:
    block, down = "stages.{s}.blocks.{b}.", "stages.{s}.downsample."
    attn = down + "attn_downsample."
    return LevitKeymap(
        source="timm",
        conv=conv,
        stem="stem.conv{i}",
        block=BlockNames(
            qkv=block + "attn.qkv",
            attn=block + "attn.",
            proj=block + "attn.proj.ln",
            up=block + "mlp.ln1",
            down=block + "mlp.ln2",
        ),
        downsample=DownsampleNames(
            kv=attn + "kv",
            q=attn + "q.ln",
            attn=attn,
            proj=attn + "proj.ln",
            up=down + "mlp.ln1",
            down=down + "mlp.ln2",
        ),
        heads=("head", "head_dist"),
        stem_weight=".linear.weight",
        weight=".linear.weight",
        head_weight=".linear.weight",
        norm=_norm("bn"),
    )


def _original(*, conv: bool) -> LevitKeymap:
    """facebookresearch/LeViT: ``levit.py``, and ``levit_c.py`` with convolutions."""
    return LevitKeymap(
        source="original",
        conv=conv,
        activation="hard_swish",
        square=True,
        stem="patch_embed.{z}",
        block=BlockNames(
            qkv="blocks.{n}.m.qkv",
            attn="blocks.{n}.m.",
            proj="blocks.{n}.m.proj.1",
            up="blocks.{o}.m.0",
            down="blocks.{o}.m.2",
        ),
        downsample=DownsampleNames(
            kv="blocks.{n}.kv",
            q="blocks.{n}.q.1",
            attn="blocks.{n}.",
            proj="blocks.{n}.proj.1",
            up="blocks.{o}.m.0",
            down="blocks.{o}.m.2",
        ),
        heads=("head", "head_dist"),
        stem_weight=".c.weight",
        weight=".c.weight",
        head_weight=".l.weight",
        norm=_norm("bn"),
    )


def _mmpretrain(prefix: str) -> LevitKeymap:
    """mmpretrain, or its backbone alone (without the prefix)."""
    return LevitKeymap(
        source="mmpretrain",
        prefix=prefix,
        activation="hard_swish",
        square=True,
        stem="patch_embed.patch_embed.{z}",
        block=BlockNames(
            qkv="stages.{s}.{d}.block.qkv",
            attn="stages.{s}.{d}.block.",
            proj="stages.{s}.{d}.block.proj.1",
            up="stages.{s}.{e}.block.linear1",
            down="stages.{s}.{e}.block.linear2",
        ),
        downsample=DownsampleNames(
            kv="stages.{s}.{d}.kv",
            q="stages.{s}.{d}.q.1",
            attn="stages.{s}.{d}.",
            proj="stages.{s}.{d}.proj.1",
            up="stages.{s}.{e}.block.linear1",
            down="stages.{s}.{e}.block.linear2",
        ),
        heads=("head.head", "head.head_dist"),
        linear_heads=("head.fc",),  # of LinearClsHead
        stem_weight=".conv.weight",
        weight=".linear.weight",
        head_weight=".linear.weight",
        norm=_norm("bn"),
    )


def _transformers(prefix: str) -> LevitKeymap:
    """``LevitForImageClassification…``, or ``LevitModel`` (without the prefix)."""
    layers, module = "encoder.stages.{s}.layers.", "encoder.stages.{s}.layers.{a}.module."
    down, mlp = "encoder.stages.{p}.layers.{a}.", "encoder.stages.{p}.layers.{m}.module."
    return LevitKeymap(
        source="transformers",
        prefix=prefix,
        activation="hard_swish",
        square=True,
        stem="patch_embeddings.embedding_layer_{i}",
        block=BlockNames(
            qkv=module + "queries_keys_values",
            attn=module,
            proj=module + "projection",
            up=layers + "{m}.module.linear_up",
            down=layers + "{m}.module.linear_down",
        ),
        downsample=DownsampleNames(
            kv=down + "keys_values",
            q=down + "queries",
            attn=down,
            proj=down + "projection",
            up=mlp + "linear_up",
            down=mlp + "linear_down",
        ),
        heads=("classifier", "classifier_distill"),
        stem_weight=".convolution.weight",
        weight=".linear.weight",
        head_weight=".linear.weight",
        norm=_norm("batch_norm"),
    )


# The first of a form (linear, conv) is the one that models without a checkpoint are named by.
KEYMAPS: Final[Sequence[LevitKeymap]] = (
    _timm(conv=False),
    _timm(conv=True),
    _transformers("levit."),
    _transformers(""),
    _mmpretrain("backbone."),
    _mmpretrain(""),
    _original(conv=False),
    _original(conv=True),
)
