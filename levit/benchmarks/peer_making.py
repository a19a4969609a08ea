"""Makers of the peers' files, all of which need the extra ``peers``.

Nothing is downloaded, and OpenVINO's telemetry stays off: networks have random weights, on which
a comparison means something. Models that this package compiles get the weights of ``levit export
--random-weights SEED``, tensor for tensor. The other architectures are conditioned in the same
way, for the reasons in `levit.models.random_weights`: weights of unit gain, small last layers in
residual branches, BatchNorm statistics taken from smooth pictures layer after layer, and another
draw where the network is deaf or chaotic all the same.

PyTorch and timm are imported when a function is called.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import ConfigError, ExportError, LevitError, brief
from levit.models.counting import count
from levit.models.model import Family
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import MAX_FLOAT32_ERROR, MIN_SPREAD, flatten, random_model
from levit.models.registry import FAMILIES
from levit.runtime.openvino_module import import_openvino, openvino_core

__all__ = [
    "calibration_batches",
    "compiled",
    "load_network",
    "make_int8",
    "make_onnx",
    "make_openvino",
    "make_weights",
    "third_party",
]

# On some pictures a random network's float32 is wrong by 1e-4: not on the reference's.
_DRAWS: Final = 24
_MAX_DRAWN_ERROR: Final = 1e-4
_ATTEMPTS: Final = 8
_PICTURES: Final = 8
# Deviation of a residual branch's output against a stream of about 1, as in our own.
_BRANCH: Final = 0.15

# NNCF's default is 300 items: speed does not depend on them. By default it takes the mean of the
# largest value of each item, which cuts off the stronger half of single smooth pictures: levit_128s
# was up to 0.65 of its largest logit off, with four in a batch 0.36. With more, EfficientNet loses
# while LeViT still gains.
_BATCHES: Final = 16
_BATCH: Final = 4


@contextlib.contextmanager
def third_party(doing: str) -> Iterator[None]:
    """Turn errors of other libraries into one line of ours, and drop all that they print."""
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    except (LevitError, OSError):
        raise
    except ImportError as error:
        raise ConfigError(f"{doing}: {brief(error)}; pip install 'levit[peers]'") from error
    except Exception as error:
        kind = type(error).__name__
        raise ExportError(f"{doing} cannot be made ({kind}: {brief(error)})") from error


def make_weights(model: str, image_size: tuple[int, int], seed: int, folder: Path) -> Any:
    """Write weights, reference, counts and preprocessing into `folder`; the network itself."""
    import safetensors.numpy
    import timm

    net = random_network(model, image_size, seed)
    state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    safetensors.numpy.save_file(state, folder / "weights.safetensors")
    inputs, logits = _reference(net, image_size, seed)
    np.savez(folder / "reference.npz", input=inputs, logits=logits)
    resolve: Any = timm.data.resolve_model_data_config  # type: ignore[attr-defined]
    config = resolve(net) | {"input_size": (3, *image_size)}
    for name, content in (("counts", _counts(model, net, inputs[:1])), ("preprocess", config)):
        (folder / f"{name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    return net


def load_network(model: str, folder: Path) -> Any:
    """Load the network that `make_weights` has written."""
    import safetensors.torch

    net = network(model)
    net.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"), strict=True)
    return net


def make_onnx(net: Any, image_size: tuple[int, int], path: Path) -> None:
    """Export the module by PyTorch's own exporter, with a dynamic batch."""
    import torch

    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.onnx.export(
        net,
        (torch.zeros(2, 3, *image_size),),
        str(path),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        verbose=False,
        external_data=True,
    )


def make_openvino(onnx: Path, path: Path) -> None:
    """Convert to OpenVINO's own format, weights as they were (by default they become float16)."""
    openvino = import_openvino()
    openvino.save_model(openvino_core().read_model(onnx), path, compress_to_fp16=False)


def calibration_batches(seed: int, image_size: tuple[int, int]) -> list[NDArray[np.float32]]:
    """16 batches of smooth pictures, (4, 3, H, W) each, that calibrate every quantizer of a run."""
    rng = np.random.default_rng([seed, 1])
    return [standardized(smooth_pictures(rng, _BATCH, image_size)) for _ in range(_BATCHES)]


def make_int8(naive: Path, image_size: tuple[int, int], seed: int, path: Path) -> None:
    """Quantize as ``nncf.quantize`` does by default, calibrated with smooth pictures."""
    openvino = import_openvino()
    import nncf

    dataset = nncf.Dataset(calibration_batches(seed, image_size))
    model = openvino_core().read_model(naive)
    quantized = nncf.quantize(model, dataset, subset_size=_BATCHES)
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _reference(
    net: Any, image_size: tuple[int, int], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Two pictures that the network tells apart and float32 computes well, and its answers."""
    import torch

    rng = np.random.default_rng([seed, 2])
    exact = copy.deepcopy(net).double()
    for _ in range(_DRAWS):
        inputs = standardized(smooth_pictures(rng, 2, image_size))
        spread, error = conditioning(net, torch.from_numpy(inputs))
        if spread >= MIN_SPREAD and error <= MAX_FLOAT32_ERROR:
            with torch.no_grad():
                logits = exact(torch.from_numpy(inputs).double())
            return inputs, logits.numpy()
    raise ExportError(
        f"no two pictures make the network fit to compare (the last: spread {spread:.3f}, float32 "
        f"error {error:.1e}); try another seed"
    )


def _counts(model: str, net: Any, image: NDArray[np.float32]) -> dict[str, int]:
    """Multiply-accumulates of one image, and learnable values."""
    if ours := compiled(model):
        counts = count(*ours)
        return {"macs": counts.macs, "parameters": counts.parameters}
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.from_numpy(image))
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return {"macs": counter.get_total_flops() // 2, "parameters": parameters}


# ---------------------------------------------------------------------------- random weights


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
