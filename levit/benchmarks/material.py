"""The files that a run's contenders load: artifacts, reference outputs, the peers' networks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from levit.artifact import Artifact
from levit.benchmarks.correctness import REFERENCE_FILE
from levit.benchmarks.engines import ENGINES, Job
from levit.benchmarks.lineup import Entrant
from levit.benchmarks.peer_files import prepare
from levit.benchmarks.record import Contender
from levit.errors import LevitError
from levit.export import ExportOptions, export
from levit.export.sources import config_of
from levit.models.counting import Counts, count
from levit.models.registry import DIGITS

__all__ = ["Material", "prepare_material"]

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Material:
    """Where the files of a run's models are.

    Attributes:
        folder: of them all.
        counts: parameters and MACs by model, where they are known.
        failed: why an entrant cannot take part, by its contender's name.
    """

    folder: Path
    counts: dict[str, Counts] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def files(self, model: str) -> Path:
        """The folder of one model's files."""
        return self.folder / re.sub(r"[^\w.-]", "_", model)

    def job(self, entrant: Entrant, *, batch: int, threads: int, device: str) -> Job:
        """What its worker is to load."""
        contender = entrant.contender
        return Job(
            model=contender.model,
            precision=contender.precision,
            batch=batch,
            threads=threads,
            device=device,
            image_size=contender.image_size,
            files=self.files(contender.model),
            artifact=entrant.artifact,
        )

    def counted(self, contender: Contender) -> Contender:
        """The contender with its model's counts."""
        counts = self.counts.get(contender.model)
        if counts is None:
            return contender
        return replace(contender, macs=counts.macs, parameters=counts.parameters)


def prepare_material(
    entrants: Sequence[Entrant],
    folder: Path,
    *,
    seed: int,
    cache: bool,
    progress: Progress,
) -> Material:
    """Write what every entrant needs into `folder`, one sub-folder per model.

    Args:
        seed: of the random weights, which are the same for all engines.
        cache: whether the peers' files are kept between runs.
    """
    material = Material(folder=folder)
    groups: dict[str | Path, list[Entrant]] = {}
    for entrant in entrants:
        if entrant.contender.kind != "ceiling":
            groups.setdefault(entrant.source, []).append(entrant)
    for number, (source, group) in enumerate(groups.items()):
        model = group[0].contender.model
        progress(f"preparing {model} ({number + 1} of {len(groups)})")
        material.files(model).mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            _use_artifact(source, group, material)
        else:
            _prepare_model(source, group, material, seed=seed, cache=cache)
    return material


def _use_artifact(source: Path, group: Sequence[Entrant], material: Material) -> None:
    """A user's artifact is its own reference: its golden cases."""
    contender = group[0].contender
    (material.files(contender.model) / group[0].artifact).symlink_to(source)


def _prepare_model(
    model: str, entrants: Sequence[Entrant], material: Material, *, seed: int, cache: bool
) -> None:
    folder = material.files(model)
    ours = [e for e in entrants if e.contender.kind == "ours" and e.artifact != "artifact"]
    peers = [e for e in entrants if e.contender.kind == "peer"]
    for entrant in _first_of_each(ours):
        target, precision = entrant.artifact.split("-", 1)[1].rsplit("-", 1)
        try:
            artifact = export(
                ExportOptions(
                    model=model,
                    random_weights=None if model == DIGITS else seed,
                    target=target,
                    precision=precision,
                    output=folder / entrant.artifact,
                )
            )
        except LevitError as error:
            _fail(material, [e for e in ours if e.artifact == entrant.artifact], str(error))
        else:
            _write_reference(artifact, folder)
    if ours:
        _, family, config = config_of(model)
        material.counts[model] = count(family, config)
    for formats, group in _by_formats(peers).items():
        try:
            prepare(
                model,
                folder,
                formats=formats,
                image_size=group[0].contender.image_size,
                seed=seed,
                cache=cache,
            )
        except LevitError as error:
            _fail(material, group, str(error))
        else:
            counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
            material.counts.setdefault(model, Counts(**counts))


def _by_formats(peers: Iterable[Entrant]) -> dict[tuple[str, ...], list[Entrant]]:
    """Peers by what they load: what cannot be made for one is no reason against another."""
    groups: dict[tuple[str, ...], list[Entrant]] = {}
    for entrant in peers:
        groups.setdefault(ENGINES[entrant.contender.engine].formats, []).append(entrant)
    return groups


def _first_of_each(entrants: Iterable[Entrant]) -> list[Entrant]:
    """One entrant for each artifact; two may share it."""
    return list({entrant.artifact: entrant for entrant in entrants}.values())


def _fail(material: Material, entrants: Iterable[Entrant], reason: str) -> None:
    for entrant in entrants:
        material.failed[entrant.contender.name] = reason


def _write_reference(artifact: Artifact, folder: Path) -> None:
    """The golden inputs with the float64 reference's logits, for every engine of the model."""
    path = folder / REFERENCE_FILE
    golden = artifact.golden()
    if not path.exists() and golden["input"].dtype == np.float32 and "output/logits" in golden:
        logits = golden["output/logits"][:2].astype(np.float64)
        np.savez(path, input=golden["input"][:2], logits=logits)
