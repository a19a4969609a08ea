# SPDX-License-Identifier: Apache-2.0
"""Train the small LeViT that ships in ``levit/data/levit_digits``.

The model is timm's ``LevitDistilled`` (linear form, hard-swish, stride-16 stem) at 96 x 96,
trained from scratch on the 8 x 8 digits of scikit-learn.  As in the LeViT paper, ``head`` learns
the labels and ``head_dist`` learns the hard decisions of a teacher, here a support vector machine
which sees the same augmented images.

Run from the repository root, with torch, timm, scikit-learn, safetensors and pillow installed::

    python scripts/train_levit_digits.py                # train, evaluate, write the files
    python scripts/train_levit_digits.py --validate     # judge a recipe; writes nothing

Expect about five minutes on two CPU cores and a held-out top-1 of about 99.4 %
(heads averaged).  ``--validate`` trains on four fifths of the training part and scores the rest,
so that the recipe can be changed without looking at the held-out images.

Written below ``--output``::

    model.safetensors            weights, timm names, float32
    config.json                  architecture, preprocessing, labels and how it was trained
    images/<label>/<index>.png   the held-out images, 8 x 8 grey; <index> as in load_digits()

Seeds are fixed and deterministic algorithms are on: the same machine and library versions give
the same weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import safetensors
import sklearn
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from timm.data.transforms_factory import create_transform
from timm.models.levit import LevitDistilled
from torch import Tensor, nn
from torch.nn import functional

DEFAULT_OUTPUT = Path(__file__).resolve().parents[1] / "levit" / "data" / "levit_digits"

IMAGE_SIZE = 96
NUM_CLASSES = 10
ARCHITECTURE: dict[str, Any] = {
    "img_size": [IMAGE_SIZE, IMAGE_SIZE],
    "in_chans": 3,
    "num_classes": NUM_CLASSES,
    "embed_dim": [32, 48, 64],
    "key_dim": 16,
    "num_heads": [2, 3, 4],
    "depth": [2, 2, 2],
    "act_layer": "hard_swish",
    "stem_type": "s16",
}
PREPROCESSING: dict[str, Any] = {
    "input_size": [3, IMAGE_SIZE, IMAGE_SIZE],
    "crop_pct": 1.0,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}

HELD_OUT_IMAGES = 540
SPLIT_SEED = 0
# Weights below this magnitude are set to zero on export: they would only cost denormal arithmetic.
SMALLEST_WEIGHT = 1e-20
LARGEST_WEIGHT = 1e3
# Folding divides by sqrt(running_var + 1e-5); stay where that epsilon hardly matters.
SMALLEST_RUNNING_VAR = 1e-3


@dataclass(frozen=True)
class Recipe:
    """Everything about the training which may be tuned."""

    epochs: int = 200
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    warmup_epochs: int = 5
    label_smoothing: float = 0.1
    ema_decay: float = 0.998
    max_degrees: float = 12.0
    max_shear: float = 0.15
    max_scale: float = 0.15
    max_shift: float = 0.10
    teacher_copies: int = 4
    bn_passes: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Score:
    """Top-1 of the two heads averaged, of each head alone, and (label, predicted) mistakes."""

    top1: float
    head_top1: float
    head_dist_top1: float
    confusions: Counter[tuple[int, int]]


def preprocess(image: Image.Image) -> Tensor:
    """Turn an opened image into a normalised 3 x 96 x 96 tensor, as deployment does."""
    image = image.convert("RGB")
    short_edge = math.floor(IMAGE_SIZE / PREPROCESSING["crop_pct"])
    factor = short_edge / min(image.size)
    size = (int(image.width * factor), int(image.height * factor))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - IMAGE_SIZE) // 2, (image.height - IMAGE_SIZE) // 2
    image = image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
    pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)
    mean = torch.tensor(PREPROCESSING["mean"]).view(3, 1, 1)
    std = torch.tensor(PREPROCESSING["std"]).view(3, 1, 1)
    return (pixels - mean) / std


def load_images() -> tuple[list[Image.Image], np.ndarray]:
    """Return scikit-learn's digits as 8 x 8 grey images (0..16 scaled to 0..255) and labels."""
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(array) for array in pixels], digits.target.astype(np.int64)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted sample indices of the training part and of the held-out part."""
    fit, held_out = train_test_split(
        np.arange(len(labels)),
        test_size=HELD_OUT_IMAGES,
        stratify=labels,
        random_state=SPLIT_SEED,
    )
    return np.sort(fit), np.sort(held_out)


def build_model() -> LevitDistilled:
    """Build the untrained network."""
    arguments = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in ARCHITECTURE.items()
    }
    return LevitDistilled(**arguments)


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Shift, rotate, scale, shear and change the contrast of N x 1 x 96 x 96 images in [0, 1]."""
    count = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(recipe.max_degrees))
    shear = uniform(recipe.max_shear)
    scale_x, scale_y = 1 + uniform(recipe.max_scale), 1 + uniform(recipe.max_scale)
    # affine_grid's coordinates span 2, hence the factor for a shift in fractions of the image.
    shift_x, shift_y = uniform(2 * recipe.max_shift), uniform(2 * recipe.max_shift)
    cos, sin = angle.cos(), angle.sin()
    row_x = torch.stack([cos * scale_x, (cos * shear - sin) * scale_y, shift_x], dim=1)
    row_y = torch.stack([sin * scale_x, (sin * shear + cos) * scale_y, shift_y], dim=1)
    grid = functional.affine_grid(torch.stack([row_x, row_y], dim=1), list(images.shape), False)
    warped = functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    contrast = (1 + uniform(0.25)).view(-1, 1, 1, 1)
    brightness = uniform(0.05).view(-1, 1, 1, 1)
    return (warped * contrast + brightness).clamp(0, 1)


