# SPDX-License-Identifier: Apache-2.0
"""Train a LeViT-128S of full size on drawn pictures, to judge quantization on.

Random weights have no decision to lose, and levit_digits is a hundredth of a real network. Here
timm's ``levit_128s`` (7.4 million parameters, 224 x 224) learns forty classes: ten shapes, each
filled in four ways, at any angle, size, place and colours, over gradients and stripes, among
smaller shapes of other classes, partly covered, blurred and noisy. Nothing is downloaded.

Run from the repository root, with torch, timm, safetensors and pillow installed::

    python scripts/train_levit_shapes.py --output runs/shapes --minutes 60

Most of the time goes into training at 112 x 112, a fourth of the work; the attention biases are
then interpolated to the grids of 224 and all is tuned there. Written below ``--output``::

    model.safetensors, config.json      a checkpoint that `levit export --checkpoint` reads
    calibration/<class>/<n>.png         320 pictures of the training part
    held-out/<class>/<n>.png            2000 pictures that training has not seen

The weights are 30 MB and are not in the repository.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

SIDE = 224
SMALL = 112
SHAPES = (
    *("circle", "square", "triangle", "pentagon", "star", "cross"),
    *("ring", "crescent", "heart", "arrow"),
)
FILLS = ("plain", "stripes", "dots", "checks")
CLASSES = tuple(f"{fill} {shape}" for shape in SHAPES for fill in FILLS)

PREPROCESSING: dict[str, Any] = {
    "input_size": [3, SIDE, SIDE],
    "crop_pct": 1.0,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
MEAN = torch.tensor(PREPROCESSING["mean"]).view(1, 3, 1, 1)
STD = torch.tensor(PREPROCESSING["std"]).view(1, 3, 1, 1)


# ---------------------------------------------------------------------------- pictures


def outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape of radius one, or nothing for those that are drawn otherwise."""
    if shape == "square":
        return regular(4)
    if shape == "triangle":
        return regular(3)
    if shape == "pentagon":
        return regular(5)
    if shape == "star":
        points = []
        for i in range(10):
            radius = 1.0 if i % 2 == 0 else 0.42
            points.append((radius * math.sin(i * math.pi / 5), -radius * math.cos(i * math.pi / 5)))
        return points
    if shape == "cross":
        a, b = 0.32, 0.95
        return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a),
                (-b, a), (-b, -a), (-a, -a)]  # fmt: skip
    if shape == "arrow":
        return [(0, -1), (0.75, -0.1), (0.3, -0.1), (0.3, 0.9), (-0.3, 0.9), (-0.3, -0.1),
                (-0.75, -0.1)]  # fmt: skip
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 60)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return list(zip(x / 17, -y / 17, strict=True))
    return []


def regular(corners: int) -> list[tuple[float, float]]:
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return [(math.sin(a), -math.cos(a)) for a in angles]


def mask_of(shape: str, radius: float, angle: float, place: tuple[float, float]) -> Image.Image:
    """Mask of a shape, smooth at its edges."""
    scale = 2
    mask = Image.new("L", (SIDE * scale, SIDE * scale))
    draw = ImageDraw.Draw(mask)
    cx, cy = place[0] * scale, place[1] * scale
    r = radius * scale
    cos, sin = math.cos(angle), math.sin(angle)
    if points := outline(shape):
        turned = [(cx + r * (x * cos - y * sin), cy + r * (x * sin + y * cos)) for x, y in points]
        draw.polygon(turned, fill=255)
    else:
        draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=255)
        inner = 0.55 * r if shape == "ring" else 0.8 * r
        if shape == "ring":
            draw.ellipse([cx - inner, cy - inner, cx + inner, cy + inner], fill=0)
        elif shape == "crescent":
            x, y = cx + 0.45 * r * cos, cy + 0.45 * r * sin
            draw.ellipse([x - inner, y - inner, x + inner, y + inner], fill=0)
    return mask.resize((SIDE, SIDE), Image.Resampling.BOX)


def filling(fill: str, rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) of 0..1: which of two colours a pixel has."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    u = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 50)
    v = -x * np.sin(angle) + y * np.cos(angle) + rng.uniform(0, 50)
    period = rng.uniform(11, 20)
    if fill == "stripes":
        return (np.sin(2 * np.pi * u / period) > 0).astype(np.float32)
    if fill == "dots":
        a, b = (u % period) / period - 0.5, (v % period) / period - 0.5
        return (a * a + b * b < 0.085).astype(np.float32)
    if fill == "checks":
        return ((np.floor(u / period * 2) + np.floor(v / period * 2)) % 2).astype(np.float32)
    return np.zeros((SIDE, SIDE), np.float32)


