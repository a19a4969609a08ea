# SPDX-License-Identifier: Apache-2.0
"""Compare the ``paper`` protocol with the script that it repeats: LeViT's speed_test.py.

Run from the repository root, with a clone of facebookresearch/LeViT::

    pip install '.[dev,peers]'
    LEVIT_ORIGINAL_REPO=path/to/LeViT python scripts/reproduce_speed_test.py

Both run LeViT-128S of the original code, BatchNorm folded by its own ``replace_batchnorm``, traced,
one thread, batch 16. They take turns: the function ``compute_throughput_cpu`` of the clone's
speed_test.py, as it stands there but for its two durations, in a process of its own; and ``levit
bench --protocol paper --engines original-traced``. The figure of both is batch ÷ mean time.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from levit.benchmarks.intervals import median_interval, ratio_interval, verdict_of
from levit.benchmarks.measured import paper_images_per_second
from levit.benchmarks.record_file import read_record
from levit.export.timing import in_turns

MODEL, NAME = "LeViT_128S", "levit_128s"
BATCH = 16

# The part of speed_test.py around the function, for one model; the function prints its figure.
AROUND = """
import sys, time
import torch
sys.path.insert(0, {clone!r})
import levit, utils
torch.autograd.set_grad_enabled(False)
T0, T1 = {warmup}, {seconds}
{function}
torch.set_num_threads(1)
inputs = torch.randn({batch}, 3, 224, 224)
model = levit.{model}(num_classes=1000)
utils.replace_batchnorm(model)
model.eval()
model = torch.jit.trace(model, inputs)
compute_throughput_cpu("{model}", model, "cpu", {batch})
"""


def theirs(clone: Path, seconds: float) -> float:
    """Images per second, as their function prints it."""
    tree = ast.parse((clone / "speed_test.py").read_text(encoding="utf-8"))
    function = next(
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "compute_throughput_cpu"
    )
    script = AROUND.format(
        clone=str(clone),
        warmup=seconds / 6,
        seconds=seconds,
        function=ast.unparse(function),
        model=MODEL,
        batch=BATCH,
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    # LeViT_128S cpu 131.08 images/s @ batch size 16
    return float(done.stdout.split(" images/s")[0].split()[-1])


def ours(folder: Path, seconds: float) -> tuple[float, str]:
    """(images per second of the same by ``levit bench``, how quiet the machine was)."""
    path = folder / "result.json"
    path.unlink(missing_ok=True)
    command = ["bench", "--models", NAME, "--engines", "original-traced", "--protocol", "paper"]
    command += ["--seconds", str(seconds), "--output", str(path), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "levit", *command], capture_output=True, text=True, check=True
    )
    measurement = next(m for m in read_record(path).measurements if "matmul" not in m.contender)
    if measurement.status != "ok":
        raise SystemExit(f"error: {measurement.reason}")
    figure = paper_images_per_second(measurement)
    assert figure is not None
    return figure, json.loads(done.stdout)["quietness"]["verdict"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9, help="of each; default: 9")
    parser.add_argument("--seconds", type=float, default=12, help="of each turn; the script's: 60")
    parser.add_argument("--json", type=Path, help="write every value to this file")
    arguments = parser.parse_args()
    clone = Path(os.environ.get("LEVIT_ORIGINAL_REPO") or "no clone")
    if not (clone / "speed_test.py").is_file():
        parser.error("LEVIT_ORIGINAL_REPO must name a clone of facebookresearch/LeViT")
    script, bench, quiet = [], [], []
    with tempfile.TemporaryDirectory() as name:
        order = np.random.default_rng(0)
        for number, which in in_turns(("script", "bench"), arguments.turns, order):
            if which == "script":
                script.append(theirs(clone.resolve(), arguments.seconds))
            else:
                figure, verdict = ours(Path(name), arguments.seconds)
                bench.append(figure)
                quiet.append(verdict)
            if len(script) == len(bench):
                print(
                    f"turn {number + 1}: speed_test.py {script[-1]:.2f}, levit bench "
                    f"{bench[-1]:.2f} images/s, machine {quiet[-1]}",
                    flush=True,
                )
    for title, values in (("speed_test.py", script), ("levit bench", bench)):
        median, low, high = median_interval(values)
        print(f"{title:14} {median:.2f} images/s  [{low:.2f}, {high:.2f}]")
    ratio = ratio_interval(bench, script)
    print(
        f"levit bench ÷ speed_test.py {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]: "
        f"{verdict_of(ratio, len(script))}"
    )
    if arguments.json:
        values = {"speed_test": script, "levit_bench": bench, "quietness": quiet}
        arguments.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    inside = median_interval(script).low <= statistics.median(bench) <= median_interval(script).high
    return 0 if inside or verdict_of(ratio, len(script)) == "equal" else 1


if __name__ == "__main__":
    sys.exit(main())
