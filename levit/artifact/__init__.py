"""The artifact: a folder with a manifest, written whole or not at all, verified when opened."""

from levit.artifact.folder import (
    GOLDEN_FILE,
    LABELS_FILE,
    Artifact,
    describe_files,
    foreign_files,
    is_artifact,
    open_artifact,
    sha256_of,
    write_manifest,
)
from levit.artifact.manifest import (
    MANIFEST_FILE,
    MAX_BATCH,
    SCHEMA_VERSION,
    BatchProfile,
    Manifest,
    TensorSpec,
)

__all__ = [
    "GOLDEN_FILE",
    "LABELS_FILE",
    "MANIFEST_FILE",
    "MAX_BATCH",
    "SCHEMA_VERSION",
    "Artifact",
    "BatchProfile",
    "Manifest",
    "TensorSpec",
    "describe_files",
    "foreign_files",
    "is_artifact",
    "open_artifact",
    "sha256_of",
    "write_manifest",
]
