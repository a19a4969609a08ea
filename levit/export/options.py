"""What a user may choose about an export."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Final, TypeAlias

from levit.errors import ConfigError

__all__ = ["DEFAULT_PROFILE", "ExportOptions", "PathLike"]

PathLike: TypeAlias = "str | os.PathLike[str]"

DEFAULT_PROFILE: Final = (1, 8, 64)
# Far beyond use, near enough that a slip of the finger is an error and not a full memory.
MAX_BATCH: Final = 65_536
MAX_SIDE: Final = 8_192

_CHOICES: Final = {"input": ("float32", "uint8"), "verify": ("host", "source", "none")}


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
        for name in ("input", "verify"):
            if getattr(self, name) not in _CHOICES[name]:
                choices = ", ".join(_CHOICES[name])
                raise ConfigError(f"{name} must be one of {choices}, not {getattr(self, name)!r}")
        for name in ("model", "target", "precision", "interpolation"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name} is a name, not {value!r}")
        for name in ("checkpoint", "config", "output", "dump_passes", "preprocess"):
            value = getattr(self, name)
            if value is not None and (
                not isinstance(value, (str, os.PathLike)) or "\0" in os.fspath(value)
            ):
                raise ConfigError(f"{name} is a path, not {value!r}")
        if self.random_weights is not None and self.checkpoint is not None:
            raise ConfigError("a checkpoint and random weights exclude each other: name one")
        _whole(self.random_weights, "random_weights (a seed)", 0, 2**63)
        _whole(self.opset, "opset", 1, 2**31)
        _require_numbers(self)
        low, middle, high = self.profile
        if not low <= middle <= high:
            raise ConfigError(f"a batch profile rises from MIN to OPT to MAX, unlike {self.batch}")
        if self.size is not None and len(self.size) != 2:
            raise ConfigError(f"image_size is (height, width) or one number, not {self.image_size}")
        for value in self.size or ():
            _whole(value, "image_size", 1, MAX_SIDE)
        if isinstance(self.outputs, str):
            names = tuple(name.strip() for name in self.outputs.split(","))
            object.__setattr__(self, "outputs", names)
        both = (self.output, self.dump_passes)
        if None not in both and os.path.abspath(both[0]) == os.path.abspath(both[1]):  # type: ignore[arg-type]
            raise ConfigError("output and dump_passes must be different folders")

    @property
    def profile(self) -> tuple[int, int, int]:
        """(min, opt, max)."""
        if self.batch is None:
            return DEFAULT_PROFILE
        entries = self.batch if isinstance(self.batch, (tuple, list)) else (self.batch,) * 3
        if len(entries) != 3:
            raise ConfigError(f"batch is a number, or (min, opt, max), not {self.batch!r}")
        low, middle, high = (_whole(entry, "batch", 1, MAX_BATCH) for entry in entries)
        return low, middle, high

    @property
    def static_batch(self) -> int | None:
        """The fixed batch size, or None where it is dynamic."""
        return None if self.batch is None or isinstance(self.batch, tuple) else int(self.batch)

    @property
    def size(self) -> tuple[int, int] | None:
        """The image size as (height, width)."""
        if self.image_size is None or isinstance(self.image_size, (tuple, list)):
            return None if self.image_size is None else tuple(self.image_size)  # type: ignore[return-value]
        return self.image_size, self.image_size


def _whole(value: object, name: str, least: int, most: int) -> int:
    """`value` as an int; None passes as 0, for what is not said."""
    if value is None:
        return 0
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        raise ConfigError(f"{name} is a whole number from {least} to {most}, not {value!r}")
    return number


def _require_numbers(options: ExportOptions) -> None:
    for name in ("mean", "std"):
        value = getattr(options, name)
        if value is None:
            continue
        if isinstance(value, str) or not isinstance(value, Sequence) or not _are_numbers(value):
            raise ConfigError(f"{name} is a list of numbers, not {value!r}")
    if options.crop_pct is not None and not _are_numbers((options.crop_pct,)):
        raise ConfigError(f"crop_pct is a number, not {options.crop_pct!r}")


def _are_numbers(values: Sequence[object]) -> bool:
    return all(isinstance(v, Real) and not isinstance(v, bool) for v in values)
