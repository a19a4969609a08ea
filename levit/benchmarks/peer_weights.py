"""Random weights of the peers' networks, on which a comparison of answers means something.

Models that this package compiles get the weights of ``levit export --random-weights SEED``,
tensor for tensor. Other architectures of timm are conditioned in the same way, for the reasons
in `levit.models.random_weights`: weights of unit gain, small last layers in residual branches,
norm statistics taken from smooth pictures layer after layer, and another draw where the network
is deaf or chaotic all the same. All of this needs the extra ``peers``.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import ConfigError, ExportError
from levit.models.model import Family
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import MIN_SPREAD, flatten, random_model
from levit.models.registry import FAMILIES

__all__ = ["compiled", "conditioning", "network", "random_network"]

_MAX_DRAWN_ERROR: Final = 1e-4
_ATTEMPTS: Final = 8
_PICTURES: Final = 8
# Deviation of a residual branch's output against a stream of about 1, as in our own.
_BRANCH: Final = 0.15

# Class of timm's with a residual branch → the part of it whose last norm the branch ends with.
_BRANCHES: Final = {
    "Bottleneck": "bn3",
    "InvertedResidual": "bn3",
    "DepthwiseSeparableConv": "bn2",
    # MobileNetV4
    "UniversalInvertedResidual": "pw_proj",
    "EdgeResidual": "bn2",
    # RepViT
    "RepVggDw": "conv",
    "RepVitMlp": "conv2",
    # EfficientViT: Microsoft's, MIT's
    "ResidualDrop": "m",
    "ResidualBlock": "main",
    # HGNetV2
    "HighPerfGpuBlock": "aggregation",
}
# Attributes of such a class that say whether the branch is added to its input.
_SKIPS: Final = ("has_skip", "residual", "shortcut")


def compiled(model: str) -> tuple[Family, Any] | None:
    """The family and the config of a model that this package compiles; None for another."""
    found = ((f, f.variants[model].config) for f in FAMILIES.values() if model in f.variants)
    return next(found, None)


def network(model: str) -> Any:
    """The module of timm of that name, untrained, ready to infer.

    Raises:
        ConfigError: timm has none of that name.
    """
    import timm

    if not timm.is_model(model):
        raise ConfigError(
            f"timm has no model {model!r}; see: python -c 'import timm; timm.list_models()'"
        )
    return timm.create_model(model, pretrained=False).eval()


def random_network(model: str, image_size: tuple[int, int], seed: int) -> Any:
    """A module of timm with random weights fit to compare, in eval mode on the CPU.

    Raises:
        ConfigError: timm has none of that name.
        ExportError: its layers are of a kind that cannot be conditioned, or no draw was fit.
    """
    import torch

    if ours := compiled(model):
        net = network(model)
        family, config = ours
        arrays = flatten(random_model(family, config, seed), family.keymap_for(config))
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        # timm saves no indices into tables of biases or positions; all else has to be there.
        net.load_state_dict(state, strict=True)
        return net
    spread = error = 0.0
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        net = network(model)
        inputs = torch.from_numpy(standardized(smooth_pictures(rng, _PICTURES, image_size)))
        with torch.no_grad():
            _randomize(net, rng)
            _calibrate(net, inputs)
        spread, error = conditioning(net, inputs[:2])
        if spread >= MIN_SPREAD and error <= _MAX_DRAWN_ERROR:
            return net
    raise ExportError(
        f"no random weights of seed {seed} make {model} fit to compare (the last draw: spread "
        f"{spread:.3f}, float32 error {error:.1e}); try another seed"
    )


def conditioning(net: Any, inputs: Any) -> tuple[float, float]:
    """(spread between inputs, float32 error), both as a fraction of the largest logit.

    Args:
        inputs: (N, 3, H, W) float32 tensor, N at least 2.
    """
    import torch

    with torch.no_grad():
        exact = copy.deepcopy(net).double()(inputs.double())
        single = net(inputs).double()
    largest = exact.abs().max()
    spread = (exact.amax(0) - exact.amin(0)).max() / largest
    return float(spread), float((single - exact).abs().max() / largest)


def _randomize(net: Any, rng: np.random.Generator) -> None:
    """Fill every parameter in place."""
    from torch import nn

    ends = _branch_ends(net)
    filled = set()
    for name, module in net.named_modules():
        gain = _BRANCH if name in ends else 1.0
        kind = type(module).__name__
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = rng.standard_normal(tuple(module.weight.shape), np.float32)
            _fill(module.weight, weight * (gain / np.sqrt(weight[0].size)))
            if module.bias is not None:
                _fill(module.bias, gain * rng.normal(0, 0.1, len(module.bias)))
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
            _fill(module.weight, gain * rng.uniform(0.7, 1.3, len(module.weight)))
            _fill(module.bias, gain * rng.normal(0, 0.2, len(module.bias)))
        elif kind == "LayerScale2d":  # the last layer of a branch
            _fill(module.gamma, _BRANCH * rng.uniform(0.7, 1.3, tuple(module.gamma.shape)))
        elif kind == "LearnableAffineBlock":
            _fill(module.scale, rng.uniform(0.7, 1.3, 1))
            _fill(module.bias, rng.normal(0, 0.2, 1))
        elif kind == "CascadedGroupAttention":
            table = module.attention_biases
            _fill(table, rng.standard_normal(tuple(table.shape)))
        else:
            continue
        filled |= {f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)}
    for name, _ in net.named_parameters():
        if name not in filled:
            raise ExportError(f"{name}: no rule draws random weights for a parameter of that kind")


def _branch_ends(net: Any) -> set[str]:
    """Names of the layers that a residual branch ends with, norms but for one kind."""
    from torch import nn

    ends = set()
    for name, module in net.named_modules():
        part = _BRANCHES.get(type(module).__name__)
        if part is None or not all(getattr(module, key, True) for key in _SKIPS):
            continue
        norms = [
            inner
            for inner, child in module.named_modules()
            if f"{inner}.".startswith(f"{part}.") and isinstance(child, nn.BatchNorm2d)
        ]
        ends |= {f"{name}.{inner}" for inner in norms[-1:]}
        if type(module).__name__ == "RepVggDw":  # two branches beside its input
            ends.add(f"{name}.conv1")
    return ends


def _calibrate(net: Any, inputs: Any) -> None:
    """Set every BatchNorm's statistics to its inputs', layer after layer."""
    import torch
    from torch import nn

    def set_statistics(norm: Any, arguments: tuple[Any, ...]) -> None:
        (x,) = arguments  # (N, C, H, W) or (N, C)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean, spread = x.mean(axes), x.var(axes, unbiased=False)
        # A channel that hardly varies would have its rounding errors blown up to size one.
        floor = spread.mean() + 0.3 * mean.square().mean() + 1e-6
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(torch.maximum(spread, floor))

    norms = [m for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    net(inputs)
    for hook in hooks:
        hook.remove()


def _fill(parameter: Any, values: NDArray[Any]) -> None:
    import torch

    parameter.copy_(torch.from_numpy(np.asarray(values, np.float32)))
