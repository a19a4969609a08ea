"""``levit eval``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from levit.commands.eval_scores import (
    read_truth,
    regression_report,
    rows_of,
    scores_of,
    sigmoid_report,
)
from levit.commands.images import open_predictor
from levit.commands.output import print_json, print_line, print_note, print_table
from levit.commands.progress import Progress
from levit.errors import ConfigError
from levit.pictures.folders import labelled_images
from levit.runtime.predictor import Predictor

__all__ = ["run"]

_TOP = 5


def run(arguments: argparse.Namespace) -> int:
    """Measure accuracy and images per second, as the activation of the scores asks for.

    A softmax has top-1 and top-5 on an ImageFolder, a sigmoid average precision and thresholds, a
    regression its error.
    """
    folder = Path(arguments.folder)
    with Progress() as progress, open_predictor(arguments, progress) as predictor:
        if predictor.manifest.scores in ("sigmoid", "none"):
            report = _each_output(predictor, folder, arguments.labels, progress)
        elif arguments.labels is not None:
            raise ConfigError(
                f"--labels is for models of several labels or values; one class of "
                f"{predictor.path.name} is right, so put its images into a folder for each class"
            )
        else:
            report = _first_classes(predictor, folder, progress)
    if arguments.json:
        print_json(report)
        return 0
    print_table(
        [
            [words, shape.format(report[name])]
            for name, words, shape in (
                ("images", "images", "{}"),
                ("top1", "top-1", "{:.2%}"),
                ("top5", "top-5", "{:.2%}"),
                ("mean_average_precision", "mean average precision", "{:.2%}"),
                ("accuracy", "accuracy", "{:.2%}"),
                ("images_per_second", "images/s", "{:.1f}"),
            )
            if name in report
        ]
    )
    if "top1" not in report:
        header, rows = rows_of(report)
        print_line()
        print_table(rows, header, [False] + [True] * (len(header) - 1))
    return 0


def _print_assumed(assumed: Sequence[str], progress: Progress) -> None:
    with progress.aside():
        for choice in assumed:
            print_note(f"assumed: {choice}")


def _first_classes(predictor: Predictor, folder: Path, progress: Progress) -> dict[str, Any]:
    samples, assumed = labelled_images(folder, predictor.labels)
    _print_assumed(assumed, progress)
    first = fifth = 0
    started = time.perf_counter()
    # The first that cannot be read ends it: accuracy on the others is another figure.
    predictions = predictor.stream((path for path, _ in samples), _TOP)
    for done, ((_, index), prediction) in enumerate(zip(samples, predictions, strict=True)):
        found = [entry[1] for entry in prediction.top]
        first += found[0] == index
        fifth += index in found
        progress("classifying", done + 1, len(samples))
    seconds, total = time.perf_counter() - started, len(samples)
    return {
        "images": total,
        "top1": first / total,
        "top5": fifth / total,
        "images_per_second": total / seconds,
    }


def _each_output(
    predictor: Predictor, folder: Path, labels: str | None, progress: Progress
) -> dict[str, Any]:
    truth = read_truth(predictor, folder, labels)
    _print_assumed(truth.assumed, progress)
    found, seconds = scores_of(predictor, truth, progress)
    sigmoid = predictor.manifest.scores == "sigmoid"
    report = sigmoid_report(truth, found) if sigmoid else regression_report(truth, found)
    total = len(truth.file.images)
    return {"images": total, **report, "images_per_second": total / seconds}
