"""Engines for TensorRT and TensorRT-RTX, with the ONNX that they were built from beside them.

TensorRT builds for the GPU that is there, by timing kernels on it. TensorRT-RTX builds ahead of
time, with or without a GPU, for all from Ampere on; the last step of the compilation is done
where the engine is loaded. So it has nothing to time, and keeps no timing cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from levit.artifact import ENGINE_FILE, GRAPH_FILE
from levit.export.onnx.tensorrt_ops import TensorrtOps
from levit.export.progress import Progress
from levit.export.quantization.form import IntegerForm
from levit.export.targets.engine import EngineSettings, build_engine
from levit.export.targets.graph import GraphForm, versions_of
from levit.export.targets.target import Order, Target, Way, Written
from levit.export.targets.timing_cache import TimingCache
from levit.models.model import Model
from levit.runtime.cuda import host_system
from levit.runtime.tensorrt_modules import MODULES, TensorrtModule

__all__ = [
    "AMPERE_ON",
    "BUILDERS",
    "RTX",
    "TENSORRT",
    "TRT",
    "TRT_RTX",
    "Builder",
    "prepare_engine",
]

# How a manifest names every architecture from Ampere on.
AMPERE_ON: Final = "sm_80+"
_FORM: Final = GraphForm(dialect=TensorrtOps)


@dataclass(frozen=True, kw_only=True)
class Builder:
    """One of the two modules.

    Attributes:
        format: of what it builds (a key of ``BACKENDS``).
        ahead_of_time: builds without a GPU, and has no timing cache.
    """

    format: str
    ahead_of_time: bool

    @property
    def module(self) -> TensorrtModule:
        """The module that it builds with."""
        return MODULES[self.format]

    def require(self, precision: str) -> None:
        """Raise `BackendUnavailableError` where this machine cannot build."""
        self.module.load()
        if not self.ahead_of_time:
            self.module.gpu()

    def write(self, order: Order) -> Written:
        """Write ``model.onnx`` and ``model.engine``."""
        graph: bytes = _FORM.emit(order).SerializeToString(deterministic=True)
        options = order.options
        settings = EngineSettings(
            profile=options.profile,
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
            architectures=options.gpu_architectures or (),
        )
        written = self.write_graph(order.folder, graph, settings, order.progress)
        # ONNX Runtime has no bfloat16 kernels on the CPU.
        runnable = None if order.floats == "bf16" else graph
        (backend,) = written.toolchain
        return replace(written, toolchain=versions_of(backend), graph=runnable)

    def write_graph(
        self, folder: Path, graph: bytes, settings: EngineSettings, progress: Progress
    ) -> Written:
        """Build `graph` into `folder`, and put the graph beside the engine."""
        trt = self.module.load()
        version = str(trt.__version__)
        kept = None
        if self.ahead_of_time:
            architecture = ",".join(settings.architectures) or AMPERE_ON
        else:
            built_on = self.module.gpu().architecture
            architecture = AMPERE_ON if settings.hardware_compatible else built_on
            kept = TimingCache(trt.__name__, version, built_on)
            settings = replace(settings, timing_cache=kept.read())
        engine, measured = build_engine(trt, graph, settings, progress)
        if kept is not None and measured is not None:
            kept.write(measured)
        (folder / GRAPH_FILE).write_bytes(graph)
        (folder / ENGINE_FILE).write_bytes(engine)
        low, middle, high = settings.profile
        return Written(
            toolchain={trt.__name__: version},
            requirements={
                "backend_version": f"=={version}",
                "gpu_architecture": architecture,
                "compatibility": [
                    name
                    for name, asked in (
                        ("version", settings.version_compatible),
                        ("hardware", settings.hardware_compatible),
                        ("architectures", settings.architectures),
                    )
                    if asked
                ],
                "profile": {"min": low, "opt": middle, "max": high},
                "onnx_sha256": hashlib.sha256(graph).hexdigest(),
                "os": host_system(),
            },
        )

    def unrunnable(self) -> str:
        """Why this machine cannot run what it builds; empty where it can."""
        found = self.module.obstacle()
        return "" if found is None else f"{found.reason}: {found.remedy}"


TENSORRT: Final = Builder(format="tensorrt", ahead_of_time=False)
RTX: Final = Builder(format="tensorrt-rtx", ahead_of_time=True)
# By target.
BUILDERS: Final[Mapping[str, Builder]] = {"trt": TENSORRT, "trt-rtx": RTX}


def prepare_engine(model: Model, precision: str) -> Model:
    """Linears stay products over tokens, the attention is primitive products and a softmax.

    The parser takes no Attention whose values are wider than its keys, as all of LeViT's are.
    As 1×1 convolutions over the grid, levit_128s and levit_256 were built by RTX in 0.8 and
    1.1 s instead of 1.0 and 1.4, and 1 % smaller; which is faster has to be measured on a GPU.
    """
    return model


def _ways(model: Model, precision: str) -> Sequence[Way]:
    return () if precision == "bf16" else (Way(),)


TRT: Final = Target(
    format=TENSORRT.format,
    payload=ENGINE_FILE,
    precisions=("fp32", "fp16", "bf16", "int8"),
    distribution="tensorrt",
    min_version="10.12",
    prepare=prepare_engine,
    write=TENSORRT.write,
    require=TENSORRT.require,
    device="gpu",
    integers=IntegerForm(symmetric_activations=True, floats="fp16"),
    ways=_ways,
    unrunnable=TENSORRT.unrunnable,
)
TRT_RTX: Final = replace(
    TRT,
    format=RTX.format,
    distribution="tensorrt-rtx-cu13-bindings",
    min_version="1.7",
    write=RTX.write,
    require=RTX.require,
    unrunnable=RTX.unrunnable,
)
