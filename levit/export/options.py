"""What a user may choose about an export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from levit.errors import ConfigError

__all__ = ["DEFAULT_PROFILE", "ExportOptions", "PathLike"]

PathLike: TypeAlias = "str | os.PathLike[str]"

DEFAULT_PROFILE: Final = (1, 8, 64)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Every choice of an export; ``levit export --help`` says the same in other words.

    Attributes:
        model: timm's name of a variant, or ``levit_digits``.
        checkpoint: a ``.safetensors`` file or a folder with one; ``hf:owner/name[@revision]``.
        random_weights: a seed, for benchmarks and demos.
        target: ``onnx``.
        precision: ``fp32``.
        batch: a fixed size; (min, opt, max); or None for dynamic with the default profile.
        image_size: (height, width) in pixels, or one number for both.
        outputs: any of ``logits, embedding, features, logits_head, logits_dist``; by default
            the logits, or the embedding of a headless model.
        input: ``float32`` (a normalised tensor) or ``uint8`` (pixels, normalised inside).
        labels: class names, or a text file with one per line.
        config: a JSON file with timm's model arguments, for what the checkpoint leaves open.
        opset: of the ONNX graph.
        preprocess: a flavour (``timm``) or a JSON file with a preprocessing spec.
        mean, std, crop_pct, interpolation: override single settings of the preprocessing.
        output: the artifact's folder; by default ``{model}-{target}-{precision}`` here.
        force: replace an existing artifact; keep one that fails its verification.
        verify: ``host`` runs the artifact on this machine against the reference; ``source``
            compares the reference with the source library too; ``none`` does neither.
        dump_passes: a folder for the graph after each pass.
    """

    model: str | None = None
    checkpoint: PathLike | None = None
    random_weights: int | None = None
    target: str = "onnx"
    precision: str = "fp32"
    batch: int | tuple[int, int, int] | None = None
    image_size: int | tuple[int, int] | None = None
    outputs: Sequence[str] | None = None
    input: str = "float32"
    labels: PathLike | Sequence[str] | None = None
    config: PathLike | None = None
    opset: int | None = None
    preprocess: PathLike | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    output: PathLike | None = None
    force: bool = False
    verify: str = "host"
    dump_passes: PathLike | None = None

    def __post_init__(self) -> None:
        if self.input not in ("float32", "uint8"):
            raise ConfigError(f"input must be float32 or uint8, not {self.input!r}")
        if self.verify not in ("host", "source", "none"):
            raise ConfigError(f"verify must be host, source or none, not {self.verify!r}")
        if self.random_weights is not None and self.checkpoint is not None:
            raise ConfigError("a checkpoint and random weights exclude each other: name one")
        if self.random_weights is not None and self.random_weights < 0:
            raise ConfigError(f"the seed of random weights is 0 or more, not {self.random_weights}")
        low, middle, high = self.profile
        if not 1 <= low <= middle <= high:
            raise ConfigError(
                f"a batch profile is MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, not "
                f"{low}:{middle}:{high}"
            )

    @property
    def profile(self) -> tuple[int, int, int]:
        """(min, opt, max)."""
        if self.batch is None:
            return DEFAULT_PROFILE
        if isinstance(self.batch, int):
            return self.batch, self.batch, self.batch
        return self.batch

    @property
    def size(self) -> tuple[int, int] | None:
        """The image size as (height, width)."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size
