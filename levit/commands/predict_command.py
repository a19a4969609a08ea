"""``levit predict``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levit.commands.images import find_images, open_predictor
from levit.commands.output import Progress, print_json, printable
from levit.errors import ArtifactError, InputError
from levit.runtime.predictor import Prediction
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
    with (
        open_predictor(arguments) as predictor,
        Progress(len(images), "images") as progress,
    ):
        if arguments.embed is not None:
            embeddings = predictor.embed(image for _, image in images)
            _save(Path(arguments.embed), embeddings)
            progress.close()
            report = {"file": arguments.embed, "shape": list(embeddings.shape), "images": names}
            if arguments.json:
                print_json(report)
            else:
                print(f"{arguments.embed}: {len(images)} embeddings of {embeddings.shape[1]}")
            return 0
        results: list[dict[str, object]] = []
        answers = predictor.stream(
            (image for _, image in images), arguments.top_k, on_error="return"
        )
        for name, answer in zip(names, answers, strict=True):
            progress.advance()
            if isinstance(answer, InputError):
                status = 1
                progress.clear()
                print(f"error: {answer}", file=sys.stderr)
                results.append({"image": name, "error": str(answer)})
            elif arguments.json:
                results.append({"image": name, "top": _entries(answer)})
            else:
                progress.clear()
                print(_line(name, answer))
        progress.close()
        if arguments.json:
            print_json(results)
    return status


def _entries(prediction: Prediction) -> list[dict[str, object]]:
    return [
        {"label": label, "index": index, "score": round(score, 6)}
        for label, index, score in prediction.top
    ]


def _line(name: str, prediction: Prediction) -> str:
    answers = ", ".join(f"{label} {score:.1%}" for label, _, score in prediction.top)
    return printable(f"{name}: {answers}")


def _save(path: Path, embeddings: NDArray[np.float32]) -> None:
    try:
        with whole_file(path) as file:
            np.save(file, embeddings, allow_pickle=False)
    except OSError as error:
        reason = error.strerror or error  # NumPy raises some without
        raise ArtifactError(f"{path}: cannot be written ({reason})") from error
