# SPDX-License-Identifier: Apache-2.0
"""Measure the way from image files to answers: its speed, its drafts, its memory.

::

    python scripts/time_pictures.py throughput   # 256 JPEGs against each stage alone
    python scripts/time_pictures.py latency      # one image at a time
    python scripts/time_pictures.py draft        # photographs of 12 megapixels with draft=True
    python scripts/time_pictures.py memory       # 10,000 calls of changing size

Contenders take turns, and ratios are taken inside rounds. Photographs are crops of scikit-learn's
two samples (extra ``dev``) with a little noise, as a sensor's, or those of ``--photos``.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from levit import Predictor
from levit.benchmarks.intervals import median_interval, ratio_interval
from levit.errors import InputError
from levit.export import ExportOptions, export
from levit.export.timing import in_turns
from levit.pictures.reading import load_image
from levit.runtime.cpus import available_cpus

MODELS = ("levit_digits", "levit_128s", "levit_256")
SMALL = (500, 375)
LARGE = (4000, 3000)


def photos(folder: Path | None, count: int, size: tuple[int, int], quality: int) -> list[bytes]:
    """JPEGs of (width, height) `size`: crops of real photographs, enlarged, with noise."""
    rng = np.random.default_rng(0)
    if folder is not None:
        originals = [load_image(path) for path in sorted(folder.iterdir())]
    else:
        from sklearn.datasets import load_sample_images

        originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    found = []
    for number in range(count):
        original = originals[number % len(originals)]
        fit = min(original.width / size[0], original.height / size[1])
        width, height = (rng.uniform(0.7, 1) * fit * n for n in size)
        left, top = rng.uniform(0, original.width - width), rng.uniform(0, original.height - height)
        box = (left, top, left + width, top + height)
        crop = original.resize(size, Image.Resampling.LANCZOS, box=box)
        noise = rng.normal(0, 2, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(crop) + noise, 0, 255).round().astype(np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=quality)
        found.append(data.getvalue())
    return found


def artifact(model: str, folder: Path) -> Path:
    """An artifact of the model, with random weights where there are no others in the package.

    Args:
        model: its name, or the folder of an artifact that is there.
    """
    if (Path(model) / "manifest.json").is_file():
        return Path(model)
    seed = None if model == "levit_digits" else 1
    return export(ExportOptions(model=model, random_weights=seed, output=folder / model)).path


def turns(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, work: int
) -> dict[str, list[float]]:
    """Work done per second by every contender in every round; the first round is not counted."""
    rates: dict[str, list[float]] = {title: [] for title in contenders}
    rng = np.random.default_rng(0)
    for number, title in in_turns(list(contenders), rounds + 1, rng):
        started = time.perf_counter()
        contenders[title]()
        if number:
            rates[title].append(work / (time.perf_counter() - started))
    return rates


def _one_by_one(predictor: Predictor, images: list[bytes]) -> None:
    for image in images:
        predictor(image)


def _lists_of_one(predictor: Predictor, images: list[bytes]) -> None:
    for image in images:
        predictor.predict([image])


# ---------------------------------------------------------------------------- throughput


def run_throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    """The line against its stages, each alone, and against one after the other."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        files = []
        for number, data in enumerate(photos(arguments.photos, arguments.images, SMALL, 90)):
            files.append(Path(name) / f"{number:04}.jpg")
            files[-1].write_bytes(data)
        for model in arguments.models:
            results.append(_line(artifact(model, Path(name)), files, arguments))
            _print_line(results[-1])
    return {"cpus": arguments.threads, "images": arguments.images, "lines": results}


