"""timm's modules in PyTorch: eager, traced as in the paper, and compiled.

On a GPU they run under autocast to float16, as in the paper, and a batch that is passed again
stays on the device, also as in the paper: its speed is the network's and not the bus's. They
have not run on a GPU yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.peer import Peer, data_config
from levit.errors import BackendUnavailableError, brief

__all__ = ["COMPILED", "EAGER", "TRACED", "folded", "open_transform", "runner", "traced"]

# Compiled copies in one process: models × streams.
_MAX_COMPILED: Final = 1000


def _open_eager(job: Job) -> Runner:
    import torch

    return runner(_loaded(job), job, torch.inference_mode)


def _open_traced(job: Job) -> Runner:
    """BatchNorm folded, then ``torch.jit.trace``, as in the paper.

    facebookresearch/LeViT ``speed_test.py`` folds LeViT's and drops the others' norms, whose
    answers it never looks at; here every architecture's are folded, which costs the same.
    """
    return traced(_loaded(job), folded, job)


def _open_compiled(job: Job) -> Runner:
    """``torch.compile`` for the job's batch, weights frozen: from seconds to minutes.

    Raises:
        BackendUnavailableError: PyTorch cannot compile here (it needs a C++ compiler).
    """
    import torch
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    # All models of one class share the code that is compiled: beyond eight of them PyTorch would
    # go on in eager mode, without a word.
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = _MAX_COMPILED
    dynamo.fail_on_recompile_limit_hit = True
    net = _loaded(job)
    inductor.freezing = True
    run = runner(torch.compile(net, dynamic=False), job, torch.no_grad)
    try:
        with warnings.catch_warnings(action="ignore"):
            run(np.zeros((job.batch, 3, *job.image_size), np.float32))
    except Exception as error:
        raise BackendUnavailableError(
            f"torch.compile cannot compile {job.model} ({brief(error)}); is a C++ compiler here?"
        ) from error
    return run


def _loaded(job: Job) -> Any:
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


def traced(net: Any, fold: Callable[[Any, Any], Any], job: Job) -> Runner:
    """A runner of a network that is folded and then traced on a job's batch.

    Args:
        fold: (network, example input) → the network without BatchNorms.
    """
    import torch

    example = torch.zeros(job.batch, 3, *job.image_size, device=next(net.parameters()).device)
    # The tracer is deprecated, and the paper used it.
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        trace = torch.jit.trace(fold(net, example), example)  # type: ignore[no-untyped-call]
    return runner(trace, job, torch.no_grad)


def folded(net: Any, example: Any) -> Any:
    """Fold BatchNorms into the convolutions and linears before them, in place.

    Modules with a ``fuse`` of their own (timm's LeViT) are asked to. Elsewhere a norm is folded
    into the convolution whose output it takes, which one call on `example` tells.

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


def open_transform(job: Job) -> Callable[[Image.Image], NDArray[Any]]:
    """Timm's own transform of a job's model."""
    from timm.data import create_transform  # type: ignore[attr-defined]

    transform = create_transform(**data_config(job))
    return lambda image: transform(image)[None].numpy()


def _eager_script(job: Job) -> str:
    return _script(job, "", "torch.inference_mode()")


def _traced_script(job: Job) -> str:
    # ConViT makes its table of positions in its first call; a trace of that one is refused.
    first = "    net(x)\n" if job.model.startswith("convit_") else ""
    prepare = (
        "from timm.utils import reparameterize_model\n"
        "with torch.no_grad():\n"
        f"{first}"
        "    net = torch.jit.trace(reparameterize_model(net), x)\n"
    )
    return _script(job, prepare, "torch.no_grad()")


def _compiled_script(job: Job) -> str:
    prepare = (
        "import torch._inductor.config\n"
        "torch._inductor.config.freezing = True\n"
        "net = torch.compile(net)\n"
    )
    return _script(job, prepare, "torch.no_grad()")


def _script(job: Job, prepare: str, context: str) -> str:
    """The lines that a user of timm would write.

    Args:
        prepare: lines that turn ``net`` into the function that is called.
        context: expression of the context to call it in.
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


EAGER: Final = Peer(open_runner=_open_eager, open_transform=open_transform, script=_eager_script)
TRACED: Final = Peer(open_runner=_open_traced, open_transform=open_transform, script=_traced_script)
COMPILED: Final = Peer(
    open_runner=_open_compiled, open_transform=open_transform, script=_compiled_script
)
