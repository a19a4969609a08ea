"""``levit doctor``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from levit import __version__
from levit.commands.output import print_json, print_line, print_table
from levit.native.library import load_library
from levit.pictures.resizing import resizer_in_words
from levit.runtime.backends import BACKENDS, Backend
from levit.runtime.cpus import available_cpus, cpu_features, cpu_model, cpu_precisions
from levit.runtime.gpus import Gpu, look_for_gpu
from levit.runtime.obstacle import Obstacle

__all__ = ["run"]

# (import, distribution, what it is for, how to get it)
_PARTS = (
    ("onnx", "onnx", "export", "pip install 'levit[export]'"),
    ("safetensors", "safetensors", "reading checkpoints", "pip install 'levit[export]'"),
    ("huggingface_hub", "huggingface-hub", "published weights", "pip install 'levit[export]'"),
    ("timm", "timm", "--verify source", "pip install 'levit[peers]'"),
    ("transformers", "transformers", "--verify source", "pip install 'levit[peers]'"),
    ("matplotlib", "matplotlib", "bench --png", "pip install 'levit[bench]'"),
    ("torch", "torch", "bench --peers", "pip install 'levit[peers]'"),
    ("openvino", "openvino", "bench --peers", "pip install 'levit[openvino]'"),
    ("nncf", "nncf", "bench --peers", "pip install 'levit[peers]'"),
)


def run(arguments: argparse.Namespace) -> int:
    """Show the backends that are here, and the commands that install the others."""
    features = cpu_features()
    gpu = look_for_gpu()
    values: dict[str, Any] = {
        "levit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_features": list(features),
        "cpu_precisions": {name: list(by) for name, by in cpu_precisions(features).items()},
        "cpus": available_cpus(),
        "cpus_of_the_host": os.cpu_count(),
        "native_isas": _native_isas(),
        "resizing": resizer_in_words(),
        "gpu": _gpu(gpu) if isinstance(gpu, Gpu) else None,
        "gpu_missing": None if isinstance(gpu, Gpu) else gpu.reason,
        "backends": [
            _backend(backend, format_name, device)
            for format_name, backend in BACKENDS.items()
            for device in backend.places
        ],
        "parts": [_part(*part) for part in _PARTS],
    }
    if arguments.json:
        print_json(values)
        return 0
    print_table(
        [
            ["levit", f"{__version__}, Python {values['python']}, {values['platform']}"],
            ["cpu", f"{values['cpu']}: {' '.join(features) or 'no known features'}"],
            ["precisions", _computes(values["cpu_precisions"])],
            ["cpus", f"{values['cpus']} usable of {values['cpus_of_the_host']}"],
            ["gpu", _described(gpu)],
            ["native", _taken(values["native_isas"])],
            ["resizing", values["resizing"]],
        ]
    )
    print_line()
    print_table(
        [
            [
                *(row["name"], row["device"], row["version"] or "missing"),
                *("yes" if row["usable"] else "no", row["reason"], row["advice"]),
            ]
            for row in values["backends"]
        ],
        header=["backend", "device", "version", "usable", "why not", "what to do"],
    )
    print_line()
    print_table(
        [
            [part["name"], part["version"] or "missing", part["purpose"], part["advice"]]
            for part in values["parts"]
        ],
        header=["part", "version", "for", "to get it"],
    )
    return 0


def _backend(backend: Backend, format_name: str, device: str) -> dict[str, Any]:
    obstacle = backend.obstacle(device)
    return {
        "name": backend.name,
        "format": format_name,
        "device": device,
        "version": backend.version,
        "usable": obstacle is None,
        "reason": "" if obstacle is None else obstacle.reason,
        "advice": "" if obstacle is None else obstacle.remedy,
        "install": backend.places[device].install,
    }


def _native_isas() -> list[str]:
    """List the instruction sets that levit's own engine has here, first the one that it takes."""
    if BACKENDS["native"].obstacle("cpu") is not None:
        return []
    library = load_library()
    isa = library.chosen_isa()
    return [isa, *(other for other in library.isas if other != isa)]


def _part(module: str, distribution: str, purpose: str, install: str) -> dict[str, Any]:
    version = None
    if importlib.util.find_spec(module) is not None:
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            version = "present"
    return {
        "name": distribution,
        "version": version,
        "usable": version is not None,
        "purpose": purpose,
        "advice": "" if version else install,
    }


def _computes(precisions: Mapping[str, Sequence[str]]) -> str:
    """``fp32; bf16 by avx512_bf16; fp16 not (converted to fp32)``, in this order."""
    parts = [
        f"{name} by {' '.join(by)}" if by else f"{name} only converted"
        for name, by in precisions.items()
    ]
    return "; ".join(["fp32", *parts])


def _taken(isas: Sequence[str]) -> str:
    """``avx512; avx2, portable would run too``."""
    if not isas:
        return "not usable, see below"
    isa, *others = isas
    return f"{isa}; {', '.join(others)} would run too" if others else isa


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "architecture": gpu.architecture,
        "memory_bytes": gpu.memory_bytes,
        "driver_version": gpu.driver_version,
        "cuda_version": "{}.{}".format(*gpu.cuda_version),
    }


def _described(gpu: Gpu | Obstacle) -> str:
    if isinstance(gpu, Obstacle):
        return gpu.reason
    return (
        f"{gpu.name}: {gpu.architecture}, {gpu.memory_bytes / 2**30:.0f} GiB, driver "
        f"{gpu.driver_version or 'of unknown version'}, for CUDA up to "
        f"{'{}.{}'.format(*gpu.cuda_version)}"
    )