def _line(path: Path, files: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    cpus = arguments.threads
    half = max(1, cpus // 2)
    with (
        Predictor(path, threads=cpus, workers=arguments.workers) as line,
        Predictor(path, threads=cpus, workers=0) as serial,
        Predictor(path, threads=half, workers=0) as small,
        ThreadPoolExecutor(cpus) as all_cpus,
        ThreadPoolExecutor(half) as half_cpus,
    ):
        manifest = line.manifest
        assert manifest.preprocess is not None
        preparation = line._images().preparation
        batch = line.preprocess(files[: manifest.batch.opt])

        def prepare(file: Path) -> None:
            preparation.prepare(file, preparation.allocate(1)[0])

        def network(predictor: Predictor) -> None:
            for _ in range(0, len(files), len(batch)):
                predictor.forward(batch)

        rates = turns(
            {
                "line": lambda: _consume(line.stream(files)),
                "one after the other": lambda: _consume(serial.stream(files)),
                "decode, all CPUs": lambda: _consume(all_cpus.map(prepare, files)),
                "network, all CPUs": lambda: network(line),
                "decode, half the CPUs": lambda: _consume(half_cpus.map(prepare, files)),
                "network, half the CPUs": lambda: network(small),
            },
            arguments.rounds,
            len(files),
        )
    columns = list(zip(*rates.values(), strict=True))
    slower_all = [min(c[2], c[3]) for c in columns]
    slower_half = [min(c[4], c[5]) for c in columns]
    bound = [1 / (1 / c[2] + 1 / c[3]) for c in columns]
    return {
        "model": path.name,
        "workers": line.workers,
        "images_per_second": rates,
        "ratios": {
            "one after the other": ratio_interval(rates["line"], rates["one after the other"]),
            "slower stage, each with half the CPUs": ratio_interval(rates["line"], slower_half),
            "slower stage, each with all CPUs": ratio_interval(rates["line"], slower_all),
            "both stages in turn, each with all CPUs": ratio_interval(rates["line"], bound),
        },
    }


def _consume(iterator: Any) -> None:
    for _ in iterator:
        pass


def _print_line(line: dict[str, Any]) -> None:
    print(f"{line['model']}, {line['workers']} workers")
    for title, rates in line["images_per_second"].items():
        median, low, high = median_interval(rates)
        print(f"  {title:24} {median:8.1f} images/s  [{low:.1f}, {high:.1f}]")
    for title, (median, low, high) in line["ratios"].items():
        print(f"  over {title:40} {median:.3f}  [{low:.3f}, {high:.3f}]", flush=True)


# ---------------------------------------------------------------------------- latency


def run_latency(arguments: argparse.Namespace) -> dict[str, Any]:
    """One image at a time, with and without workers, which must not matter."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        images = photos(arguments.photos, 16, SMALL, 90)
        for model in arguments.models:
            path = artifact(model, Path(name))
            with (
                Predictor(path, threads=arguments.threads, workers=0) as without,
                Predictor(path, threads=arguments.threads, workers=arguments.threads) as beside,
            ):
                contenders: dict[str, Callable[[], Any]] = {
                    "predictor(image)": partial(_one_by_one, beside, images),
                    "predictor.predict([image])": partial(_lists_of_one, beside, images),
                    "predictor(image), workers=0": partial(_one_by_one, without, images),
                }
                rates = turns(contenders, arguments.rounds, len(images))
            results.append({"model": model, "images_per_second": rates})
            for title, values in rates.items():
                print(f"{model:12} {title:28} {1e3 / statistics.median(values):7.2f} ms")
    return {"threads": arguments.threads, "models": results}


# ---------------------------------------------------------------------------- drafts


def run_draft(arguments: argparse.Namespace) -> dict[str, Any]:
    """Photos of 12 megapixels with and without draft: time, pixels, logits."""
    images = photos(arguments.photos, arguments.images, LARGE, arguments.quality)
    results = []
    with tempfile.TemporaryDirectory() as name:
        for model in arguments.models:
            path = artifact(model, Path(name))
            with (
                Predictor(path, threads=arguments.threads) as plain,
                Predictor(path, threads=arguments.threads, draft=True) as draft,
            ):
                contenders: dict[str, Callable[[], Any]] = {
                    "whole": partial(_one_by_one, plain, images),
                    "draft": partial(_one_by_one, draft, images),
                }
                rates = turns(contenders, arguments.rounds, len(images))
                result = {
                    "model": model,
                    "images_per_second": rates,
                    **_change(plain, draft, images),
                }
            results.append(result)
            megabytes = statistics.mean(map(len, images)) / 1e6
            median, low, high = ratio_interval(rates["draft"], rates["whole"])
            print(f"{model}, photos of {megabytes:.1f} MB")
            for title, values in rates.items():
                print(f"  {title} {1e3 / statistics.median(values):.1f} ms")
            print(f"  draft is {median:.2f} times as fast  [{low:.2f}, {high:.2f}]")
            for title, value in result["change"].items():
                print(f"  {title}: {value:.4g}")
    return {"images": arguments.images, "quality": arguments.quality, "models": results}


def _change(plain: Predictor, draft: Predictor, images: list[bytes]) -> dict[str, Any]:
    spec = plain.manifest.preprocess
    assert spec is not None
    whole, reduced = plain.preprocess(images), draft.preprocess(images)
    levels = np.abs(whole - reduced) * 255 * np.asarray(spec.std, np.float32)[:, None, None]
    logits = [p.forward(x)["logits"] for p, x in ((plain, whole), (draft, reduced))]
    return {
        "change": {
            "mean difference, grey levels": float(levels.mean()),
            "99th percentile": float(np.percentile(levels, 99)),
            "largest": float(levels.max()),
            "largest difference of a logit over the largest logit": float(
                np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()
            ),
            "images with another first class": int(
                (logits[0].argmax(-1) != logits[1].argmax(-1)).sum()
            ),
        }
    }


# ---------------------------------------------------------------------------- memory


def run_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Resident memory over many calls, whose sizes change from one to the next."""
    results = []
    spawn = multiprocessing.get_context("spawn")
    images = photos(arguments.photos, 32, SMALL, 90)
    with tempfile.TemporaryDirectory() as name:
        for model in arguments.models:
            path = artifact(model, Path(name))
            for way in ("forward", "predict"):
                with spawn.Pool(1) as pool:  # a process of its own for each curve
                    curve = pool.apply(_calls, (path, way, images, arguments))
                results.append({"model": model, "way": way, "mb_after_calls": curve})
                first, last = curve[min(curve)], curve[max(curve)]
                points = ", ".join(f"{calls}: {mb:.1f}" for calls, mb in curve.items())
                print(f"{model} {way}: {points} MB: {last / first - 1:+.2%}", flush=True)
    return {"largest_batch": arguments.largest, "models": results}


def _calls(
    path: Path, way: str, images: list[bytes], arguments: argparse.Namespace
) -> dict[int, float]:
    rng = np.random.default_rng(0)
    curve = {}
    marks = {n for n in (200, 500, 1000, 2000, 5000) if n < arguments.calls}
    marks.add(arguments.calls)
    with Predictor(path, threads=arguments.threads) as predictor:
        tensors = predictor.preprocess(itertools.islice(itertools.cycle(images), arguments.largest))
        for call in range(1, arguments.calls + 1):
            size = int(rng.integers(1, arguments.largest + 1))
            if way == "forward":
                predictor.forward(tensors[:size])
            else:
                first = int(rng.integers(len(images)))
                some = itertools.islice(itertools.cycle(images), first, first + size)
                answers = predictor.predict([*some, b"no image"], on_error="return")
                assert isinstance(answers[-1], InputError)
            if call in marks:
                curve[call] = psutil.Process().memory_info().rss / 1e6
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every raw value to this file")
    commands = parser.add_subparsers(dest="command", required=True)
    run = {
        "throughput": run_throughput,
        "latency": run_latency,
        "draft": run_draft,
        "memory": run_memory,
    }
    for name in run:
        command = commands.add_parser(name)
        command.add_argument("--models", nargs="+", default=MODELS, help="or folders of artifacts")
        command.add_argument("--threads", type=int, default=available_cpus())
        command.add_argument("--rounds", type=int, default=15)
        command.add_argument("--photos", type=Path, help="a folder of photographs to use instead")
        if name == "throughput":
            command.add_argument("--images", type=int, default=256)
            command.add_argument("--workers", type=int, help="default: as the predictor's")
        elif name == "draft":
            command.add_argument("--images", type=int, default=12)
            command.add_argument("--quality", type=int, default=90)
        elif name == "memory":
            command.add_argument("--calls", type=int, default=10_000)
            command.add_argument("--largest", type=int, default=32, help="batch")
    arguments = parser.parse_args()
    results = run[arguments.command](arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
