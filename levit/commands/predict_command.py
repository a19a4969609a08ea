"""``levit predict``."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levit.commands.images import find_images
from levit.commands.output import Progress, print_json, printable
from levit.errors import ArtifactError
from levit.runtime.predictor import Prediction, Predictor

__all__ = ["run"]

_CHUNK = 64


def run(arguments: argparse.Namespace) -> int:
    """Classify, or save embeddings."""
    images = find_images(arguments.images)
    names = [name for name, _ in images]
    with (
        Predictor(
            arguments.artifact, arguments.device, arguments.threads, exif=arguments.exif
        ) as predictor,
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
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            predictions = predictor.predict((i for _, i in chunk), top_k=arguments.top_k)
            progress.advance(len(chunk))
            for (name, _), prediction in zip(chunk, predictions, strict=True):
                if arguments.json:
                    results.append({"image": name, "top": _entries(prediction)})
                else:
                    progress.clear()
                    print(_line(name, prediction))
        progress.close()
        if arguments.json:
            print_json(results)
    return 0


def _entries(prediction: Prediction) -> list[dict[str, object]]:
    return [
        {"label": label, "index": index, "score": round(score, 6)}
        for label, index, score in prediction.top
    ]


def _line(name: str, prediction: Prediction) -> str:
    answers = ", ".join(f"{label} {score:.1%}" for label, _, score in prediction.top)
    return printable(f"{name}: {answers}")


def _save(path: Path, embeddings: NDArray[np.float32]) -> None:
    """Beside the file first, then in its place: a full disk leaves the old file whole."""
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            np.save(file, embeddings, allow_pickle=False)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error  # NumPy raises some without
        raise ArtifactError(f"{path}: cannot be written ({reason})") from error
