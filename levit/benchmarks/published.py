"""Published figures of the models that take part, and their sources.

Speeds and batch sizes: facebookresearch/LeViT, ``.github/timings.txt`` and ``speed_test.py``
(2022-08-27), which the LeViT paper's table rounds. CPU columns: one thread, batch 16, float32,
traced PyTorch with BatchNorm folded. V100 (16 GB): autocast to float16, `gpu_batch` images.
Accuracies: ImageNet-1k top-1 in percent, each with its source.

`TODAY` are the networks that people would pick today, two or three sizes of each architecture
around LeViT's accuracies. Accuracy and picture size are those of one line of timm's own
evaluation (huggingface/pytorch-image-models, ``results/results-imagenet.csv`` of 2025-10-30,
commit 4e5207c7), rounded to a tenth; `weights` names the line: ``MODEL.WEIGHTS``. Of several
trainings the most accurate at that size was taken, distilled ones (as LeViT's are) included. timm's
evaluation has LeViT up to 0.14 points below the paper's figures, which stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["MACHINES", "PUBLISHED", "TODAY", "Published", "is_efficientnet"]

# Titles of the machines of the speed table, by the name of their column.
MACHINES: Final[Mapping[str, str]] = {
    "v100": "Tesla V100-SXM2-16GB, float16",
    "xeon": "Intel Xeon Gold 6138 at 2.00 GHz, one thread, float32",
    "arm": "an Amazon ARM server, one thread, float32",
}


@dataclass(frozen=True)
class Published:
    """Published figures of one model.

    Attributes:
        top1: ImageNet-1k accuracy in percent.
        gpu_batch: images of a batch on the V100; the authors' for small models where they timed
            none.
        v100, xeon, arm: images per second, or None where the table has no line.
        edge: height and width of the pictures of that accuracy, in pixels.
        weights: tag of timm's weights with that accuracy; empty where it is not timm's figure.
    """

    top1: float
    gpu_batch: int = 2048
    v100: float | None = None
    xeon: float | None = None
    arm: float | None = None
    edge: int = 224
    weights: str = ""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.edge, self.edge


def is_efficientnet(model: str) -> bool:
    """Tell a model that the paper's headline compares LeViT with."""
    return model.startswith("efficientnet_")


def _timm(top1: float, edge: int, weights: str) -> Published:
    return Published(top1=top1, edge=edge, weights=weights)


TODAY: Final[Mapping[str, Published]] = {
    "mobilenetv4_conv_small": _timm(74.6, 256, "e2400_r224_in1k"),
    "mobilenetv4_conv_medium": _timm(79.9, 256, "e500_r256_in1k"),
    "mobilenetv4_conv_large": _timm(81.9, 256, "e500_r256_in1k"),
    "fastvit_t8": _timm(77.2, 256, "apple_dist_in1k"),
    "fastvit_sa12": _timm(81.8, 256, "apple_dist_in1k"),
    "fastvit_sa24": _timm(83.4, 256, "apple_dist_in1k"),
    "repvit_m0_9": _timm(79.1, 224, "dist_450e_in1k"),
    "repvit_m1_1": _timm(81.3, 224, "dist_450e_in1k"),
    "repvit_m1_5": _timm(82.5, 224, "dist_450e_in1k"),
    # Two architectures have this name: Microsoft's (m) and MIT's (b).
    "efficientvit_m5": _timm(77.1, 224, "r224_in1k"),
    "efficientvit_b1": _timm(79.3, 224, "r224_in1k"),
    "efficientvit_b2": _timm(82.2, 224, "r224_in1k"),
    # Trained with a teacher and on ImageNet-22k pictures besides.
    "hgnetv2_b0": _timm(77.4, 224, "ssld_stage2_ft_in1k"),
    "hgnetv2_b2": _timm(81.6, 224, "ssld_stage2_ft_in1k"),
    "hgnetv2_b3": _timm(82.9, 224, "ssld_stage2_ft_in1k"),
}

PUBLISHED: Final[Mapping[str, Published]] = {
    # LeViT: a Vision Transformer in ConvNet's Clothing, arXiv:2104.01136.
    "levit_128s": Published(76.6, 2048, 12879.792635259, 131.08426514761177, 39.05605600631973),
    "levit_128": Published(78.6, 2048, 9265.807492349617, 94.02966201957373, 30.80994028780075),
    "levit_192": Published(80.0, 2048, 8601.135420601478, 65.01392437813367, 24.21503939611122),
    "levit_256": Published(81.6, 2048, 6581.825416517691, 42.50917587590354, 16.364732684723613),
    "levit_384": Published(82.6, 1024, 4165.298684314445, 23.117487464467157, 9.372454461264685),
    # EfficientNet, arXiv:1905.11946, as the LeViT paper compares with it: the authors' own
    # checkpoints. timm's weights of that name were trained otherwise.
    "efficientnet_b0": Published(
        77.1, 1024, 4754.464608131096, 30.092706251584172, 3.436668164739997, 224
    ),
    "efficientnet_b1": Published(
        79.1, 1024, 2882.448345436045, 20.042407238086536, 2.2772622358512637, 240
    ),
    "efficientnet_b2": Published(
        80.1, 512, 2149.340947246039, 13.15527585282857, 1.2587953790191817, 260
    ),
    "efficientnet_b3": Published(
        81.6, 512, 1271.7951431861243, 5.850004428330435, 0.8099315827347229, 300
    ),
    "efficientnet_b4": Published(
        82.9, 256, 606.0124649035685, 2.4550634208015545, 0.4519074520968645, 380
    ),
    # DeiT, arXiv:2012.12877, distilled, as the LeViT paper compares with it.
    "deit_tiny_distilled_patch16_224": Published(
        74.5, 2048, 3972.7563922148643, 39.10796320316016, 16.789331601416873
    ),
    "deit_small_distilled_patch16_224": Published(
        81.2, 2048, 1931.6085276556053, 13.74950884267579, 7.570103776813635
    ),
    # ResNet strikes back, arXiv:2110.00476, recipe A1 at 224 pixels: the best for the unchanged
    # network, which timm's default weights (resnet50.a1_in1k) come from; the recipe of 2015 gives
    # 76.1 (torchvision, IMAGENET1K_V1). It is in speed_test.py, but not in timings.txt.
    "resnet50": Published(80.4, 1024),
    "deit_base_distilled_patch16_224": Published(83.4),
    # ConViT, arXiv:2103.10697.
    "convit_tiny": Published(73.1),
    "convit_small": Published(81.3),
    "convit_base": Published(82.4),
    **TODAY,
}
