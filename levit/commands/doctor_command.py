"""``levit doctor``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
from importlib import metadata
from typing import Any

from levit import __version__
from levit.commands.output import print_json, print_table
from levit.runtime.backends import BACKENDS
from levit.runtime.cpus import available_cpus, cpu_features, cpu_model

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
    """What is here, and the command that brings what is not."""
    backends = [
        _part(b.name, b.module, b.distribution, "runs artifacts", b.install)
        for b in BACKENDS.values()
    ]
    parts = [_part(name, *rest) for name, *rest in ((p[1], *p) for p in _PARTS)]
    values: dict[str, Any] = {
        "levit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        "cpus": available_cpus(),
        "cpus_of_the_host": os.cpu_count(),
        "gpu": _gpu(),
        "backends": backends,
        "parts": parts,
    }
    if arguments.json:
        print_json(values)
        return 0
    print_table(
        [
            ["levit", f"{__version__}, Python {values['python']}, {values['platform']}"],
            ["cpu", f"{values['cpu']}: {' '.join(cpu_features()) or 'no known features'}"],
            ["cpus", f"{values['cpus']} usable of {values['cpus_of_the_host']}"],
            ["gpu", values["gpu"] or "none found (artifacts of this release run on the CPU)"],
        ]
    )
    print()
    print_table(
        [
            [part["name"], part["version"] or "missing", part["purpose"], part["advice"]]
            for part in (*backends, *parts)
        ],
        header=["part", "version", "for", "to get it"],
    )
    return 0


def _part(name: str, module: str, distribution: str, purpose: str, install: str) -> dict[str, Any]:
    version = None
    if importlib.util.find_spec(module) is not None:
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            version = "present"
    return {
        "name": name,
        "version": version,
        "usable": version is not None,
        "purpose": purpose,
        "advice": "" if version else install,
    }


def _gpu() -> str | None:
    """Name and driver of the first NVIDIA GPU, as its own tool says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.strip().splitlines()
    return lines[0] if lines else None
