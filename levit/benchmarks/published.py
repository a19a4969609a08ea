"""What is published about the models that take part: figures and their sources.

Speeds and batch sizes: facebookresearch/LeViT, ``.github/timings.txt`` and ``speed_test.py``
(2022-08-27), which the LeViT paper's table rounds. CPU columns: one thread, batch 16, float32,
traced PyTorch with BatchNorm folded. V100 (16 GB): autocast to float16, `gpu_batch` images.
Accuracies: ImageNet-1k top-1 in percent, each with the source of `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["CPU_BATCH", "MACHINES", "PUBLISHED", "SOURCES", "Published", "is_efficientnet"]

# What people call the machines of the speed table, by the name of their column.
MACHINES: Final[Mapping[str, str]] = {
    "v100": "Tesla V100-SXM2-16GB, float16",
    "xeon": "Intel Xeon Gold 6138 at 2.00 GHz, one thread, float32",
    "arm": "an Amazon ARM server, one thread, float32",
}

# Images of a batch on the paper's CPUs, for every model.
CPU_BATCH: Final = 16

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
    """One model.

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
    image_size: tuple[int, int] = (224, 224)
    gpu_batch: int = 2048
    v100: float | None = None
    xeon: float | None = None
    arm: float | None = None


def is_efficientnet(model: str) -> bool:
    """Whether this is a model that the paper's headline compares LeViT with."""
    return model.startswith("efficientnet_")


PUBLISHED: Final[Mapping[str, Published]] = {
    "levit_128s": Published(
        title="LeViT-128S",
        top1=76.6,
        source="levit",
        gpu_batch=2048,
        v100=12879.792635259,
        xeon=131.08426514761177,
        arm=39.05605600631973,
    ),
    "levit_128": Published(
        title="LeViT-128",
        top1=78.6,
        source="levit",
        gpu_batch=2048,
        v100=9265.807492349617,
        xeon=94.02966201957373,
        arm=30.80994028780075,
    ),
    "levit_192": Published(
        title="LeViT-192",
        top1=80.0,
        source="levit",
        gpu_batch=2048,
        v100=8601.135420601478,
        xeon=65.01392437813367,
        arm=24.21503939611122,
    ),
    "levit_256": Published(
        title="LeViT-256",
        top1=81.6,
        source="levit",
        gpu_batch=2048,
        v100=6581.825416517691,
        xeon=42.50917587590354,
        arm=16.364732684723613,
    ),
    "levit_384": Published(
        title="LeViT-384",
        top1=82.6,
        source="levit",
        gpu_batch=1024,
        v100=4165.298684314445,
        xeon=23.117487464467157,
        arm=9.372454461264685,
    ),
    "efficientnet_b0": Published(
        title="EfficientNet-B0",
        top1=77.1,
        source="efficientnet",
        gpu_batch=1024,
        v100=4754.464608131096,
        xeon=30.092706251584172,
        arm=3.436668164739997,
    ),
    "efficientnet_b1": Published(
        title="EfficientNet-B1",
        top1=79.1,
        source="efficientnet",
        image_size=(240, 240),
        gpu_batch=1024,
        v100=2882.448345436045,
        xeon=20.042407238086536,
        arm=2.2772622358512637,
    ),
    "efficientnet_b2": Published(
        title="EfficientNet-B2",
        top1=80.1,
        source="efficientnet",
        image_size=(260, 260),
        gpu_batch=512,
        v100=2149.340947246039,
        xeon=13.15527585282857,
        arm=1.2587953790191817,
    ),
    "efficientnet_b3": Published(
        title="EfficientNet-B3",
        top1=81.6,
        source="efficientnet",
        image_size=(300, 300),
        gpu_batch=512,
        v100=1271.7951431861243,
        xeon=5.850004428330435,
        arm=0.8099315827347229,
    ),
    "efficientnet_b4": Published(
        title="EfficientNet-B4",
        top1=82.9,
        source="efficientnet",
        image_size=(380, 380),
        gpu_batch=256,
        v100=606.0124649035685,
        xeon=2.4550634208015545,
        arm=0.4519074520968645,
    ),
    "deit_tiny_distilled_patch16_224": Published(
        title="DeiT-tiny distilled",
        top1=74.5,
        source="deit",
        gpu_batch=2048,
        v100=3972.7563922148643,
        xeon=39.10796320316016,
        arm=16.789331601416873,
    ),
    "deit_small_distilled_patch16_224": Published(
        title="DeiT-small distilled",
        top1=81.2,
        source="deit",
        gpu_batch=2048,
        v100=1931.6085276556053,
        xeon=13.74950884267579,
        arm=7.570103776813635,
    ),
    # In speed_test.py, but not in timings.txt.
    "resnet50": Published(title="ResNet-50", top1=80.4, source="resnet", gpu_batch=1024),
    # In neither.
    "deit_base_distilled_patch16_224": Published(
        title="DeiT-base distilled", top1=83.4, source="deit"
    ),
    "convit_tiny": Published(title="ConViT-Ti", top1=73.1, source="convit"),
    "convit_small": Published(title="ConViT-S", top1=81.3, source="convit"),
    "convit_base": Published(title="ConViT-B", top1=82.4, source="convit"),
}
