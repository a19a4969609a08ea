"""Makers of the peers' files, all of which need the extra ``peers``.

Nothing is downloaded, and OpenVINO's telemetry stays off: networks have the random weights of
`levit.benchmarks.peer_weights`. Architectures that we do not compile are exported as timm fuses
them for deployment (``reparameterize_model``: FastViT and RepViT train with branches that they
are not meant to run with; where timm has nothing to fuse, nothing changes). Ours are exported as
timm has them: what our export does to them is what is measured.

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

from levit.benchmarks.peer_weights import compiled, conditioning, network, random_network
from levit.errors import ConfigError, ExportError, LevitError, brief
from levit.models.counting import count
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import MAX_FLOAT32_ERROR, MIN_SPREAD
from levit.runtime.openvino_module import import_openvino, openvino_core

__all__ = [
    "calibration_batches",
    "load_network",
    "make_int8",
    "make_onnx",
    "make_openvino",
    "make_weights",
    "third_party",
]

# On some pictures a random network's float32 is wrong by 1e-4: not on the reference's.
_DRAWS: Final = 24
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


def make_onnx(model: str, net: Any, image_size: tuple[int, int], path: Path) -> None:
    """Export the module by PyTorch's own exporter, with a dynamic batch.

    Args:
        model: its name; one that we do not compile is fused first, as timm does it.
    """
    import torch
    from timm.utils import reparameterize_model  # type: ignore[attr-defined]

    if compiled(model) is None:
        net = reparameterize_model(net)
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
