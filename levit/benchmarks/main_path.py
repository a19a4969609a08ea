"""Measure what the main path promises, side by side with what a user would do without it.

::

    python -m levit.benchmarks.main_path processes     # export, --help, cold start
    python -m levit.benchmarks.main_path throughput    # images/s against timm -> torch.onnx.export
    python -m levit.benchmarks.main_path size          # a fresh runtime install

``throughput`` needs the extra ``peers``. Machines are shared and noisy, so contenders take turns
in short slices of one run, and what counts is the median of the ratios of neighbouring slices
with its 95 % confidence interval (order statistics; no distribution assumed). Results of the
named machine stand in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from levit.benchmarks.intervals import median_interval

SIZES = ("levit_128s", "levit_128", "levit_192", "levit_256", "levit_384")
PACKAGE = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------------------- processes


def run_processes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Whole processes, from fork to exit, in turns."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        levit = [python, "-m", "levit"]
        export = [*levit, "export", "--model", "levit_128s", "--random-weights", "0"]
        artifact = folder / "artifact"
        subprocess.run([*export, "--output", str(artifact)], check=True, capture_output=True)
        picture = next((PACKAGE / "data/levit_digits/images").glob("*/*.png"))
        ours = f"from levit import Predictor; Predictor({str(artifact)!r})({str(picture)!r})"
        commands: dict[str, tuple[list[str], Callable[[], None]]] = {
            "export levit_128s": (
                [*export, "--output", str(folder / "out")],
                lambda: shutil.rmtree(folder / "out", ignore_errors=True),
            ),
            "levit --help": ([*levit, "--help"], lambda: None),
            "import numpy (floor)": ([python, "-c", "import numpy"], lambda: None),
            "first prediction": ([python, "-c", ours], lambda: None),
        }
        if arguments.peers:
            theirs = (
                "import timm, torch; from PIL import Image\n"
                "m = timm.create_model('levit_128s').eval()\n"
                "t = timm.data.create_transform(**timm.data.resolve_model_data_config(m))\n"
                f"x = t(Image.open({str(picture)!r}).convert('RGB'))[None]\n"
                "with torch.no_grad(): m(x).softmax(-1).topk(5)"
            )
            commands["first prediction, timm"] = ([python, "-c", theirs], lambda: None)
        seconds: dict[str, list[float]] = {title: [] for title in commands}
        for round_number in range(arguments.rounds + 1):
            for title, (command, clean) in commands.items():
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, cwd=folder)
                if round_number:  # the first fills the page cache
                    seconds[title].append(time.perf_counter() - started)
                clean()
    for title, values in seconds.items():
        median, low, high = median_interval(values)
        print(f"{title:26} {median:6.3f} s  [{low:.3f}, {high:.3f}]  fastest {min(values):.3f}")
    return {"seconds": seconds}


# ---------------------------------------------------------------------------- throughput


def run_throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    """Images per second of every size and batch, ours against both kinds of naive export."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        for size in arguments.models:
            graphs = _graphs(size, Path(name), arguments.batches)
            for batch in arguments.batches:
                results.append(_race(size, batch, graphs, arguments))
                _print_race(results[-1])
    worst = min(r["ratios"][kind][0] for r in results for kind in r["ratios"])
    print(f"lowest median ratio: {worst:.3f}")
    return {"threads": arguments.threads, "slice_s": arguments.slice, "races": results}


def _graphs(size: str, folder: Path, batches: Sequence[int]) -> dict[str, Path]:
    """The same weights through us, and through timm and torch.onnx.export."""
    import timm
    import torch

    from levit.export import ExportOptions, export
    from levit.models.random_weights import flatten, random_model
    from levit.models.registry import find_variant

    _, family, variant = find_variant(size)
    keymap = family.keymap_for(variant.config)
    artifact = export(
        ExportOptions(model=size, random_weights=0, output=folder / f"{size}-ours", verify="host")
    )
    graphs = {"ours": artifact.payload}
    network = timm.create_model(size).eval()
    state = flatten(random_model(family, variant.config, 0), keymap)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    for batch in batches:
        path = folder / f"{size}-static-{batch}.onnx"
        _torch_export(network, torch.randn(batch, 3, 224, 224), path, None)
        graphs[f"static {batch}"] = path
    path = folder / f"{size}-dynamic.onnx"
    dynamic = {0: torch.export.Dim("batch", min=1, max=4096)}
    _torch_export(network, torch.randn(2, 3, 224, 224), path, (dynamic,))
    graphs["dynamic"] = path
    return graphs