def to_input(images: Tensor) -> Tensor:
    """Normalise N x 1 x 96 x 96 grey images in [0, 1] and repeat them over three channels."""
    mean: float = PREPROCESSING["mean"][0]
    std: float = PREPROCESSING["std"][0]
    return ((images - mean) / std).expand(-1, 3, -1, -1)


def teacher_features(images: Tensor) -> np.ndarray:
    """Average N x 1 x 96 x 96 images back to 8 x 8, flattened, for the teacher."""
    return functional.avg_pool2d(images, IMAGE_SIZE // 8).flatten(1).numpy()


def fit_teacher(images: Tensor, labels: Tensor, recipe: Recipe) -> SVC:
    """Fit the support vector machine whose hard decisions ``head_dist`` learns."""
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    copies = [augment(images, recipe, generator) for _ in range(recipe.teacher_copies)]
    features = teacher_features(torch.cat([images, *copies]))
    return SVC(C=10.0, gamma=0.1).fit(features, labels.repeat(len(copies) + 1).numpy())


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels only, not biases, norms or attention biases."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and "attention_biases" not in name
        (decayed if matrix else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0}]


@torch.no_grad()
def estimate_bn(
    model: nn.Module, images: Tensor, recipe: Recipe, generator: torch.Generator
) -> None:
    """Recompute BatchNorm statistics for the final weights: plain means over augmented images."""
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for _ in range(recipe.bn_passes):
        order = torch.randperm(len(images), generator=generator)
        for batch in torch.split(to_input(augment(images[order], recipe, generator)), 256):
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def train(inputs: Tensor, labels: Tensor, recipe: Recipe) -> LevitDistilled:
    """Train on preprocessed N x 3 x 96 x 96 inputs; return the averaged model in eval mode."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    # The inputs are grey: keep one channel, back in [0, 1], and augment that.
    images = inputs[:, :1] * PREPROCESSING["std"][0] + PREPROCESSING["mean"][0]
    teacher = fit_teacher(images, labels, recipe)

    model = build_model()
    model.set_distilled_training(True)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate
    )
    steps_per_epoch = len(images) // recipe.batch_size
    steps, warmup = recipe.epochs * steps_per_epoch, recipe.warmup_epochs * steps_per_epoch

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    started, step = time.monotonic(), 0
    for epoch in range(recipe.epochs):
        model.train()
        order = torch.randperm(len(images), generator=generator)
        augmented = augment(images[order], recipe, generator)
        targets = labels[order]
        taught = torch.from_numpy(teacher.predict(teacher_features(augmented)))
        agreement = (taught == targets).float().mean().item()
        total = 0.0
        for index in range(steps_per_epoch):
            batch = slice(index * recipe.batch_size, (index + 1) * recipe.batch_size)
            logits, logits_dist = model(to_input(augmented[batch]))
            smoothing = recipe.label_smoothing
            loss = 0.5 * functional.cross_entropy(logits, targets[batch], label_smoothing=smoothing)
            loss = loss + 0.5 * functional.cross_entropy(
                logits_dist, taught[batch], label_smoothing=smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            step += 1
            decay = min(recipe.ema_decay, step / (step + 10))
            with torch.no_grad():
                for kept, current in zip(average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(current, 1 - decay)
            total += loss.item()
        if epoch % 10 == 0 or epoch + 1 == recipe.epochs:
            print(
                f"epoch {epoch + 1:3d}/{recipe.epochs}  loss {total / steps_per_epoch:.4f}  "
                f"teacher agrees {100 * agreement:.1f} %  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    estimate_bn(average, images, recipe, generator)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter[parameter.abs() < SMALLEST_WEIGHT] = 0
    return average


@torch.no_grad()
def evaluate(model: LevitDistilled, inputs: Tensor, labels: Tensor) -> Score:
    """Score the averaged output, which is what eval mode returns, and each head alone."""
    model.eval()
    averaged, head, head_dist = [], [], []
    for batch in torch.split(inputs, 128):
        averaged.append(model(batch))
        features = model.forward_head(model.forward_features(batch), pre_logits=True)
        head.append(model.head(features))
        head_dist.append(model.head_dist(features))
    guesses = [torch.cat(part).argmax(dim=1) for part in (averaged, head, head_dist)]
    top1, head_top1, head_dist_top1 = ((g == labels).double().mean().item() for g in guesses)
    wrong = guesses[0] != labels
    pairs = zip(labels[wrong].tolist(), guesses[0][wrong].tolist(), strict=True)
    return Score(top1, head_top1, head_dist_top1, Counter(pairs))


def report(score: Score, count: int) -> None:
    """Print a score."""
    print(f"images                 {count}")
    print(f"top-1, heads averaged  {100 * score.top1:.2f} %")
    print(f"top-1, head            {100 * score.head_top1:.2f} %")
    print(f"top-1, head_dist       {100 * score.head_dist_top1:.2f} %")
    for (label, guess), times in sorted(score.confusions.items()):
        print(f"confused               {label} taken for {guess}: {times}")


def check_weights(state: dict[str, Tensor]) -> None:
    """Refuse weights which would not deploy or fold well."""
    for name, tensor in state.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: not finite float32")
        magnitudes = tensor.abs()[tensor != 0]
        if len(magnitudes) and magnitudes.min() < SMALLEST_WEIGHT:
            raise ValueError(f"{name}: smallest magnitude {magnitudes.min():.1e}")
        if len(magnitudes) and magnitudes.max() > LARGEST_WEIGHT:
            raise ValueError(f"{name}: largest magnitude {magnitudes.max():.1e}")
        if name.endswith("running_var") and tensor.min() < SMALLEST_RUNNING_VAR:
            raise ValueError(f"{name}: smallest variance {tensor.min():.1e}")


def read_held_out(folder: Path) -> tuple[Tensor, Tensor]:
    """Read the written PNG files through timm's own transform and check it against ours."""
    transform = create_transform(
        input_size=tuple(PREPROCESSING["input_size"]),
        interpolation=PREPROCESSING["interpolation"],
        mean=tuple(PREPROCESSING["mean"]),
        std=tuple(PREPROCESSING["std"]),
        crop_pct=PREPROCESSING["crop_pct"],
        crop_mode=PREPROCESSING["crop_mode"],
        is_training=False,
    )
    inputs, labels = [], []
    for path in sorted(folder.glob("*/*.png")):
        with Image.open(path) as image:
            ours, theirs = preprocess(image), transform(image.convert("RGB"))
        if not torch.equal(ours, theirs):
            raise ValueError(f"{path}: preprocessing differs from timm's")
        inputs.append(theirs)
        labels.append(int(path.parent.name))
    return torch.stack(inputs), torch.tensor(labels)


