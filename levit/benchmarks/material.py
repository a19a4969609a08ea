"""Files of a run: artifacts, reference outputs, the peers' networks, pictures to classify."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from levit.artifact import Artifact, open_artifact
from levit.benchmarks.correctness import REFERENCE_FILE
from levit.benchmarks.engines import ENGINES, Job
from levit.benchmarks.lineup import RunnableContender
from levit.benchmarks.peer_files import prepare
from levit.benchmarks.peer_making import calibration_batches
from levit.benchmarks.record import Contender
from levit.errors import InputError, LevitError
from levit.export import ExportOptions
from levit.interruption import raise_if_interrupted
from levit.models.counting import Counts, count
from levit.models.pictures import smooth_pictures
from levit.models.registry import DIGITS, FAMILIES, config_of
from levit.pictures.reading import load_image

__all__ = ["Material", "prepare_material", "write_photographs"]

_CALIBRATION_FILE: Final = "calibration.npz"

# Pictures for a machine that has none: (height, width) as ImageNet's have most often.
_PICTURES: Final = 16
_PICTURE_SIZE: Final = (375, 500)
_NOISE: Final = 6.0  # grey levels: makes files of 57 KB at quality 90, as photographs have
_ENDINGS: Final = {".jpg", ".jpeg"}
# Each contender holds all pictures of a user's folder in memory.
_MOST_PICTURES: Final = 64


@dataclass(frozen=True, kw_only=True)
class Material:
    """Files of a run's models.

    Attributes:
        folder: of them all.
        counts: parameters and MACs by model, where they are known.
        failed: the reason why a contender cannot take part, by its name.
    """

    folder: Path
    counts: dict[str, Counts] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def files(self, contender: RunnableContender) -> Path:
        """Return the folder of its model's files."""
        return self.folder / contender.place

    def job(self, contender: RunnableContender, *, batch: int, threads: int, device: str) -> Job:
        """Describe the work of its worker."""
        return Job(
            model=contender.model,
            precision=contender.precision,
            batch=batch,
            threads=threads,
            device=device,
            image_size=contender.image_size,
            files=self.files(contender),
            artifact=contender.artifact,
        )

    def counted(self, contender: RunnableContender) -> Contender:
        """Return the record's entry of a contender, with its model's counts."""
        known = {field.name: getattr(contender, field.name) for field in fields(Contender)}
        if counts := self.counts.get(contender.model):
            known |= {"macs": counts.macs, "parameters": counts.parameters}
        return Contender(**known)

    def fail(self, contenders: Iterable[RunnableContender], error: Exception) -> None:
        """Leave contenders out for an error, unless that comes of an interruption."""
        raise_if_interrupted()
        self.failed.update(dict.fromkeys((c.name for c in contenders), str(error)))


def prepare_material(
    contenders: Sequence[RunnableContender],
    folder: Path,
    *,
    seed: int,
    cache: bool,
    progress: Callable[[str], None],
) -> Material:
    """Write the files of every contender into `folder`, one sub-folder per model.

    Args:
        seed: of the random weights, which are the same for all engines.
        cache: True to keep the peers' files between runs.
    """
    material = Material(folder=folder)
    groups: dict[str, list[RunnableContender]] = {}
    for contender in contenders:
        if contender.kind != "ceiling":
            groups.setdefault(contender.place, []).append(contender)
    for number, group in enumerate(groups.values()):
        first = group[0]
        progress(f"preparing {first.model} ({number + 1} of {len(groups)})")
        material.files(first).mkdir(parents=True, exist_ok=True)
        if isinstance(first.source, Path):
            _use_artifact(first.source, first, material)
        else:
            _prepare_model(first.source, group, material, seed=seed, cache=cache)
    return material


def _use_artifact(source: Path, contender: RunnableContender, material: Material) -> None:
    """Link a user's artifact, which is its own reference by its golden cases."""
    # A link's target is looked for from the link's own folder.
    (material.files(contender) / contender.artifact).symlink_to(source.resolve())
    manifest = open_artifact(source, verify_hashes=False).manifest
    if family := FAMILIES.get(manifest.family):
        config = family.config_from_dict(manifest.config)
        material.counts[contender.model] = count(family, config)


