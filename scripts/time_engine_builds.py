"""Time how long TensorRT-RTX takes to build engines of the five sizes, and print their sizes.

Run from the repository root::

    pip install '.[export,trt-rtx]'
    python scripts/time_engine_builds.py [--models levit_128s,…] [--batch 1:8:64]

Needs no GPU. Weights are random: neither time nor size depends on them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from levit.commands.output import print_table
from levit.export import ExportOptions, export

SIZES = "levit_128s,levit_128,levit_192,levit_256,levit_384"
PRECISIONS = ("fp32", "fp16", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=SIZES)
    parser.add_argument("--batch", default="1:8:64", metavar="MIN:OPT:MAX")
    arguments = parser.parse_args()
    low, middle, high = map(int, arguments.batch.split(":"))
    rows = []
    for model in arguments.models.split(","):
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as folder:
                times: dict[str, float] = {}
                artifact = export(
                    ExportOptions(
                        model=model,
                        random_weights=0,
                        target="trt-rtx",
                        precision=precision,
                        batch=(low, middle, high),
                        output=Path(folder) / "engine",
                    ),
                    progress=lambda step, times=times: times.setdefault(step, time.perf_counter()),
                )
                times["end"] = time.perf_counter()
                sizes = artifact.manifest.files
                rows.append(
                    [
                        *(model, precision),
                        f"{times['verifying'] - times['writing']:.1f}",
                        f"{times['end'] - times['reading weights']:.1f}",
                        f"{sizes['model.engine']['size_bytes'] / 2**20:.1f}",
                        f"{sizes['model.onnx']['size_bytes'] / 2**20:.1f}",
                    ]
                )
    print_table(
        rows, header=["model", "precision", "build s", "export s", "engine MiB", "ONNX MiB"]
    )


if __name__ == "__main__":
    main()
