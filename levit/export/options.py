"""Choices of a user about an export."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast, overload

from levit.artifact import MAX_BATCH, SCORES
from levit.errors import ConfigError
from levit.models.user_config import UserConfig, is_json_text
from levit.pictures.modes import GREY16, MODES

__all__ = ["AUTO", "DEFAULT_MAX_DROP", "DEFAULT_PROFILE", "ExportOptions", "PathLike"]

PathLike: TypeAlias = "str | os.PathLike[str]"

DEFAULT_PROFILE: Final = (1, 8, 64)
# Far beyond use, near enough that a slip of the finger is an error and not a full memory.
MAX_SIDE: Final = 8_192

# In place of a target: the fastest one on this machine.
AUTO: Final = "auto"
# Points of top-1 that an artifact may lose, where nobody says.
DEFAULT_MAX_DROP: Final = 1.0
# Less would take more images than anybody has.
_LEAST_DROP: Final = 0.01

_CHOICES: Final = {
    "input": ("float32", "uint8"),
    "verify": ("host", "source", "none"),
    "image_mode": (None, *MODES),
    "grey16": (None, *GREY16),
    "scores": (None, *SCORES),
}

_PATHS: Final = (
    *("checkpoint", "output", "dump_passes", "preprocess"),
    *("calibration", "eval"),
)

# Options that only one target has.
_ONLY_FOR: Final = {
    "version_compatible": "trt",
    "hardware_compatible": "trt",
    "gpu_architectures": "trt-rtx",
}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Every choice of an export; ``levit export --help`` says the same in other words.

    ::

        ExportOptions(model="levit_128s", checkpoint="model.safetensors", target="openvino")

    Attributes:
        model: timm's name of a variant, or ``levit_digits``.
        checkpoint: a ``.safetensors`` or PyTorch file, or a folder with one;
            ``hf:owner/name[@revision]``.
        weights: which of a checkpoint's weights, where it holds several: a key (``model_ema``), a
            prefix (``student``) or both (``state_dict.student``); by default what its home takes:
            docs/checkpoints.md.
        random_weights: a seed, for benchmarks and demos.
        target: ``onnx``, ``openvino``, ``native``, ``trt``, ``trt-rtx``, or ``auto`` for whichever
            is the fastest on this machine and keeps the accuracy contract.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``, of the graph between its inputs and
            outputs; at int8 convolutions and Linears multiply integers.
        batch: a fixed size; (min, opt, max); or None for dynamic with the default profile.
        image_size: (height, width) in pixels, or one number for both. Another than the checkpoint
            was trained at resizes the model: docs/checkpoints.md.
        outputs: any of ``logits, embedding, features, pooled, logits_head, logits_dist``; by
            default the logits, or the embedding of a headless model.
        input: ``float32`` (a normalised tensor) or ``uint8`` (pixels, normalised inside).
        labels: class names, or a file with one per line, numbered ones, or JSON: docs/export.md.
        scores: ``softmax``, ``sigmoid`` or ``none``: what makes scores of the logits; by default
            as the checkpoint's config says, or a sigmoid of one logit and a softmax of several.
        config: the model's arguments as timm or transformers write them, for what the checkpoint
            leaves open: a JSON file, JSON text such as ``{"num_heads": 6}``, or a mapping.
        opset: of the ONNX graph.
        preprocess: a flavour (``timm``, ``transformers``, ``mmpretrain``, ``original``) or a
            JSON file: a preprocessing spec, or the one that timm or transformers wrote.
        image_mode: channels of the pictures, by Pillow's name: ``L`` (grey; by default with one
            channel), ``I;16`` (grey of 16 bits), ``RGB`` (by default with three), ``RGBA``.
        mean, std: override those of the preprocessing: one value for all channels, or one for
            each.
        crop_pct, interpolation: override single settings of the preprocessing.
        grey16: grey pictures of 16 bits, for a model of 8: ``scale`` (their upper eight) or
            ``clip`` (at 255, as in timm); by default they are refused.
        background: colour behind what is not opaque: a name or ``#rrggbb``.
        calibration: a folder of pictures such as the network will see, or an ``.npz`` of its
            inputs, from which int8 takes its ranges.
        eval: a folder of labelled pictures (``class/image``), a folder of any, or an ``.npz`` of
            inputs and labels, on which an artifact of low precision is judged; by default int8 is
            judged on what it was calibrated with.
        max_drop: points of top-1 that it may lose on labelled pictures (1 where it is None).
        reduce_range: int8 weights of seven bits, for x86 CPUs without VNNI.
        output: the artifact's folder; by default ``{model}-{target}-{precision}`` here.
        force: replace an existing artifact; keep one that fails its verification.
        verify: ``host`` runs the artifact on this machine against the reference; ``source``
            compares the reference with the source library too; ``none`` does neither.
        dump_passes: a folder for the graph after each pass.
        version_compatible: ``trt``: an engine that later releases of the same major version load
            too. It carries host code, which whoever runs it has to allow.
        hardware_compatible: ``trt``: an engine for every GPU from Ampere on.
        gpu_architectures: ``trt-rtx``: compile for these (``sm_80``, …) instead of for all from
            Ampere on.
    """

    model: str | None = None
    checkpoint: PathLike | None = None
    weights: str | None = None
    random_weights: int | None = None
    target: str = "onnx"
    precision: str = "fp32"
    batch: int | tuple[int, int, int] | None = None
    image_size: int | tuple[int, int] | None = None
    outputs: Sequence[str] | None = None
    input: str = "float32"
    labels: PathLike | Sequence[str] | None = None
    scores: str | None = None
    config: UserConfig | None = None
    opset: int | None = None
    preprocess: PathLike | None = None
    image_mode: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    crop_pct: float | None = None
    grey16: str | None = None
    background: str | None = None
    interpolation: str | None = None
    calibration: PathLike | None = None
    eval: PathLike | None = None
    max_drop: float | None = None
    reduce_range: bool = False
    output: PathLike | None = None
    force: bool = False
    verify: str = "host"
    dump_passes: PathLike | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    gpu_architectures: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str | None) or value not in choices:
                raise ConfigError(
                    f"{name} must be one of {', '.join(filter(None, choices))}, not {value!r}"
                )
        for name in ("model", "weights", "target", "precision", "interpolation"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name} is a name, not {value!r}")
        for name in _PATHS:
            _check_path(getattr(self, name), name)
        if not isinstance(self.config, Mapping) and not is_json_text(self.config):
            _check_path(self.config, "config")
        if not isinstance(self.labels, (list, tuple)):
            _check_path(self.labels, "labels")
        for name in ("force", "reduce_range", "version_compatible", "hardware_compatible"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False, not {getattr(self, name)!r}")
        if self.image_mode == "I;16" and self.input == "uint8":
            raise ConfigError(
                "input uint8 is for pictures of 8 bits: leave it out, or take image_mode L"
            )
        if self.random_weights is not None and self.checkpoint is not None:
            raise ConfigError("a checkpoint and random weights exclude each other: name one")
        # Plain numbers and tuples from here on, whatever kinds of them came in.
        for name, value in {
            "random_weights": _whole(self.random_weights, "random_weights (a seed)", 0, 2**63),
            "opset": _whole(self.opset, "opset", 1, 2**31),
            "batch": _batch(self.batch),
            "image_size": _size(self.image_size),
            "outputs": _names(self.outputs, "outputs"),
            "gpu_architectures": _names(self.gpu_architectures, "gpu_architectures"),
            "mean": _numbers(self.mean, "mean"),
            "std": _numbers(self.std, "std"),
            "crop_pct": _number(self.crop_pct, "crop_pct"),
            "max_drop": _number(self.max_drop, "max_drop"),
        }.items():
            object.__setattr__(self, name, value)
        _check_apart(self.output, self.dump_passes)
        self._check_precision()
        for name, target in _ONLY_FOR.items():
            if getattr(self, name) and self.target != target:
                raise ConfigError(f"{name} is for target {target!r}, not {self.target!r}")

    def _check_precision(self) -> None:
        int8 = self.precision == "int8"
        if int8 and self.calibration is None:
            raise ConfigError(
                "int8 takes its ranges from pictures such as the network will see: name a folder "
                "of them with --calibration"
            )
        auto = self.target == AUTO
        for name in ("calibration", "reduce_range"):
            if getattr(self, name) and not (int8 or (auto and self.precision == "fp32")):
                raise ConfigError(f"{name} is for precision 'int8', not {self.precision!r}")
        if self.eval is not None and self.precision == "fp32" and not auto:
            raise ConfigError(
                "eval judges what a lower precision costs; fp32 is what it is compared with: "
                "`levit eval` has its accuracy"
            )
        if self.max_drop is not None:
            if self.eval is None:
                raise ConfigError("max_drop is judged on labelled pictures: name them with --eval")
            if not _LEAST_DROP <= self.max_drop <= 100:
                raise ConfigError(
                    f"max_drop is in points, from {_LEAST_DROP} up to 100, not {self.max_drop}"
                )
        if auto and self.dump_passes is not None:
            raise ConfigError("dump_passes is for one target: auto builds several")
        judged = int8 or self.eval is not None
        if auto and self.verify == "none" and (judged or self.calibration is not None):
            raise ConfigError("auto keeps what is right and fast: leave out --verify none")
        if judged and self.verify == "none" and not self.force:
            raise ConfigError(
                f"{self.precision} is to be written only if its answers are right: leave out "
                f"--verify none, or add --force"
            )

    @property
    def profile(self) -> tuple[int, int, int]:
        """(min, opt, max)."""
        if self.batch is None:
            return DEFAULT_PROFILE
        return (self.batch,) * 3 if isinstance(self.batch, int) else self.batch

    @property
    def static_batch(self) -> int | None:
        """The fixed batch size, or None where it is dynamic."""
        return self.batch if isinstance(self.batch, int) else None

    @property
    def size(self) -> tuple[int, int] | None:
        """The image size as (height, width)."""
        return None if self.image_size is None else cast("tuple[int, int]", self.image_size)


def _check_path(value: object, name: str) -> None:
    if value is None:
        return
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text or not _is_encodable(text):
        raise ConfigError(f"{name} is a path, not {value!r}")


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _check_apart(output: PathLike | None, dump: PathLike | None) -> None:
    """The artifact's folder is its own: nothing of the dump in it, nor the reverse."""
    if output is None or dump is None:
        return
    one, other = (os.path.join(os.path.abspath(path), "") for path in (output, dump))
    if one.startswith(other) or other.startswith(one):
        raise ConfigError("output and dump_passes must be different folders, apart from each other")


@overload
def _whole(value: None, name: str, least: int, most: int) -> None: ...
@overload
def _whole(value: object, name: str, least: int, most: int) -> int | None: ...
def _whole(value: object, name: str, least: int, most: int) -> int | None:
    if value is None:
        return None
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        raise ConfigError(f"{name} is a whole number from {least} to {most}, not {value!r}")
    return number


def _batch(value: object) -> int | tuple[int, ...] | None:
    if not isinstance(value, (tuple, list)):
        return _whole(value, "batch", 1, MAX_BATCH)
    entries = [_whole(entry, "batch", 1, MAX_BATCH) for entry in value]
    if len(entries) != 3 or None in entries:
        raise ConfigError(f"batch is a number, or (min, opt, max), not {value!r}")
    low, middle, high = cast("list[int]", entries)
    if not low <= middle <= high:
        raise ConfigError(f"a batch profile rises from MIN to OPT to MAX, unlike {value}")
    return low, middle, high


def _size(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    pair = list(value) if isinstance(value, (tuple, list)) else [value, value]
    sides = [_whole(side, "image_size", 1, MAX_SIDE) for side in pair]
    if len(sides) != 2 or None in sides:
        raise ConfigError(f"image_size is (height, width) or one number, not {value!r}")
    return tuple(cast("list[int]", sides))


def _names(value: object, name: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = [entry.strip() for entry in value.split(",")]
    if not isinstance(value, (tuple, list)) or not all(isinstance(entry, str) for entry in value):
        raise ConfigError(f"{name} is a list of names, not {value!r}")
    return tuple(value)


def _numbers(value: object, name: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"{name} is a list of numbers, not {value!r}")
    return tuple(cast("float", _number(entry, name)) for entry in value)


def _number(value: object, name: str) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, (str, bytes, bool)):
            raise TypeError
        return float(cast("float", value))
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name}: expected a number, not {value!r}") from None
