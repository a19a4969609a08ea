"""timm's networks with random weights on which a comparison means something.

Models that this package compiles get the weights of ``levit export --random-weights SEED``,
tensor for tensor. The other architectures are conditioned in the same way, for the reasons in
`levit.models.random_weights`: weights of unit gain, small last layers in residual branches,
BatchNorm statistics taken from smooth pictures layer after layer, and another draw where the
network is deaf or chaotic all the same.

PyTorch and timm (extra ``peers``) are imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import ConfigError, ExportError
from levit.models.model import Family
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import MIN_SPREAD, flatten, random_model
from levit.models.registry import FAMILIES

__all__ = ["compiled", "conditioning", "network", "random_network"]

MAX_FLOAT32_ERROR: Final = 1e-4
_ATTEMPTS: Final = 8
_PICTURES: Final = 8
# Deviation of a residual branch's output against a stream of about 1, as in our own.
_BRANCH: Final = 0.15


def compiled(model: str) -> tuple[Family, Any] | None:
    """The family and the config of a model that this package compiles; None for another."""
    for family in FAMILIES.values():
        if model in family.variants:
            return family, family.variants[model].config
    return None


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
        state = {name: torch.from_numpy(a) for name, a in _random_state(*ours, seed).items()}
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
        if spread >= MIN_SPREAD and error <= MAX_FLOAT32_ERROR:
            return net
    raise ExportError(
        f"no random weights of seed {seed} make {model} fit to compare (the last draw: spread "
        f"{spread:.3f}, float32 error {error:.1e}); try another seed"
    )


def _random_state(family: Family, config: Any, seed: int) -> dict[str, NDArray[Any]]:
    """Random weights under timm's names, as ``levit export`` draws them."""
    return flatten(random_model(family, config, seed), family.keymap_for(config))


def conditioning(net: Any, inputs: Any) -> tuple[float, float]:
    """(spread between inputs, float32 error), both as a fraction of the largest logit.

    Args:
        inputs: (N, 3, H, W) float32 tensor, N at least 2.
    """
    import copy

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

    branch_ends = _branch_ends(net)
    filled = set()
    for name, module in net.named_modules():
        gain = _BRANCH if name in branch_ends else 1.0
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = rng.standard_normal(tuple(module.weight.shape), np.float32)
            _fill(module.weight, weight * (gain / np.sqrt(weight[0].size)))
            if module.bias is not None:
                _fill(module.bias, gain * rng.normal(0, 0.1, len(module.bias)))
        elif isinstance(module, nn.BatchNorm2d):
            _fill(module.weight, gain * rng.uniform(0.7, 1.3, len(module.weight)))
            _fill(module.bias, gain * rng.normal(0, 0.2, len(module.bias)))
        else:
            continue
        filled |= {f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)}
    for name, _ in net.named_parameters():
        if name not in filled:
            raise ExportError(f"{name}: no rule draws random weights for a parameter of that kind")


def _branch_ends(net: Any) -> set[str]:
    """Names of the norms that a residual branch ends with."""
    ends = set()
    for name, module in net.named_modules():
        kind = type(module).__name__
        if kind in ("Bottleneck", "InvertedResidual") and getattr(module, "has_skip", True):
            ends.add(f"{name}.bn3")
        elif kind == "DepthwiseSeparableConv" and module.has_skip:
            ends.add(f"{name}.bn2")
    return ends


def _calibrate(net: Any, inputs: Any) -> None:
    """Set every BatchNorm's statistics to its inputs', layer after layer."""
    import torch
    from torch import nn

    def set_statistics(norm: Any, arguments: tuple[Any, ...]) -> None:
        (x,) = arguments  # (N, C, H, W)
        mean, spread = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        # A channel that hardly varies would have its rounding errors blown up to size one.
        floor = spread.mean() + 0.3 * mean.square().mean() + 1e-6
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(torch.maximum(spread, floor))

    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    net(inputs)
    for hook in hooks:
        hook.remove()


def _fill(parameter: Any, values: NDArray[Any]) -> None:
    import torch

    parameter.copy_(torch.from_numpy(np.asarray(values, np.float32)))


def state_of(net: Any) -> Mapping[str, NDArray[Any]]:
    """The network's tensors under timm's names."""
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}
