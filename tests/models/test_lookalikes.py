"""What a foreign checkpoint looks like, asked of the real models' own names."""

import pytest

from levit.models.lookalikes import looks_like
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES

LEVIT = FAMILIES["levit"]

TIMM = {
    "convit_tiny": "a ConViT",
    "deit_tiny_distilled_patch16_224": "a distilled DeiT",
    "deit_tiny_patch16_224": "a plain vision transformer",
    "vit_small_patch14_dinov2": "a plain vision transformer",
    "beit_base_patch16_224": "a plain vision transformer",
    "cait_xxs24_224": "a CaiT",
    "swin_tiny_patch4_window7_224": "a Swin Transformer",
    "tiny_vit_5m_224": "a TinyViT",
    "efficientformer_l1": "a TinyViT, EfficientViT or EfficientFormer",
    "convnext_atto": "a ConvNeXt",
    "efficientnet_b0": "a MobileNet or EfficientNet",
    "mobilenetv3_small_050": "a MobileNet or EfficientNet",
    "resnet18": "a ResNet",
    "densenet121": "a DenseNet",
    "vgg11": "a VGG",
    "mixer_s32_224": "an MLP-Mixer",
}
TORCHVISION = {
    "resnet18": "a ResNet",
    "vgg11": "a VGG",
    "mobilenet_v2": "a MobileNet or EfficientNet",
    "efficientnet_b0": "a MobileNet or EfficientNet",
    "vit_b_16": "a ViT of torchvision",
    "swin_t": "a Swin Transformer",
    "convnext_tiny": None,
}
TRANSFORMERS = {
    ("ViTConfig", "ViTForImageClassification"): "a plain vision transformer",
    ("DeiTConfig", "DeiTForImageClassificationWithTeacher"): "a distilled DeiT",
    ("SwinConfig", "SwinModel"): "a Swin Transformer",
    ("BertConfig", "BertModel"): "a language model",
    ("ResNetConfig", "ResNetForImageClassification"): "a ResNet",
    ("ConvNextConfig", "ConvNextModel"): "a ConvNeXt",
    ("CLIPConfig", "CLIPModel"): "a CLIP model",
}


def shapes_of(make):
    import torch

    with torch.device("meta"):  # names and shapes, no numbers
        state = make().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def assert_like(shapes, words):
    found = looks_like(shapes)
    assert found is None if words is None else (found or "").startswith(words), found


@pytest.mark.peers
@pytest.mark.parametrize(("name", "words"), TIMM.items())
def test_models_of_timm(name, words):
    import timm

    assert_like(shapes_of(lambda: timm.create_model(name)), words)


@pytest.mark.peers
@pytest.mark.parametrize(("name", "words"), TORCHVISION.items())
def test_models_of_torchvision(name, words):
    from torchvision import models

    assert_like(shapes_of(getattr(models, name)), words)


@pytest.mark.peers
@pytest.mark.parametrize(("classes", "words"), TRANSFORMERS.items(), ids=lambda x: x[-1])
def test_models_of_transformers(classes, words):
    import transformers

    config, model = (getattr(transformers, name) for name in classes)
    assert_like(shapes_of(lambda: model(config())), words)


@pytest.mark.peers
def test_a_levit_whose_norms_are_folded_is_told():
    import timm
    from timm.utils import reparameterize_model

    shapes = shapes_of(lambda: reparameterize_model(timm.create_model("levit_128s")))
    assert_like(shapes, "a LeViT whose BatchNorms are folded already")


@pytest.mark.parametrize("keymap", LEVIT.keymaps, ids=lambda k: f"{k.source}-{k.prefix}{k.conv}")
def test_a_levit_in_no_known_order_is_not_called_another_model(small_configs, keymap, seed):
    config = small_configs["conv" if keymap.conv else "tiny"]
    state = flatten(random_model(LEVIT, config, seed), keymap)
    shapes = {f"my_model.{name}": tensor.shape for name, tensor in state.items()}
    found = looks_like(shapes)
    assert found is None or "LeViT" in found


def test_nothing_known_is_nothing_said():
    assert looks_like({"some.thing": (3,)}) is None
