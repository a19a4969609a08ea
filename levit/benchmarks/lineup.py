"""Who takes part in a run: models × engines, chosen by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from levit.artifact import open_artifact
from levit.benchmarks.engines import ENGINES, Engine
from levit.benchmarks.engines.ceiling import MACS, SIDE
from levit.benchmarks.published import PUBLISHED
from levit.benchmarks.record import Contender
from levit.errors import BackendUnavailableError, ConfigError
from levit.export.sources import config_of
from levit.models.registry import known_names
from levit.runtime.cpus import cpu_features, cpu_precisions

__all__ = ["COMPARED", "SIZES", "Entrant", "Lineup", "ceilings", "choose_lineup"]

# The five of the paper.
SIZES: Final = ("levit_128s", "levit_128", "levit_192", "levit_256", "levit_384")
# And what its speed_test.py has beside them.
COMPARED: Final = (
    *SIZES,
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
    *("efficientnet_b4", "deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224"),
    "resnet50",
)


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A contender, and what its worker needs to know.

    Attributes:
        module: dotted name of its engine's module.
        source: of its model: timm's name, or an artifact's folder.
        place: the folder of the model's files, among those of the run.
        artifact: the folder of ours in it.
        handicap: a fraction by which it is made slower on purpose.
    """

    contender: Contender
    module: str
    source: str | Path
    place: str
    artifact: str = "artifact"
    handicap: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """Who takes part, and who cannot.

    Attributes:
        missing: engine title → the command that would install it.
    """

    entrants: tuple[Entrant, ...]
    missing: dict[str, str]


def choose_lineup(
    *,
    device: str,
    models: Sequence[str] | None,
    artifacts: Sequence[Path],
    engines: Sequence[str] | None,
    peers: bool,
    quick: bool = False,
) -> Lineup:
    """Every contender of a run.

    Args:
        device: ``cpu`` or ``gpu``.
        models: timm's names; by default the five sizes, and with `peers` the paper's others.
        artifacts: folders to time beside them (and instead of the five sizes).
        engines: keys of ``ENGINES``; by default ours, each at the fastest precision of this
            machine, and with `peers` all at every precision.
        peers: whether what people would use instead takes part.
        quick: whether by default only the first engine of ours takes part.

    Raises:
        ConfigError: an unknown model or engine, or nobody is left.
        BackendUnavailableError: an engine that was named is not installed.
        ArtifactError: a folder is no artifact.
    """
    chosen = _engines(engines, device=device, peers=peers)
    missing = {e.title: e.missing() for e in chosen.values() if e.missing()}
    if engines and missing:
        title, install = next(iter(missing.items()))
        raise BackendUnavailableError(f"{title} is not installed: {install}")
    usable = {name: e for name, e in chosen.items() if not e.missing()}
    entrants: list[Entrant] = []
    if models is None and not artifacts:
        models = COMPARED if peers else SIZES
    reason = f"; missing: {', '.join(dict.fromkeys(missing.values()))}" if missing else ""
    if models and any(engine.target for engine in usable.values()):
        _require_exporter()
    for_models = usable if engines or peers else _by_default(usable, device, quick=quick)
    for name in _known(models or ()):
        found = _of_model(name, for_models)
        if not found:
            raise ConfigError(
                f"no engine of this run takes {name} on device {device!r}{reason} (--peers, or "
                f"--engines, of {', '.join(_names_for(device))})"
            )
        entrants += found
    for number, folder in enumerate(artifacts):
        takers = usable if engines else {**_ours(device), **usable}
        entrants += _of_artifact(folder, f"artifact-{number}", takers)
    return Lineup(entrants=tuple(_with_unique_names(entrants)), missing=missing)


def ceilings(entrants: Iterable[Entrant], device: str) -> list[Entrant]:
    """Plain matrix products at every precision that takes part, on every library that is here."""
    precisions = {e.contender.precision for e in entrants}
    found = [
        _entrant("matmul", name, engine, precision, (SIDE, SIDE))
        for name, engine in ENGINES.items()
        if engine.kind == "ceiling" and device in engine.devices and not engine.missing()
        for precision in engine.precisions
        if precision in precisions
    ]
    return [replace(e, contender=replace(e.contender, macs=MACS)) for e in found]


