"""`Predictor`: images in, answers out, whatever backend the artifact was made for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.artifact import Artifact, Manifest, open_artifact
from levit.errors import (
    ConfigError,
    CorruptArtifactError,
    InputError,
    LevitError,
    VerificationError,
)
from levit.images import ImageLike, load_image
from levit.preprocess import PreprocessSpec, normalize, to_pixels
from levit.runtime.backends import open_session
from levit.runtime.cpus import available_cpus, cpu_class, cpu_features
from levit.runtime.golden import GoldenReport, run_golden
from levit.runtime.prediction import Prediction, top_predictions
from levit.runtime.session import Session, SessionOptions

__all__ = ["Prediction", "Predictor"]

DEFAULT_TOP_K: Final = 5
MAX_THREADS: Final = 1024


class Predictor:
    """A loaded artifact.

    ::

        predictor = Predictor("levit_128-onnx-fp32")
        predictor("cat.jpg").label

    It may be called from many threads at once. It pickles as its path and settings, and
    reopens where it is unpickled. After a fork it refuses to answer in the child, because
    the backend's threads are not there: open one in each child. (A forked child of a process
    that has used ONNX Runtime must also end with ``os._exit``, as those of multiprocessing do:
    ONNX Runtime's own exit handlers wait for the missing threads. Or use spawn.)

    Args:
        artifact: the artifact's folder.
        device: ``cpu``.
        threads: CPU threads of the backend; by default as many as the process may really
            use (affinity mask and cgroup quota).
        exif: turn pictures as their EXIF orientation says (timm, and so the default, does
            not).
        prove: on a CPU class that the artifact has not seen, compare its golden cases first.

    Raises:
        ArtifactError: the folder is no artifact, or one of its files is missing or changed.
        BackendUnavailableError: its backend or the device is not on this machine.
        VerificationError: on a CPU class that the artifact has not seen, its golden cases
            do not come out as they should.
    """

    def __init__(
        self,
        artifact: str | os.PathLike[str],
        device: str = "cpu",
        threads: int | None = None,
        *,
        exif: bool = False,
        prove: bool = True,
    ) -> None:
        if not isinstance(artifact, (str, os.PathLike)) or not os.fspath(artifact):
            raise ConfigError(f"an artifact is named by its folder's path, not by {artifact!r}")
        if device not in ("cpu", "gpu"):
            raise ConfigError(f"device must be 'cpu' or 'gpu', not {device!r}")
        if threads is not None and not (_is_count(threads) and threads <= MAX_THREADS):
            raise ConfigError(
                f"threads must be a whole number from 1 to {MAX_THREADS}, or None for all, not "
                f"{threads!r}"
            )
        # Absolute, so that it reopens after a change of folder or in another process.
        self._artifact: Artifact = open_artifact(os.path.abspath(artifact))
        self._device = device
        self._requested_threads = None if threads is None else int(threads)
        self._threads = self._requested_threads or available_cpus()
        self._exif = exif
        self._proves = prove
        self._labels = _checked_labels(self._artifact)
        self._session: Session | None = open_session(
            self._artifact, SessionOptions(device=device, threads=self._threads)
        )
        self._pid = os.getpid()
        seen = cpu_features() and self.manifest.verification.get("cpu_class") == cpu_class()
        if prove and not seen:
            self._prove()

    # ------------------------------------------------------------------ what it is

    @property
    def manifest(self) -> Manifest:
        """What the artifact says of itself."""
        return self._artifact.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self._labels

    @property
    def path(self) -> Path:
        """The artifact's folder, absolute."""
        return self._artifact.path

    @property
    def threads(self) -> int:
        """CPU threads that the backend was given."""
        return self._threads

    def __repr__(self) -> str:
        state = "" if self._session is not None else ", closed"
        settings = f"device={self._device!r}, threads={self._threads}"
        return f"Predictor({str(self.path)!r}, {settings}{state})"

    # ------------------------------------------------------------------ answers

    def __call__(self, image: ImageLike) -> Prediction:
        """Classify one image; several go to :meth:`predict`."""
        if isinstance(image, (list, tuple)):
            raise InputError("one image is expected here; several go to predict(images)")
        return self.predict([image])[0]

    def predict(self, images: Iterable[ImageLike], top_k: int = DEFAULT_TOP_K) -> list[Prediction]:
        """Classify images, batched inside, in their order.

        Args:
            images: any iterable; it is read as it is needed, a batch at a time.
            top_k: entries of ``Prediction.top`` (at most the number of classes).

        Raises:
            InputError: an image cannot be read; the model has no classes.
        """
        if not _is_count(top_k):
            raise InputError(f"top_k must be a whole number of at least 1, not {top_k!r}")
        self._require_output("logits", "classify (it is headless); use embed()")
        predictions: list[Prediction] = []
        for batch in self._batches(images):
            logits = self.forward(batch)["logits"]
            predictions += top_predictions(logits, self._labels, int(top_k))
        return predictions

    def embed(self, images: Iterable[ImageLike]) -> NDArray[np.float32]:
        """Pooled features before the classifier (timm's pre-logits).

        Returns:
            (N, D) float32.

        Raises:
            InputError: an image cannot be read; the artifact has no such output.
        """
        self._require_output("embedding", "embed; export it with --outputs logits,embedding")
        width = next(o.shape[-1] for o in self.manifest.outputs if o.name == "embedding")
        parts = [self.forward(batch)["embedding"] for batch in self._batches(images)]
        return np.concatenate([np.empty((0, int(width)), np.float32), *parts])

    def preprocess(self, images: Iterable[ImageLike]) -> NDArray[Any]:
        """Images → the batch that :meth:`forward` takes.

        Returns:
            (N, 3, H, W) float32 or (N, H, W, 3) uint8, as the artifact takes it.

        Raises:
            InputError: an image cannot be read; the model takes no RGB images.
        """
        spec = self._image_spec()
        pixels = [
            to_pixels(load_image(image, exif=self._exif), spec) for image in _as_iterable(images)
        ]
        batch = np.stack(pixels) if pixels else np.empty((0, *spec.image_size, 3), np.uint8)
        return batch if self.manifest.inputs[0].dtype == "uint8" else normalize(batch, spec)

    def forward(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """A preprocessed batch through the network.

        Args:
            batch: the shape, layout and dtype of ``manifest.inputs[0]``, with any N.

        Returns:
            Every output of the artifact by name, float32, N first.

        Raises:
            InputError: the array is of another rank, shape or dtype.
        """
        self._check_batch(batch)
        profile = self.manifest.batch
        if profile.static:
            parts = [
                {name: value[: len(chunk)] for name, value in self._run(padded).items()}
                for chunk, padded in _padded_chunks(batch, profile.max)
            ]
        else:
            parts = [self._run(chunk) for chunk in _chunks(batch, profile.max)]
        if len(parts) == 1:
            return parts[0]
        return {
            output.name: np.concatenate(
                [
                    np.empty((0, *map(int, output.shape[1:])), output.dtype),
                    *(part[output.name] for part in parts),
                ]
            )
            for output in self.manifest.outputs
        }

    # ------------------------------------------------------------------ self-check and life

    def check(self) -> GoldenReport:
        """Run the artifact's golden cases here and compare with the stored reference."""
        return run_golden(self.manifest, self._artifact.golden(), self.forward)

    def close(self) -> None:
        """Give back what the backend holds. Closing twice is fine; using it then is an error."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        settings = (self._device, self._requested_threads, self._exif, self._proves)
        return _reopen, (str(self.path), *settings)

    # ------------------------------------------------------------------ inside

    def _prove(self) -> None:
        report = self.check()
        if not report.passed:
            self.close()
            raise VerificationError(
                f"{self.path}: on this CPU ({cpu_class()}) the golden cases are off by "
                f"{report.max_relative_error:.1e}, allowed is {report.tolerance:.1e}: "
                f"export again on this machine, or compare with: levit check"
            )

    def _run(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        session = self._session
        if session is None:
            raise InputError(f"{self!r} cannot answer: open a new one")
        if os.getpid() != self._pid:
            raise LevitError(
                "this Predictor was opened before a fork and its threads are not in this "
                "process: open a Predictor in the child, or start workers with 'spawn'"
            )
        return session.run({self.manifest.inputs[0].name: batch})

    def _batches(self, images: Iterable[ImageLike]) -> Iterator[NDArray[Any]]:
        iterator = iter(_as_iterable(images))
        while group := list(islice(iterator, self.manifest.batch.opt)):
            yield self.preprocess(group)

    def _require_output(self, name: str, purpose: str) -> None:
        names = [output.name for output in self.manifest.outputs]
        if name not in names:
            raise InputError(
                f"{self.path.name} has no output {name!r} (it has {', '.join(names)}) and cannot "
                f"{purpose}"
            )

    def _image_spec(self) -> PreprocessSpec:
        spec = self.manifest.preprocess
        if spec is None:
            raise InputError(
                f"{self.path.name} takes tensors of shape {self.manifest.inputs[0].shape}, not RGB "
                f"images: call forward()"
            )
        return spec

    def _check_batch(self, batch: NDArray[Any]) -> None:
        spec = self.manifest.inputs[0]
        if not isinstance(batch, np.ndarray):
            raise InputError(f"forward() takes a NumPy array, not {type(batch).__name__}")
        wanted = ("N", *spec.shape[1:])
        if (
            batch.ndim == len(wanted)
            and batch.shape[1:] == wanted[1:]
            and batch.dtype == spec.dtype
        ):
            return
        hint = ""
        if batch.ndim == len(wanted) - 1:
            hint = "; add the batch axis: batch[None]"
        elif batch.ndim == 4 and batch.shape[1:] != wanted[1:] and _is_other_layout(batch, wanted):
            axes = "(0, 3, 1, 2)" if spec.layout == "NCHW" else "(0, 2, 3, 1)"
            hint = f"; the layout is {spec.layout}: transpose{axes}"
        elif batch.shape[1:] == wanted[1:]:
            hint = f"; convert it with .astype('{spec.dtype}')"
            if spec.dtype == "uint8" or batch.dtype == np.uint8:
                hint = "; make it with preprocess()"
        shape = ", ".join(map(str, wanted))
        raise InputError(
            f"forward() takes ({shape}) {spec.dtype}, not {batch.shape} {batch.dtype}{hint}"
        )


def _reopen(path: str, device: str, threads: int | None, exif: bool, prove: bool) -> Predictor:
    return Predictor(path, device=device, threads=threads, exif=exif, prove=prove)


def _is_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        return False
    return int(value) >= 1


def _checked_labels(artifact: Artifact) -> tuple[str, ...]:
    labels = artifact.labels()
    for output in artifact.manifest.outputs:
        if output.name == "logits" and output.shape[-1:] != (len(labels),):
            raise CorruptArtifactError(
                f"{artifact.path}: {len(labels)} labels for logits of shape {output.shape}; "
                f"export again"
            )
    return labels


def _as_iterable(images: Iterable[ImageLike]) -> Iterable[ImageLike]:
    """Guard against one image where images are expected: a path would be read by letters."""
    single = isinstance(images, (str, bytes, os.PathLike)) or hasattr(images, "read")
    single = single or (isinstance(images, np.ndarray) and images.ndim == 3)
    if single or not isinstance(images, Iterable):
        raise InputError(
            f"expected images (a list or another iterable), not one {type(images).__name__}: "
            f"pass [image], or call the predictor itself"
        )
    return images


def _is_other_layout(batch: NDArray[Any], wanted: tuple[int | str, ...]) -> bool:
    return sorted(batch.shape[1:]) == sorted(int(n) for n in wanted[1:])


def _chunks(batch: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    for start in range(0, len(batch), size):
        yield np.ascontiguousarray(batch[start : start + size])


def _padded_chunks(batch: NDArray[Any], size: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for chunk in _chunks(batch, size):
        missing = size - len(chunk)
        padding = np.zeros((missing, *chunk.shape[1:]), chunk.dtype)
        yield chunk, (np.concatenate([chunk, padding]) if missing else chunk)
