"""The artifact: a folder with a manifest, written whole or not at all, verified when opened."""

from levit.artifact.folder import (
    Artifact,
    describe_files,
    foreign_files,
    is_artifact,
    open_artifact,
    sha256_of,
    write_manifest,
)
from levit.artifact.manifest import (
    MAX_BATCH,
    SCHEMA_VERSION,
    SCORES,
    BatchProfile,
    Manifest,
    TensorSpec,
)
from levit.artifact.names import (
    ENGINE_FILE,
    GOLDEN_FILE,
    GRAPH_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    NATIVE_FILE,
    OPENVINO_FILE,
    OPENVINO_WEIGHTS_FILE,
)

__all__ = [
    "ENGINE_FILE",
    "GOLDEN_FILE",
    "GRAPH_FILE",
    "LABELS_FILE",
    "MANIFEST_FILE",
    "MAX_BATCH",
    "NATIVE_FILE",
    "OPENVINO_FILE",
    "OPENVINO_WEIGHTS_FILE",
    "SCHEMA_VERSION",
    "SCORES",
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
