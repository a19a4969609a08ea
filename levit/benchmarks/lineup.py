"""Contenders of a run: models × engines, chosen by name."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from levit.artifact import open_artifact
from levit.benchmarks.engines import ENGINES, Engine
from levit.benchmarks.engines.ceiling import MACS, SIDE
from levit.benchmarks.published import PUBLISHED, TODAY
from levit.benchmarks.record import Contender
from levit.errors import BackendUnavailableError, ConfigError
from levit.models.registry import config_of, known_names
from levit.runtime.cpus import cpu_features, cpu_precisions

__all__ = [
    "COMPARED",
    "HEADLINE",
    "SIZES",
    "Lineup",
    "RunnableContender",
    "ceilings",
    "choose_lineup",
]

# The five of the paper.
SIZES: Final = ("levit_128s", "levit_128", "levit_192", "levit_256", "levit_384")
_EFFICIENTNETS: Final = tuple(f"efficientnet_b{size}" for size in range(5))
# The other models of the paper's speed_test.py beside them.
COMPARED: Final = (
    *SIZES,
    *_EFFICIENTNETS,
    *("deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224", "resnet50"),
)
# LeViT beside the paper's EfficientNets and the networks that people would pick today.
HEADLINE: Final = (*SIZES, *_EFFICIENTNETS, *TODAY)
# What each of them might run fastest on, at every precision. ONNX Runtime is left out for our own
# exports: OpenVINO and our own engine have been faster with them on every CPU so far.
_HEADLINE_ENGINES: Final = (
    *("levit-native", "levit-native-int8", "levit-openvino"),
    *("naive-onnxruntime", "naive-openvino", "naive-openvino-default", "nncf-openvino"),
)


@dataclass(frozen=True, kw_only=True)
class RunnableContender(Contender):
    """A contender with the places of its code and files, for its worker.

    Attributes:
        code: place of its engine's functions, ``MODULE`` or ``MODULE:OBJECT``.
        source: its model: timm's name, or an artifact's folder.
        place: the folder of the model's files in the run's folder.
        artifact: our artifact's folder in it.
        handicap: a fraction by which it is made slower on purpose.
    """

    code: str
    source: str | Path
    place: str
    artifact: str = "artifact"
    handicap: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """Contenders of a run, and engines that cannot run.

    Attributes:
        missing: engine title → the command that would install it.
    """

    contenders: tuple[RunnableContender, ...]
    missing: dict[str, str]


def choose_lineup(
    *,
    device: str,
    models: Sequence[str] | None,
    artifacts: Sequence[Path],
    engines: Sequence[str] | None,
    peers: bool,
    precisions: Sequence[str] | None = None,
    quick: bool = False,
    headline: bool = False,
) -> Lineup:
    """Choose every contender of a run.

    Args:
        device: ``cpu`` or ``gpu``.
        models: timm's names; by default the five sizes, and with `peers` the paper's others.
        artifacts: folders to time beside them (and instead of the five sizes).
        engines: keys of ``ENGINES``; by default ours, each at the fastest precision of this
            machine, and with `peers` all at every precision.
        peers: True to add the engines that people would use instead.
        precisions: only these, of each engine.
        quick: True to take only the first engine of ours by default.
        headline: True for `HEADLINE` by default, on every engine that may be a network's best.

    Raises:
        ConfigError: an unknown model, engine or precision, or nothing is left.
        BackendUnavailableError: an engine that was named is not installed.
        ArtifactError: a folder is no artifact.
    """
    on_device = {n: e for n, e in ENGINES.items() if device in e.devices and e.kind != "ceiling"}
    if unknown := [name for name in engines or () if name not in on_device]:
        raise ConfigError(
            f"unknown engine {unknown[0]!r} for device {device!r}; it has: {', '.join(on_device)}"
        )
    chosen = {name: on_device[name] for name in (on_device if engines is None else engines)}
    if engines is None:
        allowed = ("ours", "peer") if peers else ("ours",)
        chosen = {n: e for n, e in chosen.items() if not e.by_name_only and e.kind in allowed}
    if headline and engines is None:
        chosen = {name: on_device[name] for name in _HEADLINE_ENGINES if name in on_device}
    if precisions is not None:
        chosen = _at_precisions(chosen, precisions)
    missing = {e.title: install for e in chosen.values() if (install := e.missing())}
    if engines and missing:
        title, install = next(iter(missing.items()))
        raise BackendUnavailableError(f"{title} is not installed: {install}")
    usable = _installed(chosen)
    if models is None and not artifacts:
        models = HEADLINE if headline else COMPARED if peers else SIZES
    if not models:
        missing = {}  # an artifact says itself what it needs
    exporting = models and any(engine.target for engine in usable.values())
    if exporting and importlib.util.find_spec("onnx") is None:  # an artifact does without
        raise BackendUnavailableError(
            "exporting the models needs onnx: pip install 'levit[export]' (--artifact times what "
            "is exported already, and needs nothing more)"
        )
    for_models = (
        usable if engines or peers or headline else _by_default(usable, device, quick=quick)
    )
    found: list[RunnableContender] = []
    for name in models or ():
        model = name if name in PUBLISHED else config_of(name)[0]
        taken = _of_model(model, for_models)
        if not taken:
            reason = f"; missing: {', '.join(dict.fromkeys(missing.values()))}" if missing else ""
            raise ConfigError(
                f"no engine of this run takes {model} on device {device!r}{reason} (--peers, or "
                f"--engines, of {', '.join(on_device)})"
            )
        found += taken
    # Engines that take a model by name only take an artifact unasked.
    ours = {name: e for name, e in on_device.items() if e.target}
    takers = usable if engines else {**_installed(ours), **usable}
    for number, folder in enumerate(artifacts):
        found += _of_artifact(folder, f"artifact-{number}", takers)
    return Lineup(contenders=tuple(_with_unique_names(found)), missing=missing)


def _at_precisions(engines: Mapping[str, Engine], wanted: Sequence[str]) -> dict[str, Engine]:
    """Engines with those of their precisions that are wanted, at least one."""
    known = list(dict.fromkeys(p for e in ENGINES.values() for p in e.precisions))
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"unknown precision {unknown[0]!r}; there are: {', '.join(known)}")
    found = {}
    for name, engine in engines.items():
        if kept := tuple(p for p in engine.precisions if p in wanted):
            found[name] = replace(engine, precisions=kept)
    if not found:
        raise ConfigError(f"no engine of this run computes at {' or '.join(wanted)}")
    return found


def ceilings(contenders: Iterable[Contender], device: str) -> list[RunnableContender]:
    """Products and register peaks at every precision of the contenders, where they can run."""
    wanted = {c.precision for c in contenders}
    return [
        replace(
            _contender(engine.models or "matmul", name, engine, precision, (SIDE, SIDE)), macs=MACS
        )
        for name, engine in _installed(ENGINES).items()
        if engine.kind == "ceiling" and device in engine.devices
        for precision in engine.precisions
        if precision in wanted
    ]


def _installed(engines: Mapping[str, Engine]) -> dict[str, Engine]:
    return {name: engine for name, engine in engines.items() if not engine.missing()}


def _by_default(engines: dict[str, Engine], device: str, *, quick: bool) -> dict[str, Engine]:
    """Engines that nobody named: each at the fastest precision that the device computes in."""
    computed = cpu_precisions(cpu_features())
    found = {}
    for name in list(engines)[: 1 if quick else None]:
        able = [
            p for p in engines[name].precisions if device == "gpu" or p == "fp32" or computed[p]
        ]
        found[name] = replace(engines[name], precisions=tuple(able[-1:]))  # from slow to fast
    return found


def _of_model(model: str, engines: dict[str, Engine]) -> list[RunnableContender]:
    ours = model in known_names()
    size = config_of(model)[2].image_size if ours else PUBLISHED[model].image_size
    return [
        _contender(model, name, engine, precision, size)
        for name, engine in engines.items()
        # We compile our families' models only, and an engine may have models of its own.
        if (ours or not engine.target) and model.startswith(engine.models)
        for precision in engine.precisions
    ]


def _of_artifact(folder: Path, place: str, engines: dict[str, Engine]) -> list[RunnableContender]:
    """A user's artifact: its own weights, so no published accuracy, whatever its folder's name."""
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    shape = manifest.inputs[0].shape
    height, width = shape[1:3] if manifest.inputs[0].dtype == "uint8" else shape[2:4]
    model = artifact.path.resolve().name
    if model in PUBLISHED or model in known_names():
        model += " (artifact)"
    found = [
        _contender(model, name, engine, manifest.precision, (int(height), int(width)))
        for name, engine in engines.items()
        if engine.target == manifest.target and manifest.precision in engine.precisions
    ]
    if not found:
        for engine in ENGINES.values():
            if engine.target == manifest.target and (lacking := engine.missing()):
                raise BackendUnavailableError(f"{folder}: {engine.title} cannot run: {lacking}")
        raise ConfigError(
            f"{folder}: no engine of this run takes a {manifest.precision} artifact for target "
            f"{manifest.target!r}"
        )
    return [replace(c, source=artifact.path, place=place, artifact="artifact") for c in found]


def _contender(
    model: str, name: str, engine: Engine, precision: str, size: tuple[int, int]
) -> RunnableContender:
    published = PUBLISHED.get(model)
    return RunnableContender(
        name=f"{model} · {engine.title} · {precision}",
        model=model,
        engine=name,
        title=engine.title,
        runtime=engine.runtime,
        kind=engine.kind,
        precision=precision,
        image_size=size,
        top1=None if published is None else published.top1,
        code=engine.code,
        source=model,
        place=model,
        artifact=f"artifact-{engine.target}-{precision}" if engine.target else "artifact",
    )


def _with_unique_names(contenders: Iterable[RunnableContender]) -> Iterator[RunnableContender]:
    """Number the contenders that enter twice."""
    seen: Counter[str] = Counter()
    for contender in contenders:
        seen[contender.name] += 1
        number = seen[contender.name]
        yield replace(contender, name=f"{contender.name} #{number}") if number > 1 else contender
