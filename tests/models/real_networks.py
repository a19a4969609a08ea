"""Small networks of the real libraries with random weights, and their answers in float64."""

import copy

import numpy as np

from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.relative_error import relative_error


def randomised(network, seed):
    """The network with every weight and every running statistic drawn anew, in eval mode."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(shape, scale):
        return torch.randn(shape, generator=generator) * scale

    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var"):
            drawn = torch.rand(tensor.shape, generator=generator) + 0.5
        elif tensor.ndim > 1:
            drawn = normal(tensor.shape, tensor[0].numel() ** -0.5)
        elif name.endswith("weight"):
            drawn = 1 + normal(tensor.shape, 0.2)
        else:
            drawn = normal(tensor.shape, 0.2)
        tensor.copy_(drawn)
    return network.eval()


def levit(seed=0, classes=5):
    """A LeViT of timm, with a distillation head."""
    from timm.models.levit import LevitDistilled

    network = LevitDistilled(
        img_size=64, embed_dim=(32, 48), key_dim=16, num_heads=(2, 3), depth=(1, 1), mlp_ratio=2,
        num_classes=classes,
    )  # fmt: skip
    return randomised(network, seed)


def vit(seed=0, classes=5):
    """A ViT of timm."""
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=classes
    )
    return randomised(network, seed)


def transformers_levit(seed=0, classes=5):
    """A LeViT of transformers, whose residual layers call their inner one ``module``."""
    from transformers import LevitConfig, LevitForImageClassificationWithTeacher

    config = LevitConfig(
        image_size=64, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4], depths=[1, 1, 1],
        key_dim=[16, 16, 16], mlp_ratio=[2, 2, 2], attention_ratio=[2, 2, 2], num_labels=classes,
    )  # fmt: skip
    return randomised(LevitForImageClassificationWithTeacher(config), seed)


def answer(network, pictures):
    """The network's logits in float64."""
    import torch

    with torch.no_grad():
        found = copy.deepcopy(network).double().eval()(torch.from_numpy(pictures).double())
    found = found["logits"] if hasattr(found, "keys") else found
    return found.numpy()


def assert_answers(source, network, seed=0):
    """The model that was read gives the network's logits, and they depend on the picture."""
    config = source.model.config
    rng = np.random.default_rng(seed)
    pictures = standardized(smooth_pictures(rng, 2, config.image_size, config.in_channels))
    expected = answer(network, pictures)
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()
    found = source.model.with_plan(outputs=("logits",)).forward(NumpyOps(), pictures)["logits"]
    assert relative_error(found, expected) < 1e-12
