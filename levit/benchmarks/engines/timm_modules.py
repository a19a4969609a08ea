"""What the engines on timm's modules share: weights, folding, and the two kinds of runner.

On a GPU they run under autocast to float16, as in the paper, and a batch that is passed again
stays on the device, also as in the paper: its speed is the network's and not the bus's. They
have not run on a GPU yet.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit.benchmarks.engines import ImageRunner, Job, Runner
from levit.errors import BackendUnavailableError

__all__ = ["folded", "image_runner", "load_module", "quiet", "runner", "script"]


def load_module(job: Job) -> Any:
    """The network with the prepared weights, in eval mode on the job's device.

    Sets PyTorch's threads, for the whole process.

    Raises:
        BackendUnavailableError: the device is not here.
    """
    import torch

    from levit.benchmarks.peer_making import load_network

    if job.device == "gpu" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "PyTorch finds no CUDA device; use --device cpu, or install a PyTorch with CUDA"
        )
    torch.set_num_threads(job.threads)
    net = load_network(job.model, job.files)
    return net.to("cuda") if job.device == "gpu" else net


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of what is deprecated: the tracer is, and the paper used it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def folded(net: Any, example: Any) -> Any:
    """The module with its BatchNorms in the convolutions and linears before them, in place.

    What has a ``fuse`` of its own (timm's LeViT) is asked to. Elsewhere a norm is folded into
    the convolution whose output it takes, which one call on `example` tells.

    Args:
        example: an input, (N, 3, H, W).
    """
    import torch
    from timm.utils import reparameterize_model  # type: ignore[attr-defined]
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    net = reparameterize_model(net, inplace=True)
    made_by: dict[int, Any] = {}
    kept: list[Any] = []  # so that no two outputs share an id
    pairs: list[tuple[Any, Any]] = []

    def remember(conv: Any, inputs: Any, output: Any) -> None:
        made_by[id(output)] = conv
        kept.append(output)

    def match(norm: Any, inputs: Any) -> None:
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], norm))

    hooks = [m.register_forward_hook(remember) for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks += [norm.register_forward_pre_hook(match) for norm in norms]
    with torch.no_grad():
        net(example)
    for hook in hooks:
        hook.remove()
    replaced: dict[Any, Any] = {}
    for conv, norm in pairs:
        replaced[conv] = fuse_conv_bn_eval(conv, norm)
        # timm's norms may have the activation in them.
        replaced[norm] = norm.act if hasattr(norm, "act") else nn.Identity()
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if child in replaced:
                setattr(parent, name, replaced[child])
    return net


def runner(module: Any, job: Job, context: Any) -> Runner:
    """Batches through a module or traced function.

    Args:
        context: a function that returns the context to call it in, such as ``torch.no_grad``.
    """
    import torch

    if job.device == "cpu":

        def run(x: NDArray[Any]) -> NDArray[Any]:
            with context():
                answer: NDArray[Any] = module(torch.from_numpy(x)).numpy()
            return answer

        return run

    held: tuple[NDArray[Any] | None, Any] = (None, None)

    def run_on_gpu(x: NDArray[Any]) -> NDArray[Any]:
        nonlocal held
        if held[0] is not x:
            held = (x, torch.from_numpy(x).to("cuda"))
        with context(), torch.autocast("cuda", dtype=torch.float16):
            answer = module(held[1])
        torch.cuda.synchronize()
        found: NDArray[Any] = answer.float().cpu().numpy()
        return found

    return run_on_gpu


def image_runner(run: Runner, job: Job) -> ImageRunner:
    """JPEGs through timm's own transform and a runner of one image."""
    from timm.data import create_transform  # type: ignore[attr-defined]

    transform = create_transform(**_data_config(job))

    def run_image(data: bytes) -> tuple[int, Mapping[str, int]]:
        started = time.perf_counter_ns()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        decoded = time.perf_counter_ns()
        x = transform(image)[None].numpy()
        resized = time.perf_counter_ns()
        index = int(np.argmax(run(x)[0]))
        ended = time.perf_counter_ns()
        stages = {"decode": decoded - started, "resize": resized - decoded}
        return index, stages | {"infer": ended - resized}

    return run_image


def script(job: Job, prepare: str = "", context: str = "torch.inference_mode()") -> str:
    """What a user of timm would write, to the first top-1 of the JPEG in ``sys.argv[1]``.

    Args:
        prepare: lines that turn ``net`` into what is called.
        context: what it is called in.
    """
    weights = str(job.files / "weights.safetensors")
    move = '.to("cuda")' if job.device == "gpu" else ""
    cast = ', torch.autocast("cuda", dtype=torch.float16)' if job.device == "gpu" else ""
    height, width = job.image_size
    return f"""\
import sys

import timm
import torch
from PIL import Image

torch.set_num_threads({job.threads})
net = timm.create_model({job.model!r}, checkpoint_path={weights!r}).eval(){move}
config = timm.data.resolve_model_data_config(net) | {{"input_size": (3, {height}, {width})}}
transform = timm.data.create_transform(**config)
x = transform(Image.open(sys.argv[1]).convert("RGB"))[None]{move}
{prepare}with {context}{cast}:
    print(net(x)[0].argmax().item())
"""


def _data_config(job: Job) -> dict[str, Any]:
    text = (job.files / "preprocess.json").read_text(encoding="utf-8")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
