# SPDX-License-Identifier: Apache-2.0
"""Train timm's deit_tiny and convit_tiny on digits, to judge quantization on.

GELU and LayerNorm are said to be harder to quantize than what LeViT has: here are networks of full
width and depth that have learnt something, if from small pictures. Nothing is downloaded.

Run from the repository root, with torch, timm, scikit-learn, safetensors and pillow installed::

    python scripts/train_digit_transformers.py --output runs/digits --minutes 10

Written below ``--output``::

    deit_tiny_patch16_224/, convit_tiny/   checkpoints that `levit export --checkpoint` reads
    calibration/<label>/<n>.png            400 digits of the training part
    held-out/<label>/<n>.png               the 540 held-out digits, and each turned either way
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from train_levit_digits import Recipe, augment, load_images, parameter_groups, split

SIDE = 64
ARCHITECTURES = ("deit_tiny_patch16_224", "convit_tiny")
HALF = (0.5, 0.5, 0.5)
DEGREES = (0, -9, 9)
SHOWN = 8 * SIDE // 4  # of the pictures: more than the networks take, as photos are


def enlarged(image: Image.Image, degrees: float = 0) -> Image.Image:
    large = image.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
    return large.rotate(degrees, Image.Resampling.BICUBIC)


def inputs_of(images: list[Image.Image]) -> Tensor:
    """(N, 1, SIDE, SIDE) in 0..1."""
    small = [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images]
    return torch.from_numpy(np.stack([np.asarray(i, np.float32) / 255 for i in small]))[:, None]


def normalized(images: Tensor) -> Tensor:
    return ((images - 0.5) / 0.5).expand(-1, 3, -1, -1)


def train(model: nn.Module, images: Tensor, labels: Tensor, minutes: float, seed: int) -> None:
    """AdamW with a cosine over the time that there is."""
    recipe, generator = Recipe(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.02))
    start = time.monotonic()
    model.train()
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, 20 * progress) * (1 + math.cos(math.pi * progress)) / 2
        index = torch.randint(len(images), (64,), generator=generator)
        answers = model(normalized(augment(images[index], recipe, generator)))
        loss = functional.cross_entropy(answers, labels[index], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    found = torch.cat([model(normalized(part)) for part in images.split(90)]).argmax(1)
    return float((found == labels).float().mean())


def write_pictures(
    folder: Path, images: list[Image.Image], labels: np.ndarray, degrees: tuple[float, ...]
) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        for turn in degrees:
            enlarged(image, turn).save(place / f"{number:04}_{turn:+}.png")


def write_checkpoint(folder: Path, name: str, model: nn.Module, top1: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()},
              folder / "model.safetensors")  # fmt: skip
    config = {
        "architecture": name,
        "num_classes": 10,
        "model_args": {"img_size": SIDE},
        "label_names": [str(digit) for digit in range(10)],
        "pretrained_cfg": {
            "input_size": [3, SIDE, SIDE],
            "crop_pct": 1.0,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": HALF,
            "std": HALF,
        },
        "training": {"script": f"scripts/{Path(__file__).name}", "held_out_top1": round(top1, 4)},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    images, labels = load_images()
    fit, held_out = split(labels)
    known, unknown = [images[i] for i in fit], [images[i] for i in held_out]
    write_pictures(arguments.output / "calibration", known[:400], labels[fit[:400]], (0,))
    write_pictures(arguments.output / "held-out", unknown, labels[held_out], DEGREES)
    turned = [enlarged(image, degrees) for image in unknown for degrees in DEGREES]
    truth = torch.from_numpy(labels[held_out].repeat(len(DEGREES)))
    pictures = inputs_of([enlarged(image) for image in known])
    targets = torch.from_numpy(labels[fit])
    for name in ARCHITECTURES:
        model = timm.create_model(name, img_size=SIDE, num_classes=10)
        train(model, pictures, targets, arguments.minutes, arguments.seed)
        top1 = accuracy(model, inputs_of(turned), truth)
        print(f"{name}: {top1:.2%} of {len(truth)} held-out pictures", flush=True)
        write_checkpoint(arguments.output / name, name, model, top1)


if __name__ == "__main__":
    main()
