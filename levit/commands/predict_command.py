"""``levit predict``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levit.artifact import MANIFEST_FILE
from levit.commands.images import find_images, open_predictor
from levit.commands.output import print_json, print_line, print_note
from levit.commands.progress import Progress
from levit.errors import ArtifactError, ConfigError, InputError
from levit.pictures.reading import ImageLike
from levit.runtime.prediction import Prediction, require_sigmoid
from levit.runtime.predictor import Predictor
from levit.whole_file import whole_file

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Classify, or save embeddings.

    A picture that cannot be read takes no other down: it gets an error of its own, and the exit
    status says so. Embeddings are written for all or not at all, as a row has no name.
    """
    images = find_images(arguments.images)
    names = [name for name, _ in images]
    status = 0
    results: list[dict[str, object]] = []
    threshold: float | None = arguments.threshold
    with Progress() as progress, open_predictor(arguments, progress) as predictor:
        if threshold is not None:
            require_sigmoid(predictor.manifest.scores)
        if arguments.embed is not None:
            _require_other(Path(arguments.embed), names, predictor)
            embeddings = predictor.embed(_counted(images, progress))
            _save(Path(arguments.embed), embeddings)
            report = {"file": arguments.embed, "shape": list(embeddings.shape), "images": names}
            with progress.aside():
                if arguments.json:
                    print_json(report)
                else:
                    print_line(
                        f"{arguments.embed}: {len(images)} embeddings of {embeddings.shape[1]}"
                    )
            return 0
        answers = predictor.stream(
            (image for _, image in images), arguments.top_k, on_error="return"
        )
        for done, (name, answer) in enumerate(zip(names, answers, strict=True)):
            progress("classifying", done + 1, len(images))
            if isinstance(answer, InputError):
                status = 1
                with progress.aside():
                    print_note(f"error: {answer}")
                results.append({"image": name, "error": str(answer)})
            elif arguments.json:
                results.append({"image": name, **_entry(answer, threshold)})
            else:
                with progress.aside():
                    print_line(f"{name}: {_words(answer, threshold)}")
    if arguments.json:
        print_json(results)
    return status


def _require_other(target: Path, names: Sequence[str], predictor: Predictor) -> None:
    """Refuse to write embeddings over a picture or the artifact that they are made of."""
    if not os.path.exists(target):
        return
    own = [predictor.path / name for name in (MANIFEST_FILE, *predictor.manifest.files)]
    for path in (*map(Path, map(str, names)), *own):
        if os.path.exists(path) and path.samefile(target):
            raise ConfigError(
                f"{target}: is read by this command, and would be overwritten; choose another path"
            )


def _counted(images: Sequence[tuple[str, ImageLike]], progress: Progress) -> Iterator[ImageLike]:
    for done, (_, image) in enumerate(images):
        progress("embedding", done, len(images))
        yield image


def _entry(prediction: Prediction, threshold: float | None) -> dict[str, object]:
    """Make the part of a JSON document that an answer is; scores have six decimals."""
    rounded = _rounded(prediction)
    if threshold is None:
        return rounded.to_dict()
    # Chosen before they are rounded.
    count = len(prediction.above(threshold))
    ranked = replace(rounded, top=[*rounded.top, *rounded.rest][:count], rest=[])
    return {"scores": "sigmoid", "threshold": threshold, "above": ranked.to_dict()["top"]}


def _rounded(prediction: Prediction) -> Prediction:
    if prediction.scores == "none":
        return prediction
    top, rest = (
        [(label, index, round(score, 6)) for label, index, score in entries]
        for entries in (prediction.top, prediction.rest)
    )
    return replace(prediction, top=top, rest=rest)


def _words(prediction: Prediction, threshold: float | None) -> str:
    if prediction.scores == "none":
        return ", ".join(f"{label} {value:.6g}" for label, _, value in prediction.top)
    entries = prediction.top if threshold is None else prediction.above(threshold)
    if not entries:
        return f"none of {len(prediction.top) + len(prediction.rest)} at {threshold:.1%} or more"
    return ", ".join(f"{label} {score:.1%}" for label, _, score in entries)


def _save(path: Path, embeddings: NDArray[np.float32]) -> None:
    try:
        with whole_file(path) as file:
            np.save(file, embeddings, allow_pickle=False)
    except OSError as error:
        reason = error.strerror or error  # NumPy raises some without
        raise ArtifactError(f"{path}: cannot be written ({reason})") from error
