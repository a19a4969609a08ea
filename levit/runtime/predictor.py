"""`Predictor`: images in, answers out, with the backend that the artifact was made for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from levit.artifact import Artifact, Manifest, open_artifact
from levit.errors import ConfigError, InputError, LevitError, VerificationError
from levit.faults import attributing
from levit.pictures.pipeline import Batches, Pipeline
from levit.runtime.arguments import PredictorSettings, as_images, check_path, is_count
from levit.runtime.backends import Session, open_session
from levit.runtime.batching import check_batch, run_in_chunks
from levit.runtime.compatibility import checked_labels
from levit.runtime.golden import GoldenReport, run_golden
from levit.runtime.prediction import Prediction, top_predictions

if TYPE_CHECKING:
    from levit.pictures.preparation import Preparation
    from levit.pictures.reading import ImageLike

__all__ = ["Prediction", "Predictor"]

Images: TypeAlias = "Iterable[ImageLike]"
Answers: TypeAlias = list[Prediction]
AnswersOrErrors: TypeAlias = list[Prediction | InputError]
Raise: TypeAlias = Literal["raise"]
Return: TypeAlias = Literal["return"]

_log: Final = logging.getLogger("levit.runtime")

_CLASSIFY: Final = "classify (it is headless, or was exported without logits); use embed()"


class Predictor:
    """A loaded artifact: pictures in, answers out.

    ::

        predictor = Predictor("levit_128-onnx-fp32", threads=4, exif=True)
        predictor("cat.jpg").label                             # one image
        predictor.predict(["cat.jpg", "dog.png"], top_k=3)     # several, in their order
        for answer in predictor.stream(frames):                # any number, one by one
            print(answer.label, answer.score)
        predictor.embed(["cat.jpg"])                           # (1, D) float32
        batch = predictor.preprocess(["cat.jpg"])              # the network's own input
        predictor.forward(batch)["logits"]
        predictor.close()                                      # or use a with statement

    An image is a path, encoded bytes, a binary file, a Pillow image, or an array: (H, W, 3) uint8,
    for models of grey pictures (H, W) uint8 (uint16 where they have 16 bits), of RGBA (H, W, 4)
    uint8. Pictures of another mode are converted to the model's, as Pillow does; an array of
    another mode is passed as ``Image.fromarray(array)``.

    A predictor may be called from many threads at once. Over several images, worker threads
    decode and resize the next ones while the network runs; they end with the call.

    It pickles as its path and settings, and reopens where it is unpickled. After a fork one of a
    `native` artifact answers in the child too; others refuse to, as their backends' threads are not
    there: open one in each child, or use spawn. A child may end as it likes.

    All settings, ``exif`` and ``draft`` too, belong to the constructor, not to the methods. The
    logger ``levit.runtime`` says at INFO what has been opened, how, and how it has proven itself.

    Args:
        artifact: the artifact's folder.
        device: ``cpu``, or ``gpu``: the NVIDIA GPU that CUDA takes first. Where it cannot be used
            that is an error; nothing runs on the CPU instead.
        threads: CPU threads of the backend; by default as many as the process may really
            use (affinity mask, cgroup quota, and ``OMP_NUM_THREADS`` where that is set).
        mode: ``latency`` answers a batch with all threads; ``throughput`` divides them over several
            batches at once, where the backend knows how (OpenVINO).
        cache: a folder where the backend may keep the networks that it would otherwise compile
            at every opening (OpenVINO). It is trusted as it is: keep it where nobody else can
            write.
        workers: threads that prepare images beside the network, over all calls at once; 0 for
            none. By default as many as `threads`, and none where that is one.
        channels: order of the colours of arrays: ``rgb``, or ``bgr`` for frames of OpenCV.
        exif: turn pictures as their EXIF orientation says (timm, and so the default, does
            not).
        draft: decode large JPEGs at 1/2, 1/4 or 1/8 of their size, the smallest that is at least
            1.4 times the size that they are resized to: photos of 12 megapixels in about a
            quarter of the time. The model's home library does not, so not the default: pixels
            change by a grey level or so on average (at sharp edges by up to 20), and close
            decisions with them.
        grey16: grey pictures of 16 bits, for a model of 8: ``scale`` takes their upper eight,
            ``clip`` makes white of all above 255, as the home libraries do. By default as the
            artifact says, which mostly refuses them.
        background: colour behind what is not opaque, by name or as ``#rrggbb``. By default as the
            artifact says; where it says nothing, opacity is dropped, as in the home libraries, and
            a picture that has nothing else is refused.
        allow_host_code: load an engine that carries code for the CPU, as version-compatible ones
            of TensorRT do. It runs with the rights of this process: only from whom you trust.
        prove: on a class of CPU or GPU that the artifact has not seen, compare its golden cases
            first.

    Raises:
        ArtifactError: the folder is no artifact, or one of its files is missing or changed.
        BackendUnavailableError: its backend or the device is not on this machine.
        ResourceError: the machine has no more memory, threads or open files to give. Every
            method may raise it; the same call may succeed later.
        VerificationError: on a class of CPU or GPU that the artifact has not seen, its golden
            cases do not come out as they should.
    """

    @attributing()
    def __init__(
        self,
        artifact: str | os.PathLike[str],
        device: str = "cpu",
        threads: int | None = None,
        *,
        mode: str = "latency",
        cache: str | os.PathLike[str] | None = None,
        workers: int | None = None,
        channels: str = "rgb",
        exif: bool = False,
        draft: bool = False,
        grey16: str | None = None,
        background: str | None = None,
        allow_host_code: bool = False,
        prove: bool = True,
    ) -> None:
        check_path(artifact, "an artifact is named by its folder's path, not by")
        self._settings = PredictorSettings(
            device=device,
            threads=threads,
            mode=mode,
            cache=cache,
            workers=workers,
            channels=channels,
            exif=exif,
            draft=draft,
            grey16=grey16,
            background=background,
            allow_host_code=allow_host_code,
            prove=prove,
        )
        # Absolute, so that it reopens after a change of folder or in another process.
        self._artifact: Artifact = open_artifact(os.path.abspath(artifact), verify_hashes=False)
        options = self._settings.session_options
        self._threads = options.threads
        self._labels = checked_labels(self._artifact)
        session = open_session(self._artifact, options)  # which hashes what it reads
        self._artifact.verify()
        self._session: Session | None = session
        self._pid = None if session.survives_fork else os.getpid()
        # By process: the locks of a parent's may be held by threads that are not in its child.
        self._pipelines: dict[int, Pipeline] = {}
        here = session.machine_class
        seen = [self.manifest.verification.get(name) for name in ("cpu_class", "gpu_class")]
        _log.info(
            "opened %s: %s %s on %s, threads %d, workers %d, machine class %s",
            *(self.path, self.manifest.format, self.manifest.precision, self._settings.device),
            *(self._threads, self.workers, here or "unknown"),
        )
        if prove and not (here and here in seen):
            self._prove(here)

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
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
        """Threads that may prepare images beside the network."""
        return self._settings.image_workers

    @property
    def machine_class(self) -> str:
        """Class of CPU or GPU here, which kernels are chosen by; empty if unknown."""
        return self._open_session().machine_class

    def __repr__(self) -> str:
        state = "" if self._session is not None else ", closed"
        device, mode = self._settings.device, self._settings.mode
        settings = f"device={device!r}, threads={self._threads}, workers={self.workers}"
        mode = "" if mode == "latency" else f", mode={mode!r}"
        return f"Predictor({str(self.path)!r}, {settings}{mode}{state})"

    @attributing()
    def __call__(self, image: ImageLike, top_k: int = 5) -> Prediction:
        """Classify one image; several go to :meth:`predict`, which has the same `top_k`."""
        _check_top_k(top_k)
        if isinstance(image, (list, tuple)):
            raise InputError("one image is expected here; several go to predict(images)")
        self._require_output("logits", _CLASSIFY)
        preparation = self._images().preparation
        batch = preparation.allocate(1)
        preparation.prepare(image, batch[0])
        return self._ranked(self._output("logits", batch), int(top_k))[0]

    @overload
    def predict(self, images: Images, top_k: int = 5, *, on_error: Raise = "raise") -> Answers: ...

    @overload
    def predict(self, images: Images, top_k: int = 5, *, on_error: Return) -> AnswersOrErrors: ...

    def predict(
        self, images: Images, top_k: int = 5, *, on_error: Raise | Return = "raise"
    ) -> Answers | AnswersOrErrors:
        """Classify images, batched inside, in their order.

        ::

            answers = predictor.predict(["cat.jpg", "dog.png"], top_k=3)
            answers[0].top    # [("tabby", 281, 0.61), …]

        Args:
            images: any iterable, read in this thread, at most three batches
                (``manifest.batch.opt``) ahead of the answers. A generator may fill the same
                array or Pillow image again; those of a list must stay as they are until then.
            top_k: entries of ``Prediction.top``, at most all; values that are no scores stay.
            on_error: ``raise`` the error of an image that cannot be read, which names it and its
                position, or ``return`` the error in the image's place and go on.

        Raises:
            InputError: an image cannot be read; the model has no classes. (Errors of `images`
                itself are passed on as they are.)
            VerificationError: the network answers with NaN or infinity.
        """
        return list(self.stream(images, top_k, on_error=on_error))

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
        """Classify images as :meth:`predict`, and hand out each answer when it is ready.

        ::

            for answer in predictor.stream(frames, on_error="return"):
                ...

        The iterator may be dropped at any time.
        """
        _check_top_k(top_k)
        if on_error not in ("raise", "return"):
            raise ConfigError(f"on_error must be 'raise' or 'return', not {on_error!r}")
        self._require_output("logits", _CLASSIFY)
        return self._answers(self._batches(images, "logits", on_error), int(top_k))

    def _answers(self, batches: Batches, top_k: int) -> Iterator[Prediction | InputError]:
        with attributing(), batches:
            for logits, errors in batches:
                self._open_session()  # closed meanwhile, it hands out no answers made before
                predictions = iter(self._ranked(logits, top_k))
                for place in range(len(logits) + len(errors)):
                    yield errors[place] if place in errors else next(predictions)

    @attributing()
    def embed(self, images: Images) -> NDArray[np.float32]:
        """Compute the pooled features before the classifier (timm's pre-logits).

        ::

            predictor.embed(["cat.jpg", "dog.png"]).shape    # (2, D)

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
        with self._batches(images, "embedding") as batches:
            parts = [part for part, _ in batches]
        return np.concatenate([np.empty((0, int(width)), np.float32), *parts])

    @attributing()
    def preprocess(self, images: Images) -> NDArray[Any]:
        """Turn images into the batch that :meth:`forward` takes.

        Returns:
            (N, C, H, W) float32 or (N, H, W, C) uint8, as the artifact takes it.

        Raises:
            InputError: an image cannot be read; the model takes tensors only.
        """
        preparation = replace(self._images().preparation, dtype=self.manifest.inputs[0].dtype)
        with self._batches(images, preparation=preparation) as batches:
            parts: list[NDArray[Any]] = [rows for rows, _ in batches]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([preparation.allocate(0), *parts])

    @attributing()
    def forward(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run a preprocessed batch through the network.

        ::

            predictor.forward(predictor.preprocess(["cat.jpg"]))["logits"]    # (1, classes)

        Args:
            batch: the shape, layout and dtype of ``manifest.inputs[0]``, with any N.

        Returns:
            Every output of the artifact by name, float32, N first.

        Raises:
            InputError: the array is of another rank, shape or dtype.
        """
        check_batch(batch, self.manifest.inputs[0])
        return run_in_chunks(self._run, batch, self.manifest)

    @attributing()
    def check(self) -> GoldenReport:
        """Run the artifact's golden cases here and compare with the stored reference."""
        return run_golden(self.manifest, self._artifact.golden(), self.forward)

    def close(self) -> None:
        """Release the backend. Closing twice is fine; using the predictor then is an error."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), asdict(self._settings))

    def _prove(self, here: str) -> None:
        report = self.check()
        _log.info(
            "%s proves itself on machine class %s, which it has not seen: off by %.1e of %.1e",
            *(self.path, here or "unknown", report.max_relative_error, report.tolerance),
        )
        if not report.passed:
            self.close()
            raise report.error(self.path, here or "unknown")

    def _run(self, batch: NDArray[Any], *, alone: bool = False) -> dict[str, NDArray[Any]]:
        session = self._open_session()
        self._check_process()
        return session.run({self.manifest.inputs[0].name: batch}, alone=alone)

    def _output(self, name: str, batch: NDArray[Any], alone: bool = False) -> NDArray[Any]:
        """Compute one output for prepared images; its numbers must be finite."""
        values = run_in_chunks(partial(self._run, alone=alone), batch, self.manifest)[name]
        if not np.isfinite(values).all():
            raise VerificationError(
                f"{self.path}: the network's {name} are not finite numbers; try levit check, and "
                f"export again"
            )
        return values

    def _ranked(self, logits: NDArray[Any], top_k: int) -> Answers:
        return top_predictions(logits, self._labels, top_k, self.manifest.scores or "softmax")

    def _open_session(self) -> Session:
        if self._session is None:
            raise InputError(f"{self!r} cannot answer: open a new one")
        return self._session

    def _check_process(self) -> None:
        if self._pid not in (None, os.getpid()):
            raise LevitError(
                "this Predictor was opened before a fork and its threads are not in this "
                "process: open a Predictor in the child, or start workers with 'spawn'"
            )

    def _require_output(self, name: str, purpose: str) -> None:
        names = [output.name for output in self.manifest.outputs]
        if name not in names:
            raise InputError(
                f"{self.path.name} has no output {name!r} (it has {', '.join(names)}) and cannot "
                f"{purpose}"
            )

    def _batches(
        self,
        images: Images,
        output: str = "",
        on_error: Raise | Return = "raise",
        preparation: Preparation | None = None,
    ) -> Batches:
        """Prepare images, and compute an output of them where one is named."""
        pipeline = self._images()
        if output:
            self._open_session()
        return pipeline.batches(
            as_images(images, pipeline.preparation.spec.image_mode),
            on_error,
            compute=partial(self._output, output) if output else None,
            preparation=preparation,
        )

    def _images(self) -> Pipeline:
        self._check_process()
        if sys.is_finalizing() and sys.meta_path is None:
            # Pillow's modules are gone, and what they would need cannot be imported.
            raise LevitError(
                "the interpreter is ending and its modules are gone: predict earlier, in a handler "
                "of atexit at the latest"
            )
        spec = self.manifest.preprocess
        if spec is None:
            raise InputError(
                f"{self.path.name} takes tensors of shape {self.manifest.inputs[0].shape}, not "
                f"images: call forward()"
            )
        pid = os.getpid()
        if pid not in self._pipelines:
            # Threads that come at once all get the one that is set first.
            pipeline = self._settings.pipeline(self.manifest, spec, self._open_session())
            self._pipelines.setdefault(pid, pipeline)
        return self._pipelines[pid]


def _check_top_k(top_k: object) -> None:
    if not is_count(top_k, 1):
        raise InputError(f"top_k must be a whole number of at least 1, not {top_k!r}")


def _reopen(path: str, settings: dict[str, Any]) -> Predictor:
    return Predictor(path, **settings)