def _engines(names: Sequence[str] | None, *, device: str, peers: bool) -> dict[str, Engine]:
    """The engines that a run asks for, by name."""
    on_device = {name: ENGINES[name] for name in _names_for(device)}
    if names is None:
        return {
            name: engine
            for name, engine in on_device.items()
            if not engine.by_name_only and (peers or engine.kind == "ours")
        }
    for name in names:
        if name not in on_device:
            raise ConfigError(
                f"unknown engine {name!r} for device {device!r}; it has: {', '.join(on_device)}"
            )
    return {name: on_device[name] for name in names}


def _ours(device: str) -> dict[str, Engine]:
    """All that can take an artifact, those too that take a model by name only."""
    on_device = {name: ENGINES[name] for name in _names_for(device)}
    return {name: e for name, e in on_device.items() if e.target and not e.missing()}


def _by_default(engines: dict[str, Engine], device: str, *, quick: bool) -> dict[str, Engine]:
    """Engines that nobody named: each at the fastest precision that the device computes in."""
    computed = cpu_precisions(cpu_features())
    found = {}
    for name, engine in engines.items():
        able = [p for p in engine.precisions if device == "gpu" or p == "fp32" or computed[p]]
        found[name] = replace(engine, precisions=tuple(able[-1:]))  # from slow to fast
    return dict(list(found.items())[:1]) if quick else found


def _known(names: Iterable[str]) -> list[str]:
    """Model names as timm spells them; raises `ConfigError` for one that nobody knows."""
    return [name if name in PUBLISHED else config_of(name)[0] for name in names]


def _is_ours(model: str) -> bool:
    return model in known_names()


def _of_model(model: str, engines: dict[str, Engine]) -> list[Entrant]:
    ours = _is_ours(model)
    size = config_of(model)[2].image_size if ours else PUBLISHED[model].image_size
    entrants = []
    for name, engine in engines.items():
        if (engine.target and not ours) or not model.startswith(engine.models):
            continue  # we do not compile it, or the engine has no such model
        for precision in engine.precisions:
            entrants.append(_entrant(model, name, engine, precision, size))
    return entrants


def _require_exporter() -> None:
    """Models are exported first; an artifact runs where nothing but the runtime is."""
    if importlib.util.find_spec("onnx") is None:
        raise BackendUnavailableError(
            "exporting the models needs onnx: pip install 'levit[export]' (--artifact times what "
            "is exported already, and needs nothing more)"
        )


def _names_for(device: str) -> list[str]:
    """Engines that can be named for a device."""
    return [n for n, e in ENGINES.items() if device in e.devices and e.kind != "ceiling"]


def _of_artifact(folder: Path, place: str, engines: dict[str, Engine]) -> list[Entrant]:
    """A user's artifact: its own weights, so no published accuracy, whatever its folder's name."""
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    shape = manifest.inputs[0].shape
    height, width = shape[1:3] if manifest.inputs[0].dtype == "uint8" else shape[2:4]
    model = artifact.path.resolve().name
    if model in PUBLISHED or model in known_names():
        model += " (artifact)"
    entrants = []
    for name, engine in engines.items():
        if engine.target == manifest.target and manifest.precision in engine.precisions:
            found = _entrant(model, name, engine, manifest.precision, (int(height), int(width)))
            entrants.append(replace(found, source=artifact.path, place=place, artifact="artifact"))
    if not entrants:
        raise ConfigError(
            f"{folder}: no engine of this run takes a {manifest.precision} artifact for target "
            f"{manifest.target!r}"
        )
    return entrants


def _entrant(
    model: str, name: str, engine: Engine, precision: str, size: tuple[int, int]
) -> Entrant:
    published = PUBLISHED.get(model)
    return Entrant(
        contender=Contender(
            name=f"{model} · {engine.title} · {precision}",
            model=model,
            engine=name,
            title=engine.title,
            runtime=engine.runtime,
            kind=engine.kind,
            precision=precision,
            image_size=size,
            top1=None if published is None else published.top1,
        ),
        module=engine.code,
        source=model,
        place=model,
        artifact=f"artifact-{engine.target}-{precision}" if engine.target else "artifact",
    )


def _with_unique_names(entrants: Iterable[Entrant]) -> list[Entrant]:
    """Who enters twice gets a number."""
    seen: dict[str, int] = {}
    found = []
    for entrant in entrants:
        name = entrant.contender.name
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            contender = replace(entrant.contender, name=f"{name} #{seen[name]}")
            entrant = replace(entrant, contender=contender)
        found.append(entrant)
    return found
