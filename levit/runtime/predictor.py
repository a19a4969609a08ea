"""`Predictor`: images in, answers out, whatever backend the artifact was made for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from levit.artifact import Artifact, Manifest, open_artifact
from levit.errors import (
    ConfigError,
    InputError,
    LevitError,
    VerificationError,
)
from levit.pictures.pipeline import Batches, Pipeline
from levit.pictures.preparation import Preparation
from levit.pictures.reading import ImageLike
from levit.runtime.arguments import (
    as_images,
    check_choice,
    check_path,
    check_threads,
    is_count,
)
from levit.runtime.backends import open_session
from levit.runtime.batching import check_batch, run_in_chunks
from levit.runtime.cpus import available_cpus
from levit.runtime.golden import GoldenReport, run_golden
from levit.runtime.interface import checked_labels
from levit.runtime.prediction import Prediction, top_predictions
from levit.runtime.session import Session, SessionOptions

__all__ = ["Prediction", "Predictor"]

Images: TypeAlias = Iterable[ImageLike]
Answers: TypeAlias = list[Prediction]
AnswersOrErrors: TypeAlias = list[Prediction | InputError]
Raise: TypeAlias = Literal["raise"]
Return: TypeAlias = Literal["return"]

_CLASSIFY: Final = "classify (it is headless, or was exported without logits); use embed()"


class Predictor:
    """A loaded artifact.

    ::

        predictor = Predictor("levit_128-onnx-fp32")
        predictor("cat.jpg").label

    It may be called from many threads at once. Over several images, worker threads decode and
    resize what comes next while the network runs; they end with the call.

    It pickles as its path and settings, and reopens where it is unpickled. After a fork it
    refuses to answer in the child, because the backend's threads are not there: open one in each
    child. (A forked child of a process that has used ONNX Runtime must also end with
    ``os._exit``, as those of multiprocessing do: ONNX Runtime's own exit handlers wait for the
    missing threads. Or use spawn.)

    Args:
        artifact: the artifact's folder.
        device: ``cpu``, or ``gpu``: the NVIDIA GPU that CUDA takes first. Where it cannot be used
            that is an error; nothing runs on the CPU instead.
        threads: CPU threads of the backend; by default as many as the process may really
            use (affinity mask and cgroup quota).
        mode: ``latency`` answers a batch with all threads; ``throughput`` divides them over several
            batches at once, where the backend knows how (OpenVINO).
        cache: a folder where the backend may keep what it compiles at every opening (OpenVINO).
            It is trusted as it is: keep it where nobody else can write.
        workers: threads that prepare images beside the network, over all calls at once; 0 for
            none. By default as many as `threads`, and none where that is one.
        exif: turn pictures as their EXIF orientation says (timm, and so the default, does
            not).
        draft: decode large JPEGs at 1/2, 1/4 or 1/8 of their size, the smallest that is at least
            1.4 times what they are resized to: photos of 12 megapixels in about a quarter of the
            time. Not what the model's home does, so not the default: pixels change by a grey
            level or so on average (at sharp edges by up to 20), and close decisions with them.
        allow_host_code: load an engine that carries code for the CPU, as version-compatible ones
            of TensorRT do. It runs with the rights of this process: only from whom you trust.
        prove: on a class of CPU or GPU that the artifact has not seen, compare its golden cases
            first.

    Raises:
        ArtifactError: the folder is no artifact, or one of its files is missing or changed.
        BackendUnavailableError: its backend or the device is not on this machine.
        VerificationError: on a class of CPU or GPU that the artifact has not seen, its golden
            cases do not come out as they should.
    """

    def __init__(
        self,
        artifact: str | os.PathLike[str],
        device: str = "cpu",
        threads: int | None = None,
        *,
        mode: str = "latency",
        cache: str | os.PathLike[str] | None = None,
        workers: int | None = None,
        exif: bool = False,
        draft: bool = False,
        allow_host_code: bool = False,
        prove: bool = True,
    ) -> None:
        check_path(artifact, "an artifact is named by its folder's path, not by")
        check_choice("device", device, ("cpu", "gpu"))
        check_choice("mode", mode, ("latency", "throughput"))
        check_threads("threads", threads, 1, "all")
        check_threads("workers", workers, 0, "as many as threads")
        if cache is not None:
            check_path(cache, "cache must be a folder's path, or None for none, not")
        if not isinstance(allow_host_code, bool):
            raise ConfigError(f"allow_host_code is True or False, not {allow_host_code!r}")
        # Absolute, so that it reopens after a change of folder or in another process.
        self._artifact: Artifact = open_artifact(os.path.abspath(artifact))
        self._device = device
        self._mode = mode
        self._cache = None if cache is None else Path(os.path.abspath(cache))
        self._requested_threads = None if threads is None else int(threads)
        self._threads = self._requested_threads or available_cpus()
        self._requested_workers = None if workers is None else int(workers)
        default = self._threads if self._threads > 1 else 0
        self._workers = default if workers is None else int(workers)
        self._exif = exif
        self._draft = draft
        self._allows_host_code = allow_host_code
        self._proves = prove
        self._labels = checked_labels(self._artifact)
        options = SessionOptions(
            device=device,
            threads=self._threads,
            mode=mode,
            cache=self._cache,
            allow_host_code=allow_host_code,
        )
        session = open_session(self._artifact, options)
        self._session: Session | None = session
        self._pid = os.getpid()
        self._image_parts = self._prepared()
        verification, here = self.manifest.verification, session.machine_class
        seen = (verification.get("cpu_class"), verification.get("gpu_class"))
        if prove and not (here and here in seen):
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

    @property
    def workers(self) -> int:
        """Threads that may prepare images beside it."""
        return self._workers

    @property
    def machine_class(self) -> str:
        """What its kernels are chosen by here: the class of the CPU or GPU; empty if unknown."""
        return self._open_session().machine_class

    def __repr__(self) -> str:
        state = "" if self._session is not None else ", closed"
        settings = f"device={self._device!r}, threads={self._threads}, workers={self._workers}"
        mode = "" if self._mode == "latency" else f", mode={self._mode!r}"
        return f"Predictor({str(self.path)!r}, {settings}{mode}{state})"

    # ------------------------------------------------------------------ answers

    def __call__(self, image: ImageLike) -> Prediction:
        """Classify one image; several go to :meth:`predict`."""
        if isinstance(image, (list, tuple)):
            raise InputError("one image is expected here; several go to predict(images)")
        self._require_output("logits", _CLASSIFY)
        preparation, _ = self._images()
        batch = preparation.allocate(1)
        preparation.prepare(image, batch[0])
        return top_predictions(self._output("logits", batch), self._labels, 5)[0]

    @overload
    def predict(self, images: Images, top_k: int = 5, *, on_error: Raise = "raise") -> Answers: ...

    @overload
    def predict(self, images: Images, top_k: int = 5, *, on_error: Return) -> AnswersOrErrors: ...

    def predict(
        self, images: Images, top_k: int = 5, *, on_error: Raise | Return = "raise"
    ) -> Answers | AnswersOrErrors:
        """Classify images, batched inside, in their order.

        Args:
            images: any iterable, read in this thread, at most three batches
                (``manifest.batch.opt``) ahead of what is answered. Arrays and Pillow images must
                stay as they are until then.
            top_k: entries of ``Prediction.top`` (at most the number of classes).
            on_error: what becomes of an image that cannot be read: ``raise`` its error, which
                names it and its position, or ``return`` the error in its place and go on.

        Raises:
            InputError: an image cannot be read; the model has no classes. (What `images` itself
                raises is passed on as it is.)
            VerificationError: the network answers with NaN or infinity.
        """
        return list(self._stream(images, top_k, on_error))

    @overload
    def stream(
        self, images: Images, top_k: int = 5, *, on_error: Raise = "raise"
    ) -> Iterator[Prediction]: ...

    @overload
    def stream(
        self, images: Images, top_k: int = 5, *, on_error: Return
    ) -> Iterator[Prediction | InputError]: ...

    def stream(
        self, images: Images, top_k: int = 5, *, on_error: Raise | Return = "raise"
    ) -> Iterator[Any]:
        """As :meth:`predict`, but an iterator: answers come as they are ready, and none is kept.

        For more images than fit in a list, without end if need be. It may be dropped at any time.
        """
        return self._stream(images, top_k, on_error)

    def _stream(self, images: Images, top_k: int, on_error: Raise | Return) -> Iterator[Any]:
        if not is_count(top_k, 1):
            raise InputError(f"top_k must be a whole number of at least 1, not {top_k!r}")
        if on_error not in ("raise", "return"):
            raise ConfigError(f"on_error must be 'raise' or 'return', not {on_error!r}")
        self._require_output("logits", _CLASSIFY)
        _, pipeline = self._images()
        self._open_session()
        return self._answers(pipeline.batches(as_images(images), on_error), int(top_k))

    def _answers(self, batches: Batches, top_k: int) -> Iterator[Prediction | InputError]:
        with batches:
            for rows, errors in batches:
                logits = self._output("logits", rows)
                predictions = iter(top_predictions(logits, self._labels, top_k))
                for place in range(len(rows) + len(errors)):
                    yield errors[place] if place in errors else next(predictions)

    def embed(self, images: Images) -> NDArray[np.float32]:
        """Pooled features before the classifier (timm's pre-logits).

        Args:
            images: any iterable, read as :meth:`predict` does.

        Returns:
            (N, D) float32.

        Raises:
            InputError: an image cannot be read (an array has no place for its error, so this is
                raised, and names it and its position); the artifact has no such output.
        """
        self._require_output("embedding", "embed; export it with --outputs logits,embedding")
        width = next(o.shape[-1] for o in self.manifest.outputs if o.name == "embedding")
        _, pipeline = self._images()
        self._open_session()
        with pipeline.batches(as_images(images)) as batches:
            parts = [self._output("embedding", rows) for rows, _ in batches]
        return np.concatenate([np.empty((0, int(width)), np.float32), *parts])

    def preprocess(self, images: Images) -> NDArray[Any]:
        """Images → the batch that :meth:`forward` takes.

        Returns:
            (N, 3, H, W) float32 or (N, H, W, 3) uint8, as the artifact takes it.

        Raises:
            InputError: an image cannot be read; the model takes no RGB images.
        """
        preparation, pipeline = self._images()
        with pipeline.batches(as_images(images)) as batches:
            parts = [rows for rows, _ in batches]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([preparation.allocate(0), *parts])

    def forward(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """A preprocessed batch through the network.

        Args:
            batch: the shape, layout and dtype of ``manifest.inputs[0]``, with any N.

        Returns:
            Every output of the artifact by name, float32, N first.

        Raises:
            InputError: the array is of another rank, shape or dtype.
        """
        check_batch(batch, self.manifest.inputs[0])
        return run_in_chunks(self._run, batch, self.manifest)

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
        settings = {
            "device": self._device,
            "mode": self._mode,
            "cache": self._cache,
            "threads": self._requested_threads,
            "workers": self._requested_workers,
            "exif": self._exif,
            "draft": self._draft,
            "allow_host_code": self._allows_host_code,
            "prove": self._proves,
        }
        return _reopen, (str(self.path), settings)

    # ------------------------------------------------------------------ inside

    def _prove(self) -> None:
        here = self._open_session().machine_class or "unknown"
        report = self.check()
        if not report.passed:
            self.close()
            raise VerificationError(
                f"{self.path}: on this machine ({here}) the golden cases are off by "
                f"{report.max_relative_error:.1e}, allowed is {report.tolerance:.1e}: "
                f"export again on this machine, or compare with: levit check"
            )

    def _run(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        session = self._open_session()
        self._check_process()
        return session.run({self.manifest.inputs[0].name: batch})

    def _output(self, name: str, batch: NDArray[Any]) -> NDArray[Any]:
        """One output for images, whose numbers are finite, as their tensors were."""
        values = self.forward(batch)[name]
        if not np.isfinite(values).all():
            raise VerificationError(
                f"{self.path}: the network's {name} are not finite numbers; try levit check, and "
                f"export again"
            )
        return values

    def _open_session(self) -> Session:
        if self._session is None:
            raise InputError(f"{self!r} cannot answer: open a new one")
        return self._session

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise LevitError(
                "this Predictor was opened before a fork and its threads are not in this "
                "process: open a Predictor in the child, or start workers with 'spawn'"
            )

    def _prepared(self) -> tuple[Preparation, Pipeline] | None:
        """How images become batches; None where the model takes no RGB images."""
        spec = self.manifest.preprocess
        if spec is None:
            return None
        preparation = Preparation(
            spec=spec, dtype=self.manifest.inputs[0].dtype, exif=self._exif, draft=self._draft
        )
        return preparation, Pipeline(
            preparation,
            batch=self.manifest.batch.opt,
            workers=self.workers,
            check=self._check_process,
        )

    def _require_output(self, name: str, purpose: str) -> None:
        names = [output.name for output in self.manifest.outputs]
        if name not in names:
            raise InputError(
                f"{self.path.name} has no output {name!r} (it has {', '.join(names)}) and cannot "
                f"{purpose}"
            )

    def _images(self) -> tuple[Preparation, Pipeline]:
        if self._image_parts is None:
            raise InputError(
                f"{self.path.name} takes tensors of shape {self.manifest.inputs[0].shape}, not RGB "
                f"images: call forward()"
            )
        return self._image_parts


def _reopen(path: str, settings: dict[str, Any]) -> Predictor:
    return Predictor(path, **settings)
