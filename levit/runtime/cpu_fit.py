"""Whether this CPU has the instructions that an artifact counts on."""

from __future__ import annotations

from levit.artifact import Artifact
from levit.errors import BackendUnavailableError
from levit.runtime.cpus import cpu_features, is_x86

__all__ = ["require_cpu_features"]


def require_cpu_features(artifact: Artifact) -> None:
    """Raise where an x86 has none of what the manifest's ``cpu_features`` name.

    Of int8 those are the instructions that add products in 32 bits: without them kernels add in
    16, saturate, and answer wrongly in silence. Other CPUs have no such kernels.

    Raises:
        BackendUnavailableError: says what is missing, and what to do.
    """
    wanted = artifact.manifest.requirements.get("cpu_features") or []
    present = cpu_features()
    if not wanted or not present or not is_x86():
        return
    if set(map(str, wanted)).isdisjoint(present):
        raise BackendUnavailableError(
            f"{artifact.path.name} computes in {artifact.manifest.precision}, for which this CPU "
            f"needs {' or '.join(map(str, wanted))}: export it with --reduce-range, or in fp32"
        )