def write_images(
    folder: Path, images: list[Image.Image], labels: np.ndarray, indices: np.ndarray
) -> None:
    """Write the images at ``indices`` by label; remove PNG files left by an earlier split."""
    wanted = set()
    for index in indices.tolist():
        path = folder / str(labels[index]) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images[index].save(path, format="PNG", optimize=True)
        wanted.add(path)
    for path in folder.glob("*/*.png"):
        if path not in wanted:
            path.unlink()


def describe(recipe: Recipe, trained_on: int, score: Score, parameters: int) -> dict[str, Any]:
    """Return the contents of config.json."""
    return {
        "architecture": "levit_digits",
        **ARCHITECTURE,
        "distilled": True,
        "pretrained_cfg": PREPROCESSING,
        "label_names": [str(digit) for digit in range(NUM_CLASSES)],
        "training": {
            "script": f"scripts/{Path(__file__).name}",
            "dataset": "sklearn.datasets.load_digits",
            "split": {
                "function": "sklearn.model_selection.train_test_split",
                "test_size": HELD_OUT_IMAGES,
                "stratified": True,
                "random_state": SPLIT_SEED,
            },
            "parameters": parameters,
            "training_images": trained_on,
            "held_out_images": HELD_OUT_IMAGES,
            "held_out_top1": round(score.top1, 6),
            "held_out_top1_head": round(score.head_top1, 6),
            "held_out_top1_head_dist": round(score.head_dist_top1, 6),
            "teacher": "sklearn.svm.SVC, hard decisions, for head_dist",
            **asdict(recipe),
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "timm": timm.__version__,
                "scikit-learn": sklearn.__version__,
                "numpy": np.__version__,
                "pillow": PIL.__version__,
                "safetensors": safetensors.__version__,
            },
        },
    }


