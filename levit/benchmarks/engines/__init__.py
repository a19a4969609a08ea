"""Engines of a benchmark: ours, and the ones that people would use instead.

A new engine is one line of `ENGINES`, and where none of the others' code serves, one module. The
code of an engine is a module or an object with three functions, all called in a worker process, so
that no engine shares threads or memory with another (`levit.benchmarks.engines.pictures` has what
two of them return):

``open_runner(job) -> Runner``
    Load the job's network; the runner takes (batch, 3, H, W) float32 and returns (batch, classes)
    once the answer is there (a GPU's too).
``open_image_runner(job) -> ImageRunner``
    The same from the bytes of a JPEG to the top-1 class, whole and stage by stage.
``open_line(job) -> Line``
    The same for many JPEGs at once, with all threads.

or with one, for a ceiling that measures itself:

``open_turn(job) -> Callable[[float], int]``
    Seconds to measure for → nanoseconds that the contender's multiply-accumulates take.

and for the protocols that start a process each time

``script(job) -> str``
    The lines that a user of the engine would write to get, in a fresh process, the top-1 class of
    the JPEG in ``sys.argv[1]``, printed as the last line.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from levit.benchmarks.record import REGISTERS, Kind
from levit.runtime.backends import BACKENDS

__all__ = ["ENGINES", "Engine", "Job", "Runner"]

Runner: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A network for an engine to load.

    Attributes:
        model: timm's name, or ``matmul``.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``.
        batch: images of every call; engines that gain from a fixed size may fix it.
        threads: CPU threads of the engine.
        device: ``cpu`` or ``gpu``.
        image_size: (height, width) in pixels.
        files: the folder of the model: ``reference.npz``, our artifacts, and the files that
            `levit.benchmarks.peer_files` prepares.
        artifact: our artifact's folder in it.
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
        title: display name.
        runtime: library that does the arithmetic; ours is judged by peers of the same one, or, on
            one that no peer has, by the best of all.
        kind: ``ours``, ``peer`` or ``ceiling``.
        code: place of its functions, ``MODULE`` or ``MODULE:OBJECT``.
        needs: imports, each with the command that installs it.
        obstacle: says why it cannot run here although its imports are there; empty if it can.
        precisions: that can be asked for, the slowest first.
        devices: ``cpu``, ``gpu``.
        target: for ours, the target that its artifacts are exported for.
        formats: for a peer, the prepared files that it loads (keys of ``peer_files.FORMATS``).
        models: beginning of the names of its models; of a ceiling, the whole name of its own.
        by_name_only: True if it runs only when it is named.
    """

    title: str
    runtime: str
    kind: Kind
    code: str
    needs: Mapping[str, str]
    obstacle: Callable[[], str] | None = None
    precisions: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ("cpu",)
    target: str = ""
    formats: tuple[str, ...] = ()
    models: str = ""
    by_name_only: bool = False

    def load(self) -> Any:
        """Import its code: ``ENGINES["timm-eager"].load().open_runner(job)``."""
        return pkgutil.resolve_name(self.code)

    def missing(self) -> str:
        """The install command of the first import that is not here; empty if it can run.

        Of the native engine it is the whole reason: the library may be there and not load.
        """
        for name, install in self.needs.items():
            if importlib.util.find_spec(name) is None:
                return install
        return "" if self.obstacle is None else self.obstacle()


def _native_obstacle() -> str:
    found = BACKENDS["native"].obstacle("cpu")
    return "" if found is None else f"{found.reason}: {found.remedy}"


_PEERS: Final = "pip install 'levit[peers]'"
_ONNXRUNTIME: Final = {"onnxruntime": "pip install onnxruntime"}
_ONNX_PRODUCT: Final = _ONNXRUNTIME | {"onnx": "pip install 'levit[export]'"}
_OPENVINO: Final = {"openvino": "pip install 'levit[openvino]'"}
_TIMM: Final = {"torch": _PEERS, "timm": _PEERS, "safetensors": _PEERS}
_EXPORTED: Final = _TIMM | {"onnxscript": _PEERS}

_levit = partial(Engine, kind="ours", code=f"{__name__}.levit_artifact")
_timm = partial(Engine, runtime="pytorch", kind="peer", needs=_TIMM, formats=("weights",))
_naive_onnxruntime = partial(
    Engine,
    runtime="onnxruntime",
    kind="peer",
    needs=_EXPORTED | _ONNXRUNTIME,
    formats=("onnx",),
)
_naive_openvino = partial(
    Engine, runtime="openvino", kind="peer", code=f"{__name__}.exported_networks:OPENVINO"
)
_ON_GPU: Final[Mapping[str, Any]] = {"precisions": ("fp16",), "devices": ("gpu",)}
_EAGER: Final = f"{__name__}.timm_networks:EAGER"
_TRACED: Final = f"{__name__}.timm_networks:TRACED"
_COMPILED: Final = f"{__name__}.timm_networks:COMPILED"

_LEVIT_ONNX: Final = _levit(
    title="levit → ONNX Runtime", runtime="onnxruntime", needs=_ONNXRUNTIME, target="onnx"
)
_LEVIT_OPENVINO: Final = _levit(
    title="levit → OpenVINO", runtime="openvino", needs=_OPENVINO, target="openvino"
)

