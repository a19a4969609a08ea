"""timm's module as it is, in PyTorch's eager mode."""

from __future__ import annotations

from dataclasses import replace

from levit.benchmarks.engines import ImageRunner, Job, Runner, timm_modules

__all__ = ["open_image_runner", "open_runner", "script"]


def open_runner(job: Job) -> Runner:
    import torch

    return timm_modules.runner(timm_modules.load_module(job), job, torch.inference_mode)


def open_image_runner(job: Job) -> ImageRunner:
    job = replace(job, batch=1)
    return timm_modules.image_runner(open_runner(job), job)


def script(job: Job) -> str:
    return timm_modules.script(job)
