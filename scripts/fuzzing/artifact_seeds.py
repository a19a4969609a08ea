"""Small artifacts, exported by the release at hand, and their manifests with seals for hashes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from levit.artifact import MANIFEST_FILE

__all__ = ["BASES", "export_bases", "sealed_manifest"]

# The smallest LeViT that has a downsampling: 77 kB.
_CONFIG = {
    "architecture": "fuzzed",
    "img_size": [32, 48],
    "in_chans": 3,
    "num_classes": 5,
    "embed_dim": [16, 24],
    "key_dim": 8,
    "num_heads": [2, 3],
    "depth": [1, 1],
    "label_names": ["tench", "goldfish", "great white shark", "鯉", "a, b"],
}
BASES = {
    "plain": (),
    "embedding": ("--outputs", "logits,embedding", "--batch", "1:2:4"),
    "static": ("--input", "uint8", "--batch", "2"),
}


def export_bases(
    folder: Path, target: str = "onnx", more: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Path]:
    """Export every base below `folder`: in other processes, so that this one can still fork.

    Args:
        more: flags of other bases, by their names.
    """
    config = folder / "config.json"
    config.write_text(json.dumps(_CONFIG), encoding="utf-8")
    found = {}
    for name, flags in {**BASES, **(more or {})}.items():
        found[name] = folder / name
        command = ["export", "--random-weights", "3", "--config", str(config), *flags]
        command += ["--target", target]
        subprocess.run(
            [sys.executable, "-m", "levit", *command, "--output", str(found[name])],
            check=True,
            capture_output=True,
        )
    return found


def sealed_manifest(base: Path) -> str:
    """The manifest of a base as text, with seals instead of hashes and sizes."""
    values = json.loads((base / MANIFEST_FILE).read_text(encoding="utf-8"))
    for name, entry in values["files"].items():
        entry |= {"sha256": f"@sha256:{name}@", "size_bytes": f"@size:{name}@"}
    return json.dumps(values)
