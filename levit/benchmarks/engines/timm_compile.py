"""timm's module through ``torch.compile`` with its weights frozen into the code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from levit.benchmarks.engines import ImageRunner, Job, Runner, timm_modules
from levit.errors import BackendUnavailableError, brief

__all__ = ["open_image_runner", "open_runner", "script"]


def open_runner(job: Job) -> Runner:
    """Compile for the job's batch, which takes from seconds to minutes.

    Raises:
        BackendUnavailableError: PyTorch cannot compile here (it needs a C++ compiler).
    """
    import torch
    import torch._inductor.config as inductor

    net = timm_modules.load_module(job)
    inductor.freezing = True
    run = timm_modules.runner(torch.compile(net, dynamic=False), job, torch.no_grad)
    try:
        with timm_modules.quiet():
            run(np.zeros((job.batch, 3, *job.image_size), np.float32))
    except Exception as error:
        raise BackendUnavailableError(
            f"torch.compile cannot compile {job.model} ({brief(error)}); is a C++ compiler here?"
        ) from error
    return run


def open_image_runner(job: Job) -> ImageRunner:
    job = replace(job, batch=1)
    return timm_modules.image_runner(open_runner(job), job)


def script(job: Job) -> str:
    prepare = (
        "import torch._inductor.config\n"
        "torch._inductor.config.freezing = True\n"
        "net = torch.compile(net)\n"
    )
    return timm_modules.script(job, prepare, "torch.no_grad()")
