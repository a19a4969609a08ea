"""Arguments of a `Predictor`, checked where people get them wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from levit.artifact import Manifest
from levit.errors import ConfigError, InputError
from levit.pictures.modes import CHANNEL_ORDERS, MODES, check_conversion
from levit.pictures.pipeline import Pipeline
from levit.pictures.preprocess import PreprocessSpec
from levit.runtime.backends import Session, SessionOptions
from levit.runtime.cpus import default_threads

if TYPE_CHECKING:
    from levit.pictures.reading import ImageLike

__all__ = ["MAX_THREADS", "PredictorSettings", "as_images", "check_path", "is_count"]

MAX_THREADS: Final = 1024


def is_count(value: object, least: int) -> bool:
    """Tell whether `value` is a whole number, also one of NumPy's, of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        return False
    return int(value) >= least


@dataclass(frozen=True, kw_only=True)
class PredictorSettings:
    """Settings of a `Predictor`, as its docstring describes them.

    Raises:
        ConfigError: one of them cannot be.
    """

    device: str
    threads: int | None
    mode: str
    cache: str | os.PathLike[str] | None
    workers: int | None
    channels: str
    exif: bool
    draft: bool
    grey16: str | None
    background: str | None
    allow_host_code: bool
    prove: bool

    def __post_init__(self) -> None:
        _check_choice("device", self.device, ("cpu", "gpu"))
        _check_choice("mode", self.mode, ("latency", "throughput"))
        _check_choice("channels", self.channels, CHANNEL_ORDERS)
        _check_threads("threads", self.threads, 1, "all")
        _check_threads("workers", self.workers, 0, "as many as threads")
        check_conversion("RGB", self.grey16, self.background)
        if self.cache is not None:
            check_path(self.cache, "cache must be a folder's path, or None for none, not")
            # Absolute, so that it is the same after a change of folder or in another process.
            object.__setattr__(self, "cache", Path(os.path.abspath(self.cache)))
        if not isinstance(self.allow_host_code, bool):
            raise ConfigError(f"allow_host_code is True or False, not {self.allow_host_code!r}")

    @property
    def image_workers(self) -> int:
        """Threads that prepare images: as many as the backend's, and none beside one alone."""
        if self.workers is not None:
            return int(self.workers)
        threads = self.session_options.threads
        return threads if threads > 1 else 0

    @property
    def session_options(self) -> SessionOptions:
        """Options of the backend's session."""
        return SessionOptions(
            device=self.device,
            threads=default_threads() if self.threads is None else int(self.threads),
            mode=self.mode,
            cache=None if self.cache is None else Path(self.cache),
            allow_host_code=self.allow_host_code,
        )

    def pipeline(self, manifest: Manifest, spec: PreprocessSpec, session: Session) -> Pipeline:
        """Make the pipeline from images to batches, of a model that takes them by `spec`."""
        # Pillow is imported where there are pictures, and takes 20 ms.
        from levit.pictures.preparation import Preparation

        spec = replace(
            spec,
            grey16=spec.grey16 if self.grey16 is None else self.grey16,
            background=spec.background if self.background is None else self.background,
        )
        preparation = Preparation(
            spec=spec,
            dtype="uint8" if session.takes_pixels else manifest.inputs[0].dtype,
            channels=self.channels,
            exif=self.exif,
            draft=self.draft,
        )
        return Pipeline(
            preparation,
            batch=manifest.batch.opt,
            workers=self.image_workers,
            spread=session.runs_alone and not manifest.batch.static,
        )


def _check_choice(name: str, value: object, choices: tuple[str, str]) -> None:
    """Raise `ConfigError` unless `value` is one of two words."""
    if value not in choices:
        one, other = choices
        raise ConfigError(f"{name} must be {one!r} or {other!r}, not {value!r}")


def _check_threads(name: str, value: Any, least: int, default: str) -> None:
    """Raise `ConfigError` unless `value` is a number of threads, or None, which means `default`."""
    if value is not None and not (is_count(value, least) and int(value) <= MAX_THREADS):
        raise ConfigError(
            f"{name} must be a whole number from {least} to {MAX_THREADS}, or None for {default}, "
            f"not {value!r}"
        )


def check_path(value: object, what: str) -> None:
    """Raise `ConfigError`, which begins with `what`, unless `value` is a path."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ConfigError(f"{what} {value!r}")


def as_images(images: Iterable[ImageLike], mode: str = "RGB") -> Iterable[ImageLike]:
    """Guard against one image where images are expected: a path would be read by letters.

    Args:
        mode: the image mode; to a grey one (N, H, W) is N pictures.

    Raises:
        InputError: it is one image, or nothing that can be iterated over.
    """
    single = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike))
    single = single or hasattr(images, "read")
    single = single or (isinstance(images, np.ndarray) and _is_picture(images, mode))
    if single or not isinstance(images, Iterable):
        raise InputError(
            f"expected images (a list or another iterable), not one {type(images).__name__}: "
            f"pass [image], or call the predictor itself"
        )
    return images


def _is_picture(array: np.ndarray[Any, Any], mode: str) -> bool:
    if MODES[mode].channels == 1:
        return array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    return array.ndim == 3