def _prepare_model(
    model: str,
    contenders: Sequence[RunnableContender],
    material: Material,
    *,
    seed: int,
    cache: bool,
) -> None:
    # Not at the top: artifacts are timed where there is no onnx.
    from levit.export import export

    folder = material.files(contenders[0])
    ours = [c for c in contenders if c.kind == "ours" and c.artifact != "artifact"]
    peers = [c for c in contenders if c.kind == "peer"]
    for contender in {c.artifact: c for c in ours}.values():  # two may share it
        target, precision = contender.artifact.split("-", 1)[1].rsplit("-", 1)
        options = ExportOptions(
            model=model,
            random_weights=None if model == DIGITS else seed,
            target=target,
            precision="fp32" if precision == "int8" else precision,
            output=folder / contender.artifact,
        )
        try:
            if precision == "int8":
                if not (folder / REFERENCE_FILE).exists():
                    _write_reference(export(replace(options, output=folder / "exact")), folder)
                options = _at_int8(options, folder, contender.image_size, seed)
            artifact = export(options)
        except LevitError as error:
            material.fail([c for c in ours if c.artifact == contender.artifact], error)
        else:
            _write_reference(artifact, folder)
    if ours:
        _, family, config = config_of(model)
        material.counts[model] = count(family, config)
    # By the formats that they load: one that cannot be made stops no others.
    for formats in dict.fromkeys(ENGINES[c.engine].formats for c in peers):
        group = [c for c in peers if ENGINES[c.engine].formats == formats]
        try:
            size = group[0].image_size
            prepare(model, folder, formats=formats, image_size=size, seed=seed, cache=cache)
        except LevitError as error:
            material.fail(group, error)
        else:
            counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
            material.counts.setdefault(model, Counts(**counts))


def _at_int8(
    options: ExportOptions, folder: Path, image_size: tuple[int, int], seed: int
) -> ExportOptions:
    """Return options of an int8 calibrated as the peers are, and not judged.

    Random weights have no accuracy to keep.
    """
    place = folder / _CALIBRATION_FILE
    if not place.exists():
        np.savez(place, inputs=np.concatenate(calibration_batches(seed, image_size)))
    # Not at the top: artifacts are timed where there is no onnx.
    from levit.export.quantization.hardware import must_reduce_range
    from levit.export.targets import TARGETS

    exact = TARGETS[options.target].integers.exact_everywhere
    reduce = must_reduce_range() and not exact
    return replace(options, precision="int8", calibration=place, reduce_range=reduce, force=True)


def _write_reference(artifact: Artifact, folder: Path) -> None:
    """Write the golden inputs with the float64 logits, for every engine of the model."""
    if artifact.manifest.precision == "int8":
        return  # whose golden cases are its own integers'
    path, golden = folder / REFERENCE_FILE, artifact.golden()
    if not path.exists() and golden["input"].dtype == np.float32 and "output/logits" in golden:
        logits = golden["output/logits"][:2].astype(np.float64)
        np.savez(path, input=golden["input"][:2], logits=logits)


def write_photographs(folder: Path, source: Path | None, seed: int) -> tuple[Path, ...]:
    """Return JPEG files to classify: at most 64 of `source`, or gradients with a sensor's noise.

    Raises:
        InputError: `source` is no folder of JPEGs, or one of them cannot be read.
    """
    if source is not None:
        if not source.is_dir():
            raise InputError(f"{source}: no such folder of photographs")
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in _ENDINGS)
        if not found:
            raise InputError(f"{source}: holds no .jpg or .jpeg file")
        if len(found) > _MOST_PICTURES:
            chosen = np.random.default_rng(seed).choice(len(found), _MOST_PICTURES, replace=False)
            found = [found[index] for index in sorted(chosen)]
        for path in found:
            load_image(path)  # one that cannot be read says so now, not in the middle
        return tuple(path.resolve() for path in found)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for number, picture in enumerate(smooth_pictures(rng, _PICTURES, _PICTURE_SIZE)):
        noisy = np.clip(picture + rng.normal(0, _NOISE, (*_PICTURE_SIZE, 1)), 0, 255)
        data = io.BytesIO()
        Image.fromarray(noisy.round().astype(np.uint8)).save(data, "JPEG", quality=90)
        paths.append(folder / f"{number:02}.jpg")
        paths[-1].write_bytes(data.getvalue())
    return tuple(paths)
