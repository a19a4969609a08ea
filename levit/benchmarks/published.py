"""Published figures of the models that take part, and their sources.

Speeds and batch sizes: facebookresearch/LeViT, ``.github/timings.txt`` and ``speed_test.py``
(2022-08-27), which the LeViT paper's table rounds. CPU columns: one thread, batch 16, float32,
traced PyTorch with BatchNorm folded. V100 (16 GB): autocast to float16, `gpu_batch` images.
Accuracies: ImageNet-1k top-1 in percent, each with the source of `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["MACHINES", "PUBLISHED", "SOURCES", "Published", "is_efficientnet"]

# Titles of the machines of the speed table, by the name of their column.
MACHINES: Final[Mapping[str, str]] = {
    "v100": "Tesla V100-SXM2-16GB, float16",
    "xeon": "Intel Xeon Gold 6138 at 2.00 GHz, one thread, float32",
    "arm": "an Amazon ARM server, one thread, float32",
}

SOURCES: Final[Mapping[str, str]] = {
    "levit": "LeViT: a Vision Transformer in ConvNet's Clothing, arXiv:2104.01136",
    # Of the authors' own checkpoints. timm's weights of that name were trained otherwise.
    "efficientnet": "EfficientNet, arXiv:1905.11946, as the LeViT paper compares with it",
    "deit": "DeiT, arXiv:2012.12877, distilled, as the LeViT paper compares with it",
    "convit": "ConViT, arXiv:2103.10697",
    # The best recipe for the unchanged network at 224 pixels, which timm's default weights
    # (resnet50.a1_in1k) come from; the recipe of 2015 gives 76.1 (torchvision, IMAGENET1K_V1).
    "resnet": "ResNet strikes back, arXiv:2110.00476, recipe A1 at 224 pixels",
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published figures of one model.

    Attributes:
        title: as papers write it.
        top1: ImageNet-1k accuracy in percent.
        source: key of `SOURCES`, for `top1`.
        image_size: (height, width) in pixels of the speed table.
        gpu_batch: images of a batch on the V100; where the authors timed none, as for small
            models.
        v100, xeon, arm: images per second, or None where the table has no line.
    """

    title: str
    top1: float
    source: str
    image_size: tuple[int, int]
    gpu_batch: int
    v100: float | None
    xeon: float | None
    arm: float | None


def is_efficientnet(model: str) -> bool:
    """Tell a model that the paper's headline compares LeViT with."""
    return model.startswith("efficientnet_")


# Images of a batch on the V100, and images per second of `MACHINES`. ResNet-50 is in speed_test.py,
# but not in timings.txt.
_SPEEDS: Final[Mapping[str, tuple[int, float | None, float | None, float | None]]] = {
    "levit_128s": (2048, 12879.792635259, 131.08426514761177, 39.05605600631973),
    "levit_128": (2048, 9265.807492349617, 94.02966201957373, 30.80994028780075),
    "levit_192": (2048, 8601.135420601478, 65.01392437813367, 24.21503939611122),
    "levit_256": (2048, 6581.825416517691, 42.50917587590354, 16.364732684723613),
    "levit_384": (1024, 4165.298684314445, 23.117487464467157, 9.372454461264685),
    "efficientnet_b0": (1024, 4754.464608131096, 30.092706251584172, 3.436668164739997),
    "efficientnet_b1": (1024, 2882.448345436045, 20.042407238086536, 2.2772622358512637),
    "efficientnet_b2": (512, 2149.340947246039, 13.15527585282857, 1.2587953790191817),
    "efficientnet_b3": (512, 1271.7951431861243, 5.850004428330435, 0.8099315827347229),
    "efficientnet_b4": (256, 606.0124649035685, 2.4550634208015545, 0.4519074520968645),
    "deit_tiny_distilled_patch16_224": (
        2048,
        3972.7563922148643,
        39.10796320316016,
        16.789331601416873,
    ),
    "deit_small_distilled_patch16_224": (
        2048,
        1931.6085276556053,
        13.74950884267579,
        7.570103776813635,
    ),
    "resnet50": (1024, None, None, None),
}

# Title, accuracy and its source, and the edge of the pictures.
_MODELS: Final[Mapping[str, tuple[str, float, str, int]]] = {
    "levit_128s": ("LeViT-128S", 76.6, "levit", 224),
    "levit_128": ("LeViT-128", 78.6, "levit", 224),
    "levit_192": ("LeViT-192", 80.0, "levit", 224),
    "levit_256": ("LeViT-256", 81.6, "levit", 224),
    "levit_384": ("LeViT-384", 82.6, "levit", 224),
    "efficientnet_b0": ("EfficientNet-B0", 77.1, "efficientnet", 224),
    "efficientnet_b1": ("EfficientNet-B1", 79.1, "efficientnet", 240),
    "efficientnet_b2": ("EfficientNet-B2", 80.1, "efficientnet", 260),
    "efficientnet_b3": ("EfficientNet-B3", 81.6, "efficientnet", 300),
    "efficientnet_b4": ("EfficientNet-B4", 82.9, "efficientnet", 380),
    "deit_tiny_distilled_patch16_224": ("DeiT-tiny distilled", 74.5, "deit", 224),
    "deit_small_distilled_patch16_224": ("DeiT-small distilled", 81.2, "deit", 224),
    "resnet50": ("ResNet-50", 80.4, "resnet", 224),
    "deit_base_distilled_patch16_224": ("DeiT-base distilled", 83.4, "deit", 224),
    "convit_tiny": ("ConViT-Ti", 73.1, "convit", 224),
    "convit_small": ("ConViT-S", 81.3, "convit", 224),
    "convit_base": ("ConViT-B", 82.4, "convit", 224),
}

# Small models that the authors did not time get the batch of their small ones.
_UNTIMED: Final = (2048, None, None, None)


def _published(name: str) -> Published:
    title, top1, source, edge = _MODELS[name]
    gpu_batch, v100, xeon, arm = _SPEEDS.get(name, _UNTIMED)
    return Published(
        title=title,
        top1=top1,
        source=source,
        image_size=(edge, edge),
        gpu_batch=gpu_batch,
        v100=v100,
        xeon=xeon,
        arm=arm,
    )


PUBLISHED: Final[Mapping[str, Published]] = {name: _published(name) for name in _MODELS}
