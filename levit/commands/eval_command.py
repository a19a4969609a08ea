"""``levit eval``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from levit.commands.images import open_predictor
from levit.commands.output import print_json, print_table
from levit.commands.progress import Progress
from levit.pictures.folders import labelled_images

__all__ = ["run"]

_TOP = 5


def run(arguments: argparse.Namespace) -> int:
    """Measure top-1, top-5 and images per second on an ImageFolder."""
    folder = Path(arguments.folder)
    with Progress() as progress, open_predictor(arguments, progress) as predictor:
        samples, assumed = labelled_images(folder, predictor.labels)
        with progress.aside():
            for choice in assumed:
                print(f"assumed: {choice}", file=sys.stderr)
        first = fifth = 0
        started = time.perf_counter()
        # The first that cannot be read ends it: accuracy on the others is another figure.
        predictions = predictor.stream((path for path, _ in samples), _TOP)
        for done, ((_, index), prediction) in enumerate(zip(samples, predictions, strict=True)):
            found = [entry[1] for entry in prediction.top]
            first += found[0] == index
            fifth += index in found
            progress("classifying", done + 1, len(samples))
        seconds = time.perf_counter() - started
    total = len(samples)
    report = {
        "images": total,
        "top1": first / total,
        "top5": fifth / total,
        "images_per_second": total / seconds,
    }
    if arguments.json:
        print_json(report)
    else:
        print_table(
            [
                ["images", str(total)],
                ["top-1", f"{first / total:.2%}"],
                ["top-5", f"{fifth / total:.2%}"],
                ["images/s", f"{total / seconds:.1f}"],
            ]
        )
    return 0
