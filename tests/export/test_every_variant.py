"""Every DeiT, ConViT and ViT, at full size, becomes an engine at fp16.

The wide ones, and those of large images, take minutes, most of them for the float64 reference.
"""

import pytest

from levit.export import ExportOptions, export
from levit.models.registry import FAMILIES

pytestmark = pytest.mark.trt_rtx


def _is_small(config):
    return config.width <= 512 and config.tokens < 300


NAMES = [
    pytest.param(name, marks=pytest.mark.slow if _is_small(variant.config) else pytest.mark.nightly)
    for family in ("deit", "convit", "vit")
    for name, variant in FAMILIES[family].variants.items()
]


@pytest.mark.parametrize("name", NAMES)
def test_rtx_builds_it_at_fp16(name, tmp_path):
    artifact = export(
        ExportOptions(
            model=name,
            random_weights=3,
            target="trt-rtx",
            precision="fp16",
            output=tmp_path / "a",
        )
    )
    verification = artifact.manifest.verification
    graph = verification["graph"]
    assert verification["fp32_max_relative_error"] <= verification["fp32_tolerance"]
    assert graph["max_relative_error"] <= graph["tolerance"]
    assert verification["unverified_because"]