def validate(recipe: Recipe) -> None:
    """Train on four fifths of the training part and score the rest."""
    images, targets = load_images()
    outer, _ = split(targets)
    inputs = torch.stack([preprocess(images[index]) for index in outer])
    labels = torch.from_numpy(targets[outer])
    fit, check = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels.numpy(), random_state=recipe.seed
    )
    started = time.monotonic()
    model = train(inputs[fit], labels[fit], recipe)
    print(f"train time             {(time.monotonic() - started) / 60:.1f} min")
    report(evaluate(model, inputs[check], labels[check]), len(check))


def train_and_export(output: Path, recipe: Recipe) -> None:
    """Train on the whole training part, write all files, and score what was written."""
    images, targets = load_images()
    fit, held_out = split(targets)
    inputs = torch.stack([preprocess(images[index]) for index in fit])
    labels = torch.from_numpy(targets[fit])

    started = time.monotonic()
    model = train(inputs, labels, recipe)
    print(f"train time             {(time.monotonic() - started) / 60:.1f} min")

    # timm loads without BatchNorm's step counters, and nothing else needs integers here.
    state = {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    check_weights(state)
    weights_path = output / "model.safetensors"
    write_images(output / "images", images, targets, held_out)
    save_file(state, weights_path, metadata={"format": "pt"})

    written = build_model()
    written.load_state_dict(load_file(weights_path), strict=True)
    held_out_inputs, held_out_labels = read_held_out(output / "images")
    if len(held_out_labels) != HELD_OUT_IMAGES:
        raise ValueError(f"{len(held_out_labels)} held-out images, not {HELD_OUT_IMAGES}")
    score = evaluate(written, held_out_inputs, held_out_labels)
    parameters = sum(parameter.numel() for parameter in written.parameters())
    config = describe(recipe, len(fit), score, parameters)
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    print(f"parameters             {parameters}")
    report(score, len(held_out_labels))
    files = [path for path in output.rglob("*") if path.is_file()]
    print(f"weights                {weights_path.stat().st_size} bytes")
    print(f"all files              {sum(path.stat().st_size for path in files)} bytes")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="folder to write")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of the training")
    parser.add_argument(
        "--threads", type=int, default=1, help="more hardly helps: the steps are small"
    )
    parser.add_argument(
        "--validate", action="store_true", help="score an inner split and write nothing"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    recipe = Recipe(epochs=arguments.epochs, seed=arguments.seed)
    if arguments.validate:
        validate(recipe)
    else:
        train_and_export(arguments.output, recipe)


if __name__ == "__main__":
    main()
