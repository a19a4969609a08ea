"""``levit eval`` of models without a first class: multi-label models and regressions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.commands.metrics import average_precision, best_threshold
from levit.commands.progress import Progress
from levit.errors import InputError
from levit.pictures.folders import images_in, labelled_images
from levit.pictures.label_files import LabelFile, read_label_file
from levit.runtime.predictor import Predictor

__all__ = [
    "Truth",
    "read_truth",
    "regression_report",
    "rows_of",
    "scores_of",
    "sigmoid_report",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Labels or values of pictures.

    Attributes:
        file: images, and a column for each output.
        names: of the outputs.
        assumed: choices about the labels, in words.
    """

    file: LabelFile
    names: tuple[str, ...]
    assumed: tuple[str, ...] = ()


def read_truth(predictor: Predictor, folder: Path, labels: str | None) -> Truth:
    """Read what is true of the pictures: from a file of labels, or of one logit from two folders.

    Raises:
        InputError: neither is there, or it does not fit the model.
    """
    manifest = predictor.manifest
    (outputs,) = (int(o.shape[-1]) for o in manifest.outputs if o.name == "logits")
    # The sigmoid of one logit may have a name for less than one half, too.
    negative = predictor.labels[0] if len(predictor.labels) > outputs else None
    names = predictor.labels[-outputs:]
    sigmoid = manifest.scores == "sigmoid"
    if labels is not None:
        file = read_label_file(Path(labels), folder, names, decisions=sigmoid, negative=negative)
        truth = Truth(file=file, names=names)
    elif sigmoid and outputs == 1:
        truth = _two_folders(folder, negative, names)
    else:
        kind = "several labels" if sigmoid else "values and no classes"
        raise InputError(
            f"{predictor.path.name} gives pictures {kind}, which folders cannot hold: name a file "
            f"of them with --labels FILE.csv"
        )
    if sigmoid and not truth.file.values.any():
        raise InputError(
            f"{labels or folder}: no image has a label of this model, so that there is no precision"
        )
    return truth


def _two_folders(folder: Path, negative: str | None, names: tuple[str, ...]) -> Truth:
    """Read ``no/image.png`` and ``yes/image.png``."""
    (positive,) = names
    assumed: tuple[str, ...] = ()
    if negative is None and positive in ("0", "1"):
        negative, positive = "0", "1"  # a model without names has the label "0", and means a yes
    elif negative is None:
        negative = f"not {positive}"
        found = {path.name for path in folder.glob("*") if path.is_dir() and images_in(path)}
        others = found - {positive, negative}
        if positive in found and len(found) == 2 and others:
            (negative,) = others
            assumed = (f"folder {negative} holds the images that are not {positive}",)
    samples, chosen = labelled_images(folder, (negative, positive))
    values = np.asarray([[float(index)] for _, index in samples])
    file = LabelFile(images=tuple(path for path, _ in samples), values=values)
    return Truth(file=file, names=names, assumed=(*assumed, *chosen))


def scores_of(
    predictor: Predictor, truth: Truth, progress: Progress
) -> tuple[NDArray[np.float64], float]:
    """(N, outputs) scores or values of the pictures, and the seconds that they took.

    Raises:
        InputError: a picture cannot be read.
    """
    images, width = truth.file.images, len(predictor.labels)
    found = np.empty((len(images), width))
    started = time.perf_counter()
    for done, answer in enumerate(predictor.stream(images, width)):
        for _, index, value in answer.top:
            found[done, index] = value
        progress("classifying", done + 1, len(images))
    return found[:, -len(truth.names) :], time.perf_counter() - started


def sigmoid_report(truth: Truth, scores: NDArray[np.float64]) -> dict[str, Any]:
    """Measure average precision and the best threshold of every class that some picture has.

    Args:
        truth: some picture has some class.

    Returns:
        ``mean_average_precision`` over these; of one logit ``accuracy`` at a score of one half;
        and ``classes``, where a class that no picture has has None in place of figures.
    """
    values = truth.file.values
    classes = []
    for index, label in enumerate(truth.names):
        entry: dict[str, Any] = {"label": label, "index": index}
        entry["images"] = int(values[:, index].sum())
        entry |= {"average_precision": None, "threshold": None, "f1": None}
        if entry["images"]:
            threshold, f1 = best_threshold(values[:, index], scores[:, index])
            precision = average_precision(values[:, index], scores[:, index])
            entry |= {"average_precision": precision, "threshold": threshold, "f1": f1}
        classes.append(entry)
    found = [entry["average_precision"] for entry in classes if entry["images"]]
    report: dict[str, Any] = {"mean_average_precision": float(np.mean(found))}
    if len(classes) == 1:
        report["accuracy"] = float(np.mean((scores >= 0.5) == (values == 1)))
    return {**report, "classes": classes}


def regression_report(truth: Truth, values: NDArray[np.float64]) -> dict[str, Any]:
    """Measure the mean absolute error of every output, in its own unit."""
    errors = np.abs(values - truth.file.values).mean(axis=0)
    entries = zip(truth.names, errors, strict=True)
    return {
        "outputs": [
            {"label": label, "index": index, "mean_absolute_error": float(error)}
            for index, (label, error) in enumerate(entries)
        ]
    }


def rows_of(report: dict[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """Write the part of a report that has a line for each output: (header, rows)."""
    if "outputs" in report:
        entries = report["outputs"]
        return ["output", "mean absolute error"], [
            [entry["label"], f"{entry['mean_absolute_error']:.6g}"] for entry in entries
        ]
    header = ["class", "images", "average precision", "best threshold", "F1"]
    rows = []
    for entry in report["classes"]:
        figures = (entry["average_precision"], entry["f1"])
        average, f1 = ("" if value is None else f"{value:.2%}" for value in figures)
        threshold = "" if entry["threshold"] is None else f"{entry['threshold']:.4f}"
        rows.append([entry["label"], str(entry["images"]), average, threshold, f1])
    return header, rows