def _torch_export(network: Any, example: Any, path: Path, shapes: Any) -> None:
    import contextlib
    import io
    import warnings

    import torch

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (example,), str(path), dynamo=True, dynamic_shapes=shapes, verbose=False
        )


def _race(
    size: str, batch: int, graphs: dict[str, Path], arguments: argparse.Namespace
) -> dict[str, Any]:
    import numpy as np
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = arguments.threads
    settings.log_severity_level = 3
    contenders = {"ours": "ours", "static": f"static {batch}", "dynamic": "dynamic"}
    sessions = {
        title: onnxruntime.InferenceSession(
            str(graphs[key]), settings, providers=["CPUExecutionProvider"]
        )
        for title, key in contenders.items()
    }
    x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)
    feeds = {title: {s.get_inputs()[0].name: x} for title, s in sessions.items()}
    answers = {title: s.run(None, feeds[title])[0] for title, s in sessions.items()}
    for title, answer in answers.items():  # correctness before speed
        error = np.abs(answer - answers["ours"]).max() / np.abs(answers["ours"]).max()
        if not error < 1e-3:
            raise SystemExit(f"{size}: {title} answers differently from ours ({error:.1e})")
    rates: dict[str, list[float]] = {title: [] for title in sessions}
    for _ in range(arguments.rounds + 1):
        for title, session in sessions.items():
            session.run(None, feeds[title])  # wakes its threads
            count, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < arguments.slice:
                session.run(None, feeds[title])
                count += 1
            rates[title].append(count * batch / elapsed)
    rates = {title: values[1:] for title, values in rates.items()}
    ratios = {
        title: median_interval([a / b for a, b in zip(rates["ours"], rates[title], strict=True)])
        for title in ("static", "dynamic")
    }
    return {"model": size, "batch": batch, "images_per_second": rates, "ratios": ratios}


def _print_race(race: dict[str, Any]) -> None:
    medians = {t: statistics.median(v) for t, v in race["images_per_second"].items()}
    cells = [f"{race['model']:11} batch {race['batch']:3}  ours {medians['ours']:7.1f} images/s"]
    for title, (median, low, high) in race["ratios"].items():
        cells.append(f"{title} {medians[title]:7.1f}, ratio {median:.3f} [{low:.3f}, {high:.3f}]")
    print("  ".join(cells), flush=True)


# ---------------------------------------------------------------------------- size


def run_size(arguments: argparse.Namespace) -> dict[str, Any]:
    """Install the package without extras in a fresh environment and add up its bytes."""
    with tempfile.TemporaryDirectory() as name:
        environment = Path(name) / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        python = environment / "bin" / "python"
        before = _bytes_in(environment)
        subprocess.run([python, "-m", "pip", "install", "-q", str(arguments.source)], check=True)
        total = _bytes_in(environment) - before
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format=freeze"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        parts = {
            path.name: _bytes_in(path)
            for path in sorted(environment.glob("lib/python*/site-packages/*"))
            if path.is_dir() and path.name != "pip"
        }
    for part, size in sorted(parts.items(), key=lambda item: -item[1])[:12]:
        print(f"{part:40} {size / 1e6:8.1f} MB")
    print(f"{'all that was installed':40} {total / 1e6:8.1f} MB")
    return {"total_bytes": total, "packages": listed, "bytes": parts}


def _bytes_in(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every raw value to this file")
    commands = parser.add_subparsers(dest="command", required=True)
    processes = commands.add_parser("processes")
    processes.add_argument("--rounds", type=int, default=9)
    processes.add_argument("--peers", action="store_true", help="time timm's first prediction too")
    throughput = commands.add_parser("throughput")
    throughput.add_argument("--models", nargs="+", default=SIZES)
    throughput.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    throughput.add_argument("--threads", type=int, default=2)
    throughput.add_argument("--rounds", type=int, default=31)
    throughput.add_argument("--slice", type=float, default=0.3, help="seconds")
    size = commands.add_parser("size")
    size.add_argument("--source", default=".", help="what pip installs (default: this clone)")
    arguments = parser.parse_args()
    run = {"processes": run_processes, "throughput": run_throughput, "size": run_size}
    results = run[arguments.command](arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