def background(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3): a gradient, with faint stripes or blobs on it."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE
    one, other = rng.uniform(0.05, 0.95, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    t = np.clip((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + 0.5, 0, 1)[..., None]
    picture = one * (1 - t) + other * t
    if rng.random() < 0.5:
        texture = filling(str(rng.choice(FILLS)), rng)[..., None]
        picture = picture + rng.uniform(0.03, 0.12) * (texture - 0.5)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    blobs = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32) / 255
    return picture + rng.uniform(0, 0.35) * (blobs - 0.5)


def colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colours that can be told apart."""
    while True:
        one, other = rng.uniform(0, 1, (2, 3))
        if np.abs(one - other).mean() > 0.25:
            return one, other


def draw(number: int, rng: np.random.Generator) -> np.ndarray:
    """A picture of a class: (SIDE, SIDE, 3) uint8."""
    picture = background(rng)
    for _ in range(rng.integers(0, 4)):  # smaller ones of other classes
        place = tuple(rng.uniform(0, SIDE, 2))
        picture = painted(picture, str(rng.choice(SHAPES)), str(rng.choice(FILLS)),
                          rng.uniform(9, 20), place, rng)  # fmt: skip
    radius = rng.uniform(36, 84)
    place = tuple(rng.uniform(0.8 * radius, SIDE - 0.8 * radius, 2))
    shape, fill = SHAPES[number // len(FILLS)], FILLS[number % len(FILLS)]
    picture = painted(picture, shape, fill, radius, place, rng)
    if rng.random() < 0.4:  # a bar over it
        angle, width = rng.uniform(0, np.pi), rng.uniform(6, 18)
        y, x = np.mgrid[:SIDE, :SIDE]
        offset = rng.uniform(-0.6, 0.6) * radius
        distance = (x - place[0]) * np.cos(angle) + (y - place[1]) * np.sin(angle) - offset
        picture = np.where((np.abs(distance) < width / 2)[..., None], rng.uniform(0, 1, 3), picture)
    pixels = np.clip(picture * 255, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6))
        pixels = np.asarray(Image.fromarray(pixels).filter(blur))
    noise = rng.normal(0, rng.uniform(0, 22), pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def painted(
    picture: np.ndarray,
    shape: str,
    fill: str,
    radius: float,
    place: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    mask = np.asarray(mask_of(shape, radius, rng.uniform(0, 2 * np.pi), place), np.float32) / 255
    one, other = colours(rng)
    texture = filling(fill, rng)[..., None]
    paint = one * (1 - texture) + other * texture
    alpha = mask[..., None] * rng.uniform(0.8, 1.0)
    return picture * (1 - alpha) + paint * alpha


def draw_many(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(N, 3, SIDE, SIDE) uint8, and classes, all as often."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    pictures = torch.empty((count, 3, SIDE, SIDE), dtype=torch.uint8)
    for i, label in enumerate(labels):
        pictures[i] = torch.from_numpy(draw(int(label), rng)).permute(2, 0, 1)
    return pictures, torch.from_numpy(labels)


# ---------------------------------------------------------------------------- training


def network(side: int) -> nn.Module:
    return timm.create_model("levit_128s", num_classes=len(CLASSES), img_size=side)


def resized(state: dict[str, Tensor], side: int) -> nn.Module:
    """The network for ``side`` pixels, its attention biases interpolated over the offsets."""
    model = network(side)
    state = dict(state)
    for name, value in model.state_dict().items():
        if name.endswith("attention_bias_idxs"):
            state.pop(name, None)
        elif name.endswith("attention_biases"):
            heads = len(value)
            old = math.isqrt(state[name].shape[1])
            new = math.isqrt(value.shape[1])
            table = state[name].view(1, heads, old, old)
            state[name] = functional.interpolate(
                table, (new, new), mode="bilinear", align_corners=True
            ).view(heads, new * new)
    model.load_state_dict(state, strict=False)  # files have no indices of biases
    return model


def inputs_of(pictures: Tensor, side: int, *, augment: bool, generator: torch.Generator) -> Tensor:
    x = pictures.float() / 255
    if augment:
        if torch.rand((), generator=generator) < 0.5:
            x = x.flip(-1)
        turns = int(torch.randint(4, (), generator=generator))
        x = torch.rot90(x, turns, (-2, -1))
        gain = 1 + 0.3 * (torch.rand((len(x), 3, 1, 1), generator=generator) - 0.5)
        shift = 0.2 * (torch.rand((len(x), 3, 1, 1), generator=generator) - 0.5)
        x = (x * gain + shift).clamp(0, 1)
        dx, dy = torch.randint(-14, 15, (2,), generator=generator).tolist()
        x = torch.roll(x, (dx, dy), (-2, -1))
    if side != x.shape[-1]:
        x = functional.avg_pool2d(x, x.shape[-1] // side)
    return (x - MEAN) / STD


def train(
    model: nn.Module,
    pictures: Tensor,
    labels: Tensor,
    side: int,
    minutes: float,
    rate: float,
    seed: int,
    bf16: bool,
) -> nn.Module:
    """AdamW with a cosine over the time that there is; returns the running mean of the weights.

    Args:
        bf16: convolutions and products in bfloat16, the weights in float32 still.
    """
    generator = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.03}, {"params": others, "weight_decay": 0.0}]
    )
    mean = copy.deepcopy(model)
    start, batch, seen, logged = time.monotonic(), 64, 0, 0.0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for index in torch.randperm(len(pictures), generator=generator).split(batch):
            progress = (time.monotonic() - start) / (60 * minutes)
            if progress >= 1 or len(index) < batch:
                break
            warm = min(1.0, progress / 0.05)
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
            model.train()
            x = inputs_of(pictures[index], side, augment=True, generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                answers = model(x)  # a pair of heads while it trains
            answers = answers if isinstance(answers, tuple) else (answers,)
            loss = sum(
                functional.cross_entropy(a.float(), labels[index], label_smoothing=0.1)
                for a in answers
            ) / len(answers)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            seen += len(index)
            average(mean, model, min(0.998, seen / batch / (10 + seen / batch)))
            if time.monotonic() - logged > 60:
                logged = time.monotonic()
                print(f"{side} px, {progress:4.0%}: {seen} pictures, loss {loss.item():.3f}",
                      flush=True)  # fmt: skip
    return mean


@torch.no_grad()
def average(mean: nn.Module, model: nn.Module, decay: float) -> None:
    for old, new in zip(mean.state_dict().values(), model.state_dict().values(), strict=True):
        if old.dtype.is_floating_point:
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


@torch.no_grad()
def accuracy(model: nn.Module, pictures: Tensor, labels: Tensor, side: int) -> float:
    model.eval()
    generator = torch.Generator()
    right = 0
    for index in torch.arange(len(pictures)).split(50):
        x = inputs_of(pictures[index], side, augment=False, generator=generator)
        right += int((model(x).argmax(1) == labels[index]).sum())
    return right / len(pictures)


# ---------------------------------------------------------------------------- files


def write_pictures(folder: Path, pictures: Tensor, labels: Tensor) -> None:
    for number, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(place / f"{number:05}.png")


def write_checkpoint(folder: Path, model: nn.Module, notes: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.contiguous()
        for name, value in model.state_dict().items()
        if value.dtype.is_floating_point
    }
    save_file(state, folder / "model.safetensors")
    config = {
        "architecture": "levit_128s",
        "num_classes": len(CLASSES),
        "label_names": list(CLASSES),
        "pretrained_cfg": PREPROCESSING,
        "training": {"script": f"scripts/{Path(__file__).name}", **notes},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, about")
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16, for CPUs with AMX")
    parser.add_argument("--resume", type=Path, help="a folder of an earlier run, to go on from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    print("drawing", flush=True)
    pictures, labels = draw_many(arguments.pictures, arguments.seed)
    held_out, truth = draw_many(2000, arguments.seed + 1_000_003)
    write_pictures(arguments.output / "held-out", held_out, truth)
    write_pictures(arguments.output / "calibration", pictures[:320], labels[:320])
    small = network(SMALL)
    if arguments.resume is not None:
        small = resized(load_file(arguments.resume / "model.safetensors"), SMALL)
    tuning = 0.35 * arguments.minutes
    training = arguments.minutes - tuning
    bf16 = arguments.bf16
    small = train(small, pictures, labels, SMALL, training, 2e-3, arguments.seed, bf16)
    print(f"top-1 at {SMALL} pixels: {accuracy(small, held_out, truth, SMALL):.2%}", flush=True)
    large = resized(small.state_dict(), SIDE)
    large = train(large, pictures, labels, SIDE, tuning, 7e-4, arguments.seed + 1, bf16)
    top1 = accuracy(large, held_out, truth, SIDE)
    print(f"top-1 on {len(truth)} held-out pictures: {top1:.2%}")
    notes = {
        "minutes": arguments.minutes,
        "pictures": arguments.pictures,
        "seed": arguments.seed,
        "bf16": bf16,
        "held_out_top1": round(top1, 4),
    }
    write_checkpoint(arguments.output, large, notes)


if __name__ == "__main__":
    main()
