"""timm's module through ``torch.compile`` with its weights frozen into the code."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from levit.benchmarks.engines import ImageRunner, Job, Runner, timm_modules
from levit.errors import BackendUnavailableError, brief

__all__ = ["open_image_runner", "open_runner", "script"]

# Compiled copies in one process: models × streams.
_MOST: Final = 1000


def open_runner(job: Job) -> Runner:
    """Compile for the job's batch, which takes from seconds to minutes.

    Raises:
        BackendUnavailableError: PyTorch cannot compile here (it needs a C++ compiler).
    """
    import torch
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    # All models of one class share the code that is compiled: beyond eight of them PyTorch would
    # go on in eager mode, without a word.
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = _MOST
    dynamo.fail_on_recompile_limit_hit = True
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