_LEVIT_NATIVE: Final = _levit(
    title="levit → native engine",
    runtime="native",
    needs={},
    obstacle=_native_obstacle,
    target="native",
)

ENGINES: Final[Mapping[str, Engine]] = {
    "levit-onnx": _LEVIT_ONNX,
    # Its fp16 keeps float16 weights and computes in float32: nothing to time.
    "levit-openvino": replace(_LEVIT_OPENVINO, precisions=("fp32", "bf16")),
    "levit-native": replace(_LEVIT_NATIVE, precisions=("fp32", "bf16")),
    # By name only: their cost in accuracy is not seen on random weights, and calibrating takes
    # a minute for each model.
    "levit-onnx-int8": replace(_LEVIT_ONNX, precisions=("int8",), by_name_only=True),
    "levit-openvino-int8": replace(_LEVIT_OPENVINO, precisions=("int8",), by_name_only=True),
    "levit-native-int8": replace(_LEVIT_NATIVE, precisions=("int8",), by_name_only=True),
    "levit-onnx-cuda": _levit(
        title="levit → ONNX Runtime (CUDA)",
        runtime="onnxruntime-cuda",
        code=f"{__name__}.levit_onnx_cuda",
        needs={"onnxruntime": "pip install 'onnxruntime-gpu[cuda,cudnn]'"},
        precisions=("fp32", "fp16"),
        devices=("gpu",),
        target="onnx",
    ),
    "ceiling-onnxruntime": Engine(
        title="matrix product in ONNX Runtime",
        runtime="onnxruntime",
        kind="ceiling",
        code=f"{__name__}.ceiling:IN_ONNXRUNTIME",
        needs=_ONNX_PRODUCT,
        precisions=("fp32", "int8"),
    ),
    "ceiling-openvino": Engine(
        title="matrix product in OpenVINO",
        runtime="openvino",
        kind="ceiling",
        code=f"{__name__}.ceiling:IN_OPENVINO",
        needs=_OPENVINO,
        precisions=("fp32", "bf16", "int8"),
    ),
    "ceiling-torch": Engine(
        title="matrix product in PyTorch",
        runtime="pytorch",
        kind="ceiling",
        code=f"{__name__}.ceiling:IN_TORCH",
        needs={"torch": _PEERS},
        precisions=("fp32", "bf16", "int8"),
    ),
    "ceiling-registers": Engine(
        title="register peak",
        runtime="native",
        kind="ceiling",
        code=f"{__name__}.registers",
        needs={},
        obstacle=_native_obstacle,
        precisions=("fp32", "bf16", "int8"),
        models=REGISTERS,
    ),
    "null": Engine(
        title="nothing (the runner's own overhead)",
        runtime="null",
        kind="ours",
        code=f"{__name__}.null",
        needs={},
        by_name_only=True,
    ),
    "timm-eager": _timm(title="timm, PyTorch eager", code=_EAGER),
    "timm-traced": _timm(title="timm, BatchNorm folded, traced (as in the paper)", code=_TRACED),
    # LEVIT_ORIGINAL_REPO names a clone.
    "original-traced": _timm(
        title="facebookresearch/LeViT, as its speed_test.py",
        code=f"{__name__}.original_traced:ORIGINAL",
        models="levit_",
        by_name_only=True,
    ),
    "timm-compile": _timm(title="timm, torch.compile, frozen", code=_COMPILED),
    "naive-onnxruntime": _naive_onnxruntime(
        title="timm → ONNX → ONNX Runtime", code=f"{__name__}.exported_networks:ONNXRUNTIME"
    ),
    "timm-onnxruntime": _naive_onnxruntime(
        title="timm's transforms → ONNX Runtime",
        code=f"{__name__}.exported_networks:TIMM_ONNXRUNTIME",
        by_name_only=True,
    ),
    "naive-openvino": _naive_openvino(
        title="timm → ONNX → OpenVINO", needs=_EXPORTED | _OPENVINO, formats=("openvino",)
    ),
    # A machine on which OpenVINO chooses float32 refuses it: that is naive-openvino.
    "naive-openvino-default": _naive_openvino(
        title="timm → ONNX → OpenVINO as it comes",
        needs=_EXPORTED | _OPENVINO,
        precisions=("bf16",),
        formats=("openvino",),
    ),
    "nncf-openvino": _naive_openvino(
        title="timm → ONNX → NNCF → OpenVINO",
        needs=_EXPORTED | _OPENVINO | {"nncf": _PEERS},
        precisions=("int8",),
        formats=("int8",),
    ),
    "timm-eager-cuda": _timm(title="timm, PyTorch eager, CUDA autocast", code=_EAGER, **_ON_GPU),
    "timm-traced-cuda": _timm(
        title="timm, BatchNorm folded, traced, CUDA autocast (as in the paper)",
        code=_TRACED,
        **_ON_GPU,
    ),
    "timm-compile-cuda": _timm(
        title="timm, torch.compile, frozen, CUDA autocast", code=_COMPILED, **_ON_GPU
    ),
}
