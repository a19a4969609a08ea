import numpy as np
import pytest

from levit.models.counting import count
from levit.models.random_weights import flatten
from levit.models.registry import FAMILIES

LEVIT = FAMILIES["levit"]

# The paper's table 3 gives 305, 406, 658, 1120 and 2353 M; the model cards the parameters.
PUBLISHED = {
    "128s": (304.7, 7.78),
    "128": (405.3, 9.21),
    "192": (657.0, 10.95),
    "256": (1127.3, 18.89),
    "384": (2351.8, 39.13),
}


@pytest.mark.parametrize("form", ["levit_", "levit_conv_"])
@pytest.mark.parametrize("size", PUBLISHED)
def test_macs_and_parameters_of_the_published_variants(form, size):
    macs, parameters = PUBLISHED[size]
    found = count(LEVIT, LEVIT.variants[form + size].config)
    assert found.macs / 1e6 == pytest.approx(macs, abs=0.05)
    assert found.parameters / 1e6 == pytest.approx(parameters, rel=0.01)


def test_the_twin_has_the_same_counts():
    for name, variant in LEVIT.variants.items():
        if "conv" not in name:
            twin = LEVIT.variants[name.replace("levit_", "levit_conv_")]
            assert count(LEVIT, variant.config) == count(LEVIT, twin.config)


@pytest.mark.peers
@pytest.mark.parametrize("name", LEVIT.variants)
def test_parameters_are_timms(name):
    import timm
    import torch

    with torch.device("meta"):
        network = timm.create_model(name)
    expected = sum(parameter.numel() for parameter in network.parameters())
    assert count(LEVIT, LEVIT.variants[name].config).parameters == expected


def test_parameters_are_the_tensors_without_statistics(small):
    tensors = flatten(small, small.family.keymaps[0])
    expected = sum(v.size for k, v in tensors.items() if "running_" not in k)
    assert count(LEVIT, small.config).parameters == expected


def test_macs_by_hand(small_configs):
    # One stage of 3x5 tokens, two blocks: written out.
    config = small_configs["one_stage"]
    tokens, width, heads, key, value, hidden = 15, 32, 3, 8, 16, 64
    sizes = [(24, 40), (12, 20), (6, 10), (3, 5)]
    stem = sum(
        np.prod(size) * out * inputs * 9
        for size, inputs, out in zip(sizes, (3, 4, 8, 16), (4, 8, 16, 32), strict=True)
    )
    projections = tokens * width * heads * (2 * key + value) + tokens * heads * value * width
    attention = heads * tokens * tokens * (key + value)
    mlp = 2 * tokens * width * hidden
    head = 2 * width * config.num_classes
    assert count(LEVIT, config).macs == stem + 2 * (projections + attention + mlp) + head
