"""Every DeiT, ConViT and ViT, at full size, becomes an engine at fp16.

`-m slow` takes the smallest of each form. Those that are wider, deeper or of larger images take
up to minutes, most of them for the float64 reference.
"""

from dataclasses import asdict

import pytest

from levit.export import ExportOptions, export
from levit.models.registry import FAMILIES

pytestmark = pytest.mark.trt_rtx


SIZES = {"image_size", "patch_size", "width", "depth", "heads", "mlp_width", "local_depth"}
VARIANTS = [
    (family, name, variant.config)
    for family in ("deit", "convit", "vit")
    for name, variant in FAMILIES[family].variants.items()
]


def _form(family, config):
    """All of a network but its sizes."""
    return family, *((key, value) for key, value in asdict(config).items() if key not in SIZES)


def _smallest_of_each_form():
    found = {}
    by_size = sorted(VARIANTS, key=lambda variant: variant[2].width * variant[2].tokens)
    for family, name, config in by_size:
        found.setdefault(_form(family, config), name)
    return set(found.values())


def _mark(name, config):
    is_small = config.width <= 512 and config.tokens < 300
    return pytest.mark.slow if name in FIRST and is_small else pytest.mark.nightly


FIRST = _smallest_of_each_form()
NAMES = [pytest.param(name, marks=_mark(name, config)) for _, name, config in VARIANTS]


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
