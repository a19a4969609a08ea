"""ONNX → a TensorRT engine, by whichever module of TensorRT's it is given.

Written against what TensorRT 10.12 to 11 and TensorRT-RTX have in common. Networks are strongly
typed: the precision is that of the graph's own types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from levit.errors import ExportError
from levit.export.progress import Progress, silent
from levit.interruption import deferred
from levit.runtime.tensorrt_log import error_log, shortened

__all__ = ["EngineSettings", "build_engine"]

# Memory of a kernel beside weights and activations. The largest that LeViT asks for is tens
# of MiB; a limit at all keeps the builder from tactics that only fit an empty card.
WORKSPACE_BYTES: Final = 2**30

_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of an engine that is to be built.

    Attributes:
        profile: (min, opt, max) of the batch.
        version_compatible: loads in later releases of the same major version too.
        hardware_compatible: loads on every GPU from Ampere on.
        architectures: those that TensorRT-RTX compiles for; empty for all from Ampere on.
        timing_cache: what an earlier build has measured; None where nothing is to be kept.
    """

    profile: tuple[int, int, int]
    version_compatible: bool = False
    hardware_compatible: bool = False
    architectures: Sequence[str] = ()
    timing_cache: bytes | None = None


def build_engine(
    trt: Any, graph: bytes, settings: EngineSettings, progress: Progress = silent
) -> tuple[bytes, bytes | None]:
    """Parse a graph and build its engine.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx_bindings``.
        graph: an ONNX file, weights inside, with one input whose batch may be dynamic.
        progress: called with a line for each phase of the build that begins.

    Returns:
        (the engine, the timing cache after it or None where `settings` had none).

    Raises:
        ExportError: the parser refuses a node, or the builder fails: what they said.
        KeyboardInterrupt: Ctrl-C; the builder has stopped in good order then.
    """
    log = error_log(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # what its bindings make of a null pointer
        raise ExportError(f"TensorRT cannot start{log.told()}") from error
    network = builder.create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # the only kind from 11 on
    )
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise ExportError(
            f"{trt.__name__} {trt.__version__} cannot read the graph: "
            f"{'; '.join(map(_parser_error, errors[:_SHOWN])) or 'it does not say why'}"
        )
    config = builder.create_builder_config()
    _configure(trt, config, settings)
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((batch, *rest) for batch in settings.profile))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(
            f"{trt.__name__} {trt.__version__} refuses batches of {settings.profile}{log.told()}"
        )
    cache = None
    if settings.timing_cache is not None:
        # Of a file that is damaged nothing is taken: its measurements are made anew.
        cache = config.create_timing_cache(settings.timing_cache) or config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    # Raised within one of the builder's callbacks, an exception would unwind through C++.
    with deferred() as noted:
        monitor = _monitor(trt, progress, noted)  # named: the builder does not keep it alive
        config.progress_monitor = monitor
        engine = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    if engine is None:
        raise ExportError(f"{trt.__name__} {trt.__version__} cannot build the engine{log.told()}")
    return bytes(engine), None if cache is None else bytes(cache.serialize())


def _configure(trt: Any, config: Any, settings: EngineSettings) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default: products of float32 with ten bits of mantissa. What is called fp32 here, and
    # an island that is kept in float32 for its range and precision, means all of them.
    config.clear_flag(trt.BuilderFlag.TF32)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if settings.architectures:
        _choose_architectures(trt, config, settings.architectures)


def _choose_architectures(trt: Any, config: Any, names: Sequence[str]) -> None:
    """Compile ahead of time for these, ``sm_80`` and the like; only RTX can."""
    known = {
        f"sm_{name.removeprefix('SM')}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    config.num_compute_capabilities = len(names)
    for i, name in enumerate(names):
        if name not in known or not config.set_compute_capability(known[name], i):
            raise ExportError(
                f"TensorRT-RTX {trt.__version__} does not compile for {name!r}; "
                f"it has: {', '.join(known)}"
            )


def _parser_error(error: Any) -> str:
    """One of the parser's errors, in a part of a line."""
    where = f"{error.node_operator()} {error.node_name()!r}: " if error.node_operator() else ""
    return f"{where}{error.code().name}, {shortened(error.desc())}"


def _monitor(trt: Any, progress: Progress, noted: list[int]) -> Any:
    """A monitor that passes phases on, and stops the build once a signal has been noted."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: Exception | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                progress(f"building the engine: {phase_name.lower()}")
            except Exception as error:  # which would unwind through C++
                self.failure = self.failure or error

        def phase_finish(self, phase_name: str) -> None:
            """Show nothing."""

        def step_complete(self, phase_name: str, step: int) -> bool:
            return not noted and self.failure is None

    return Monitor()
