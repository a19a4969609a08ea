"""The engines that take part in a benchmark: ours, and what people would use instead.

A new engine is one module and one line of `ENGINES`. A module of an engine has two functions, both
called in a worker process, so that no engine shares threads or memory with another:

``open_runner(job) -> Runner``
    Load what `job` says; the runner takes (batch, 3, H, W) float32 and returns (batch, classes)
    once the answer is there (a GPU's too).
``open_image_runner(job) -> ImageRunner``
    The same from the bytes of a JPEG: returns the top-1 class and the nanoseconds of each stage.

and for the protocols that start a process each time

``script(job) -> str``
    What a user of the engine would write to get, in a fresh process, the top-1 class of the JPEG
    in ``sys.argv[1]``, printed as the last line.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from levit.benchmarks.record import Kind

__all__ = ["ENGINES", "Engine", "ImageRunner", "Job", "Runner"]

Runner: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
# bytes of a picture → (top-1 class, nanoseconds by stage: decode, resize, infer)
ImageRunner: TypeAlias = Callable[[bytes], tuple[int, Mapping[str, int]]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an engine is asked to load.

    Attributes:
        model: timm's name, or ``matmul``.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``.
        batch: images of every call; engines that gain from a fixed size may fix it.
        threads: CPU threads of the engine.
        device: ``cpu`` or ``gpu``.
        image_size: (height, width) in pixels.
        files: the folder with the model's prepared files: ``reference.npz``, our artifacts, and
            those of `levit.benchmarks.peer_files`.
        artifact: the folder of ours in it.
    """

    model: str
    precision: str
    batch: int
    threads: int
    device: str
    image_size: tuple[int, int]
    files: Path
    artifact: str = "artifact"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One way to run a model.

    Attributes:
        title: what people call it.
        runtime: who does the arithmetic; engines of one runtime are compared with each other.
        kind: ``ours``, ``peer`` or ``ceiling``.
        precisions: what it can be asked for, the slowest first.
        devices: of ``cpu``, ``gpu``.
        module: dotted name of its module.
        needs: imports, each with the command that installs it.
        target: of ours, the target that its artifacts are exported for.
        formats: of a peer, the prepared files that it loads (keys of ``peer_files.FORMATS``).
        models: with what the names of its models begin.
        by_name_only: whether it takes part only when it is named.
    """

    title: str
    runtime: str
    kind: Kind
    precisions: tuple[str, ...]
    devices: tuple[str, ...]
    module: str
    needs: Mapping[str, str]
    target: str = ""
    formats: tuple[str, ...] = ()
    models: str = ""
    by_name_only: bool = False

    def missing(self) -> str:
        """The install command of the first import that is not here; empty if none lacks."""
        for name, install in self.needs.items():
            if importlib.util.find_spec(name) is None:
                return install
        return ""


_EXPORT: Final = {"onnx": "pip install 'levit[export]'"}
_PEERS: Final = "pip install 'levit[peers]'"
_TIMM: Final = {"torch": _PEERS, "timm": _PEERS, "safetensors": _PEERS}
_NAIVE: Final = _TIMM | {"onnxscript": _PEERS}

ENGINES: Final[Mapping[str, Engine]] = {
    "levit-onnx": Engine(
        title="levit → ONNX Runtime",
        runtime="onnxruntime",
        kind="ours",
        precisions=("fp32",),
        devices=("cpu",),
        module="levit.benchmarks.engines.levit_artifact",
        needs={"onnxruntime": "pip install onnxruntime"},
        target="onnx",
    ),
    # Its fp16 keeps float16 weights and computes in float32: nothing to time.
    "levit-openvino": Engine(
        title="levit → OpenVINO",
        runtime="openvino",
        kind="ours",
        precisions=("fp32", "bf16"),
        devices=("cpu",),
        module="levit.benchmarks.engines.levit_artifact",
        needs={"openvino": "pip install 'levit[openvino]'"},
        target="openvino",
    ),
    # By name only: what they cost in accuracy is not seen on random weights, and calibrating takes
    # a minute for each model.
    "levit-onnx-int8": Engine(
        title="levit → ONNX Runtime",
        runtime="onnxruntime",
        kind="ours",
        precisions=("int8",),
        devices=("cpu",),
        module="levit.benchmarks.engines.levit_artifact",
        needs={"onnxruntime": "pip install onnxruntime"},
        target="onnx",
        by_name_only=True,
    ),
    "levit-openvino-int8": Engine(
        title="levit → OpenVINO",
        runtime="openvino",
        kind="ours",
        precisions=("int8",),
        devices=("cpu",),
        module="levit.benchmarks.engines.levit_artifact",
        needs={"openvino": "pip install 'levit[openvino]'"},
        target="openvino",
        by_name_only=True,
    ),
    "levit-onnx-cuda": Engine(
        title="levit → ONNX Runtime (CUDA)",
        runtime="onnxruntime-cuda",
        kind="ours",
        precisions=("fp32", "fp16"),
        devices=("gpu",),
        module="levit.benchmarks.engines.levit_onnx_cuda",
        needs={"onnxruntime": "pip install 'onnxruntime-gpu[cuda,cudnn]'"},
        target="onnx",
    ),
    "ceiling-onnxruntime": Engine(
        title="matrix product in ONNX Runtime",
        runtime="onnxruntime",
        kind="ceiling",
        precisions=("fp32", "int8"),
        devices=("cpu",),
        module="levit.benchmarks.engines.ceiling_onnxruntime",
        needs={"onnxruntime": "pip install onnxruntime", **_EXPORT},
    ),
    "ceiling-openvino": Engine(
        title="matrix product in OpenVINO",
        runtime="openvino",
        kind="ceiling",
        precisions=("fp32", "bf16", "int8"),
        devices=("cpu",),
        module="levit.benchmarks.engines.ceiling_openvino",
        needs={"openvino": "pip install 'levit[openvino]'"},
    ),
    "ceiling-torch": Engine(
        title="matrix product in PyTorch",
        runtime="pytorch",
        kind="ceiling",
        precisions=("fp32", "bf16", "int8"),
        devices=("cpu",),
        module="levit.benchmarks.engines.ceiling_torch",
        needs={"torch": "pip install 'levit[peers]'"},
    ),
    "null": Engine(
        title="nothing (the runner's own overhead)",
        runtime="null",
        kind="ours",
        precisions=("fp32",),
        devices=("cpu",),
        module="levit.benchmarks.engines.null",
        needs={},
        by_name_only=True,
    ),
    "timm-eager": Engine(
        title="timm, PyTorch eager",
        runtime="pytorch",
        kind="peer",
        precisions=("fp32",),
        devices=("cpu",),
        module="levit.benchmarks.engines.timm_eager",
        needs=_TIMM,
        formats=("weights",),
    ),
    "timm-traced": Engine(
        title="timm, BatchNorm folded, traced (as in the paper)",
        runtime="pytorch",
        kind="peer",
        precisions=("fp32",),
        devices=("cpu",),
        module="levit.benchmarks.engines.timm_traced",
        needs=_TIMM,
        formats=("weights",),
    ),
    # LEVIT_ORIGINAL_REPO names a clone.
    "original-traced": Engine(
        title="facebookresearch/LeViT, as its speed_test.py",
        runtime="pytorch",
        kind="peer",
        precisions=("fp32",),
        devices=("cpu",),
        module="levit.benchmarks.engines.original_traced",
        needs=_TIMM,
        formats=("weights",),
        models="levit_",
        by_name_only=True,
    ),
    "timm-compile": Engine(
        title="timm, torch.compile, frozen",
        runtime="pytorch",
        kind="peer",
        precisions=("fp32",),
        devices=("cpu",),
        module="levit.benchmarks.engines.timm_compile",
        needs=_TIMM,
        formats=("weights",),
    ),
    "naive-onnxruntime": Engine(
        title="timm → ONNX → ONNX Runtime",
        runtime="onnxruntime",
        kind="peer",
        precisions=("fp32",),
        devices=("cpu",),
        module="levit.benchmarks.engines.naive_onnxruntime",
        needs=_NAIVE | {"onnxruntime": "pip install onnxruntime"},
        formats=("onnx",),
    ),
    "naive-openvino": Engine(
        title="timm → ONNX → OpenVINO",
        runtime="openvino",
        kind="peer",
        precisions=("fp32",),
        devices=("cpu",),
        module="levit.benchmarks.engines.naive_openvino",
        needs=_NAIVE | {"openvino": "pip install 'levit[openvino]'"},
        formats=("openvino",),
    ),
    # Where OpenVINO chooses float32, as naive-openvino: it says so and does not run.
    "naive-openvino-default": Engine(
        title="timm → ONNX → OpenVINO as it comes",
        runtime="openvino",
        kind="peer",
        precisions=("bf16",),
        devices=("cpu",),
        module="levit.benchmarks.engines.naive_openvino",
        needs=_NAIVE | {"openvino": "pip install 'levit[openvino]'"},
        formats=("openvino",),
    ),
    "nncf-openvino": Engine(
        title="timm → ONNX → NNCF → OpenVINO",
        runtime="openvino",
        kind="peer",
        precisions=("int8",),
        devices=("cpu",),
        module="levit.benchmarks.engines.nncf_openvino",
        needs=_NAIVE | {"openvino": "pip install 'levit[openvino]'", "nncf": _PEERS},
        formats=("int8",),
    ),
    "timm-eager-cuda": Engine(
        title="timm, PyTorch eager, CUDA autocast",
        runtime="pytorch",
        kind="peer",
        precisions=("fp16",),
        devices=("gpu",),
        module="levit.benchmarks.engines.timm_eager",
        needs=_TIMM,
        formats=("weights",),
    ),
    "timm-traced-cuda": Engine(
        title="timm, BatchNorm folded, traced, CUDA autocast (as in the paper)",
        runtime="pytorch",
        kind="peer",
        precisions=("fp16",),
        devices=("gpu",),
        module="levit.benchmarks.engines.timm_traced",
        needs=_TIMM,
        formats=("weights",),
    ),
    "timm-compile-cuda": Engine(
        title="timm, torch.compile, frozen, CUDA autocast",
        runtime="pytorch",
        kind="peer",
        precisions=("fp16",),
        devices=("gpu",),
        module="levit.benchmarks.engines.timm_compile",
        needs=_TIMM,
        formats=("weights",),
    ),
}
