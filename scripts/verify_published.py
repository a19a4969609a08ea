# SPDX-License-Identifier: Apache-2.0
"""Export every published checkpoint and compare it with the library that it comes from.

Run from the repository root on a machine that reaches the Hugging Face hub (and, for the original
and mmpretrain files, dl.fbaipublicfiles.com and download.openmmlab.com)::

    pip install '.[dev,peers]'
    python scripts/verify_published.py                       # all of them: 39 files, about 5 GB
    python scripts/verify_published.py --only 128S --json report.json

They are all that ``levit list`` names on the hub (LeViT, ConViT, DeiT, ViT), and LeViT's of
transformers, of its authors and of mmpretrain.

For each checkpoint: ``levit export`` as a user runs it; the library's own network, loaded by the
library's own code, on the library's own preprocessing of two photographs; then the artifact's
preprocessing must be equal value for value, and its logits within max(1e-5, twice the library's own
float32 error) of the library's float64 logits. The original and mmpretrain publish files without a
package that loads them beside a current PyTorch: their weights are put into timm's network, which
is the same function, and preprocessed as their own code does it with torchvision.

Exit status 1 if anything differs; a checkpoint that cannot be fetched is reported as such, and
counts as a failure too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from levit import Predictor
from levit.errors import LevitError
from levit.export import ExportOptions, export
from levit.models.registry import FAMILIES

LIBRARIES = ("sklearn", "timm", "torch", "torchvision", "transformers")
SIZES = ("128S", "128", "192", "256", "384")

ORIGINAL = "https://dl.fbaipublicfiles.com/LeViT/LeViT-{}.pth"
ORIGINAL_FILES = ("128S-96703c44", "128-b88c2750", "192-92712e41", "256-13b5763e", "384-9bdaf2e2")
MMPRETRAIN = "https://download.openmmlab.com/mmclassification/v0/levit/levit-{}.pth"
MMPRETRAIN_FILES = (
    "128s_3rdparty_in1k_20230117-e9fbd209",
    "128_3rdparty_in1k_20230117-3be02a02",
    "192_3rdparty_in1k_20230117-8217a0f9",
    "256_3rdparty_in1k_20230117-5ae2ce7d",
    "384_3rdparty_in1k_20230117-f3539cce",
)

TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Published:
    """One checkpoint, as `levit export` takes it, and the answers of its library to pictures.

    ``answers`` maps (checkpoint, pictures) to (tensor of the pictures, float32 logits, float64
    logits).
    """

    name: str
    checkpoint: str
    answers: Callable[[str, list[Image.Image]], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Result:
    name: str
    passed: bool
    revision: str = ""
    preprocess_difference: float | None = None
    relative_error: float | None = None
    library_float32_error: float | None = None
    top1: tuple[str, ...] = ()
    problem: str = ""


def published() -> list[Published]:
    rows = [
        Published(name=variant.hub_id, checkpoint=f"hf:{variant.hub_id}", answers=from_timm)
        for family in FAMILIES.values()
        for variant in family.variants.values()
        if variant.hub_id is not None
    ]
    for size in SIZES:
        name = f"facebook/levit-{size}"
        rows.append(Published(name=name, checkpoint=f"hf:{name}", answers=from_transformers))
    for template, files in ((ORIGINAL, ORIGINAL_FILES), (MMPRETRAIN, MMPRETRAIN_FILES)):
        for file in files:
            url = template.format(file)
            rows.append(Published(name=url.rsplit("/", 1)[-1], checkpoint=url, answers=from_file))
    return rows


# ------------------------------------------------------------------------- what the libraries say


def evaluated(network: Any, tensor: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import torch

    network = network.eval()
    with torch.no_grad():
        single = network(tensor)
        # In training mode once, so that transformers and the original gather their biases anew.
        exact = network.double().train().eval()(tensor.double())
    logits = (getattr(answer, "logits", answer).numpy() for answer in (single, exact))
    return (tensor.numpy(), *logits)


def from_timm(checkpoint: str, pictures: list[Image.Image]) -> tuple[np.ndarray, ...]:
    import timm
    import torch
    from timm.data import create_transform, resolve_data_config

    network = timm.create_model(f"hf-hub:{checkpoint.removeprefix('hf:')}", pretrained=True)
    transform = create_transform(**resolve_data_config(model=network))
    return evaluated(network, torch.stack([transform(picture) for picture in pictures]))


def from_transformers(checkpoint: str, pictures: list[Image.Image]) -> tuple[np.ndarray, ...]:
    import transformers

    name = checkpoint.removeprefix("hf:")
    network = transformers.LevitForImageClassificationWithTeacher.from_pretrained(name)
    # transformers 4 has one image processor, of Pillow; 5 has it under a name of its own.
    processor = getattr(transformers, "LevitImageProcessorPil", transformers.LevitImageProcessor)
    tensor = processor.from_pretrained(name)(pictures, return_tensors="pt")["pixel_values"]
    return evaluated(network, tensor)


def from_file(checkpoint: str, pictures: list[Image.Image]) -> tuple[np.ndarray, ...]:
    import timm
    import torch
    from torchvision import transforms as t

    from levit.export.sources import load_source
    from levit.models.random_weights import flatten

    source = load_source(ExportOptions(checkpoint=checkpoint))
    network = timm.create_model(source.variant, pretrained=False)
    state = flatten(source.model, source.model.family.keymaps[0])
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    transform = t.Compose(
        [
            t.Resize(256, interpolation=t.InterpolationMode.BICUBIC),
            t.CenterCrop(224),
            t.ToTensor(),
            t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return evaluated(network, torch.stack([transform(picture) for picture in pictures]))


# ------------------------------------------------------------------------- comparing


def verify(row: Published, pictures: list[Image.Image], cache: Path, work: Path) -> Result:
    checkpoint = row.checkpoint
    try:
        if checkpoint.startswith("https:"):
            checkpoint = str(downloaded(checkpoint, cache))
        artifact = export(ExportOptions(checkpoint=checkpoint, output=work / "artifact"))
        tensor, single, exact = row.answers(checkpoint, pictures)
        with Predictor(artifact.path) as predictor:
            ours = predictor.preprocess(pictures)
            logits = predictor.forward(tensor)["logits"]
            top1 = tuple(answer.label for answer in predictor.predict(pictures))
    except (LevitError, OSError, ValueError) as error:
        return Result(name=row.name, passed=False, problem=" ".join(str(error).split()))
    finally:
        shutil.rmtree(work / "artifact", ignore_errors=True)
    largest = np.abs(exact).max()
    difference = float(np.abs(ours - tensor).max())
    error = float(np.abs(logits - exact).max() / largest)
    own = float(np.abs(single - exact).max() / largest)
    # mmpretrain normalises on 0..255, so that the last bit of torchvision's may differ.
    allowed = 1e-6 if "openmmlab" in row.checkpoint else 0.0
    return Result(
        name=row.name,
        passed=difference <= allowed and error <= max(TOLERANCE, 2 * own),
        revision=str(artifact.manifest.source.get("revision", "")),
        preprocess_difference=difference,
        relative_error=error,
        library_float32_error=own,
        top1=top1,
    )


def downloaded(url: str, cache: Path) -> Path:
    """The file behind a URL whose name ends in the beginning of its SHA-256."""
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / url.rsplit("/", 1)[-1]
    if not file.is_file():
        part = file.with_suffix(".part")
        with urllib.request.urlopen(url, timeout=60) as answer, part.open("wb") as stream:
            shutil.copyfileobj(answer, stream)
        part.replace(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if not digest.startswith(file.stem.rsplit("-", 1)[-1]):
        raise ValueError(f"{file}: its SHA-256 begins with {digest[:8]}, not as its name says")
    return file


def photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image) for image in load_sample_images().images]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", metavar="TEXT", help="checkpoints whose name has this in it")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report there too")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "levit", metavar="FOLDER"
    )
    arguments = parser.parse_args()
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        print(f"error: missing {', '.join(missing)}: pip install '.[dev,peers]'", file=sys.stderr)
        return 1
    rows = [row for row in published() if (arguments.only or "") in row.name]
    if not rows:
        print(f"error: no published checkpoint has {arguments.only!r} in its name", file=sys.stderr)
        return 2
    pictures = photographs()
    results = []
    with tempfile.TemporaryDirectory() as work:
        for row in rows:
            result = verify(row, pictures, arguments.cache, Path(work))
            results.append(result)
            figures = result.problem or (
                f"preprocessing off by {result.preprocess_difference:g}, logits by "
                f"{result.relative_error:.1e} (the library's own float32: "
                f"{result.library_float32_error:.1e}); {', '.join(result.top1)}"
            )
            print(f"{'ok  ' if result.passed else 'FAIL'} {row.name}: {figures}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")
    passed = sum(result.passed for result in results)
    print(f"{passed} of {len(results)} checkpoints agree with their source library")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
