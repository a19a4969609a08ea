"""Fields of ``manifest.json``, checked one by one; ``docs/manifest.md`` describes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from levit.artifact.names import MANIFEST_FILE
from levit.errors import ConfigError, CorruptArtifactError, ManifestVersionError
from levit.json_values import flag, listed, number, shown, table, text, whole
from levit.pictures.preprocess import PreprocessSpec

__all__ = [
    "MAX_BATCH",
    "SCHEMA_VERSION",
    "SCORES",
    "BatchProfile",
    "Manifest",
    "TensorSpec",
]

SCHEMA_VERSION: Final = 2

# Activations that make scores of logits.
SCORES: Final = ("softmax", "sigmoid", "none")
# The first version that has a field, where it is not 1. A release that knows only softmax refuses
# the newer version, so that it never ranks a sigmoid's classes by a softmax.
_SINCE: Final = {"scores": 2}

# Far beyond use, near enough that a slip of the finger is an error and not a full memory.
MAX_BATCH: Final = 65_536


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output: ``shape`` holds numbers, and ``"batch"`` where any number may stand."""

    name: str
    dtype: str
    layout: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """Batch sizes: `static` artifacts take `max` and no other; dynamic ones take any.

    The runtime makes batches of `opt`, and passes at most `max` images at once.
    """

    min: int
    opt: int
    max: int
    static: bool


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of ``manifest.json``; ``docs/manifest.md`` describes every field.

    One that an older release wrote is read as this release would have written it.
    """

    schema_version: int = SCHEMA_VERSION
    family: str
    variant: str
    config: Mapping[str, Any]
    source: Mapping[str, Any]
    assumed: tuple[str, ...] = ()
    passes: tuple[Mapping[str, Any], ...] = ()
    target: str
    format: str
    precision: str
    payload: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchProfile
    scores: str | None
    preprocess: PreprocessSpec | None
    verification: Mapping[str, Any]
    calibration: Mapping[str, Any] | None = None
    toolchain: Mapping[str, str] = field(default_factory=dict)
    requirements: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, in the order of the fields."""
        preprocess = None if self.preprocess is None else self.preprocess.to_dict()
        return {**asdict(self), "preprocess": preprocess}

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """Check the values of ``json.loads`` and build the manifest.

        Raises:
            ManifestVersionError: a newer release wrote it.
            CorruptArtifactError: a field is missing, unknown or of the wrong type.
        """
        if not isinstance(values, dict) or type(values.get("schema_version")) is not int:
            raise CorruptArtifactError(f"{MANIFEST_FILE} is not a manifest of this package")
        version = values["schema_version"]
        if version > SCHEMA_VERSION:
            raise ManifestVersionError(
                f"the artifact has schema version {version}, this release reads up to "
                f"{SCHEMA_VERSION}: upgrade levit, or export again with this release"
            )
        names = {f.name for f in fields(cls) if _SINCE.get(f.name, 1) <= version}
        odd = sorted(names ^ set(values))
        if odd or version < 1:
            raise CorruptArtifactError(
                f"{MANIFEST_FILE} of schema version {version} has missing or unknown fields: "
                f"{', '.join(odd) or 'schema_version'}; export again"
            )
        try:
            outputs = _some_outputs(values["outputs"])
            return cls(
                **{
                    **values,
                    "schema_version": SCHEMA_VERSION,
                    "assumed": tuple(map(text, listed(values["assumed"], "assumed"))),
                    "passes": tuple(map(_pass_entry, listed(values["passes"], "passes"))),
                    "inputs": _one_input(values["inputs"]),
                    "outputs": outputs,
                    "batch": _batch_profile(values["batch"]),
                    "scores": _scores(values, outputs),
                    "preprocess": _preprocess(values["preprocess"], values["inputs"][0]["dtype"]),
                    **{name: table(values[name], name) for name in _MAPPINGS},
                    "verification": _verification(table(values["verification"])),
                    "requirements": _requirements(table(values["requirements"])),
                    **{name: text(values[name], name) for name in _TEXTS},
                    "files": {
                        _plain_name(name): _file_entry(entry)
                        for name, entry in table(values["files"], "files").items()
                    },
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise CorruptArtifactError(
                f"{MANIFEST_FILE} is damaged ({error}); export again"
            ) from error


# Of architectures there may be a dozen.
_LONGEST_VERSION: Final = 200
_MAPPINGS: Final = ("config", "source", "verification", "toolchain", "requirements")
_TEXTS: Final = ("family", "variant", "target", "format", "precision", "payload")


def _count(value: Any) -> int:
    return whole(value, least=0)


def _tensor_spec(values: Any) -> TensorSpec:
    first, *rest = listed(values["shape"], "shape")
    shape = (first if first == "batch" else _count(first), *map(_count, rest))
    return TensorSpec(
        name=text(values["name"], "name"),
        dtype=text(values["dtype"], "dtype"),
        layout=text(values["layout"], "layout"),
        shape=shape,
    )


def _pass_entry(values: Any) -> dict[str, Any]:
    return {**table(values), "name": text(values["name"], "name"), "count": _count(values["count"])}


def _requirements(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the fields that every backend reads; an engine's own are checked with the engine."""
    for name in ("backend", "backend_version", "gpu_architecture"):
        if values.get(name) is not None and len(text(values[name], name)) > _LONGEST_VERSION:
            raise ValueError(f"requirements.{name} is too long: {shown(values[name])}")
    if values.get("cpu_features") is not None:
        for feature in listed(values["cpu_features"], "requirements.cpu_features"):
            text(feature, "requirements.cpu_features")
    return values


def _verification(values: Any) -> dict[str, Any]:
    for name in ("tolerance", "max_relative_error", "max_abs_error", "top1_agreement"):
        if values.get(name) is not None:
            # An artifact that --force has kept may be infinitely far off.
            number(values[name], f"verification.{name}", finite=False)
    for name in ("cpu_class", "gpu_class"):
        if values.get(name) is not None:
            text(values[name], f"verification.{name}")
    if values.get("accuracy") is not None:
        text(table(values["accuracy"], "accuracy")["verdict"], "verification.accuracy.verdict")
    tolerance = values["tolerance"]
    if tolerance is None or not 0 < tolerance < 1:
        raise ValueError(f"verification.tolerance must lie between 0 and 1, not {tolerance!r}")
    return {**values, "status": text(values["status"], "verification.status")}


def _preprocess(values: Any, dtype: str) -> PreprocessSpec | None:
    if values is None:
        return None
    spec = PreprocessSpec.from_dict(table(values, "preprocess"))
    if spec.white > 255 and dtype == "uint8":
        raise ValueError(f"preprocess of mode {spec.image_mode} gives no {dtype}")
    if len(spec.mean) != spec.channels:
        raise ValueError(f"preprocess has {len(spec.mean)} means for {spec.channels} channels")
    return spec


def _one_input(values: Any) -> tuple[TensorSpec, ...]:
    (value,) = listed(values, "inputs")
    return (_tensor_spec(value),)


def _some_outputs(values: Any) -> tuple[TensorSpec, ...]:
    outputs = tuple(map(_tensor_spec, listed(values, "outputs")))
    if not outputs:
        raise ValueError("no outputs")
    return outputs


def _scores(values: Mapping[str, Any], outputs: tuple[TensorSpec, ...]) -> str | None:
    """Take the activation of the logits; None where they are no output."""
    has_logits = any(output.name == "logits" for output in outputs)
    value = values.get("scores", "softmax" if has_logits else None)
    if value is None and not has_logits:
        return None
    if value not in SCORES:
        raise ValueError(f"scores: expected one of {', '.join(SCORES)}, not {shown(value)}")
    return text(value, "scores")


def _batch_profile(values: Any) -> BatchProfile:
    profile = BatchProfile(
        min=_count(values["min"]),
        opt=_count(values["opt"]),
        max=_count(values["max"]),
        static=flag(values["static"], "batch.static"),
    )
    if not 1 <= profile.min <= profile.opt <= profile.max <= MAX_BATCH:
        raise ValueError(f"batch profile {profile} is not 1 <= min <= opt <= max <= {MAX_BATCH}")
    return profile


def _plain_name(name: str) -> str:
    if (
        not name
        or name in (".", "..")
        or name != os.path.basename(name)
        or set(name) & set("\\:\0")
    ):
        raise ValueError(f"file name {name!r} is not a plain name inside the artifact")
    return name


def _file_entry(values: Any) -> dict[str, Any]:
    return {"sha256": text(values["sha256"], "sha256"), "size_bytes": _count(values["size_bytes"])}
