"""The paper's way: BatchNorm folded, then ``torch.jit.trace``.

facebookresearch/LeViT ``speed_test.py`` folds LeViT's and drops the others' norms, whose answers
it never looks at; here every architecture's are folded, which costs the same.
"""

from __future__ import annotations

from dataclasses import replace

from levit.benchmarks.engines import ImageRunner, Job, Runner, timm_modules

__all__ = ["open_image_runner", "open_runner", "script"]


def open_runner(job: Job) -> Runner:
    import torch

    net = timm_modules.load_module(job)
    example = torch.zeros(job.batch, 3, *job.image_size, device=next(net.parameters()).device)
    with timm_modules.quiet(), torch.no_grad():
        net = timm_modules.folded(net, example)
        traced = torch.jit.trace(net, example)  # type: ignore[no-untyped-call]
    return timm_modules.runner(traced, job, torch.no_grad)


def open_image_runner(job: Job) -> ImageRunner:
    job = replace(job, batch=1)
    return timm_modules.image_runner(open_runner(job), job)


def script(job: Job) -> str:
    # ConViT makes its table of positions in its first call; a trace of that one is refused.
    first = "    net(x)\n" if job.model.startswith("convit_") else ""
    prepare = (
        "from timm.utils import reparameterize_model\n"
        "with torch.no_grad():\n"
        f"{first}"
        "    net = torch.jit.trace(reparameterize_model(net), x)\n"
    )
    return timm_modules.script(job, prepare, "torch.no_grad()")
