"""Fixtures that every suite shares: small models, fresh seeds, one artifact, the peers marker."""

import importlib.util
import os

import numpy as np
import pytest

from levit.export import ExportOptions, export
from levit.models.levit.config import levit_config
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES

# Marker → (what its tests need, what brings it).
NEEDED = {
    "peers": (("torch", "timm", "transformers"), "pip install 'levit[peers]'"),
    "trt_rtx": (("tensorrt_rtx_bindings",), "pip install 'levit[trt-rtx]'"),
    "trt_names": (("tensorrt_bindings",), "pip install 'levit[dev]'"),
}

# Every run draws other weights and inputs; LEVIT_TEST_SEED repeats one.
SEED = int(os.environ.get("LEVIT_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))

_TINY = dict(widths=(32, 48, 64), key_dim=16, heads=(2, 3, 4), depths=(2, 1, 1), num_classes=10)

# Odd grids (6, 3, 2), grids that are not square, and every choice that a config leaves.
SMALL = {
    "tiny": dict(_TINY, image_size=(96, 96)),
    "wide": dict(_TINY, image_size=(64, 96)),
    "one_stage": dict(
        widths=(32,), key_dim=8, heads=(3,), depths=(2,), num_classes=7, image_size=(48, 80)
    ),
    "silu_stride_8": dict(_TINY, image_size=(40, 56), activation="silu", stem_convs=3),
    "conv": dict(_TINY, image_size=(96, 96), conv=True),
    "conv_wide": dict(_TINY, image_size=(96, 64), conv=True, distilled=False),
    "headless": dict(_TINY, image_size=(96, 96), num_classes=0),
    "plain": dict(_TINY, image_size=(96, 96), distilled=False),
    "one_channel": dict(_TINY, image_size=(64, 64), in_channels=1),
    "five_channels": dict(_TINY, image_size=(80, 64), in_channels=5),
}


def pytest_report_header():
    return f"LEVIT_TEST_SEED={SEED}"


def pytest_runtest_setup(item):
    for marker, (modules, install) in NEEDED.items():
        if item.get_closest_marker(marker) is not None:
            _require(modules, install)


def _require(modules, install):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if not missing:
        return
    reason = f"{' and '.join(missing)} missing: {install}"
    if os.environ.get("LEVIT_REQUIRE_PEERS"):
        pytest.fail(f"LEVIT_REQUIRE_PEERS is set, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        report.sections.append(("Seed", f"repeat with LEVIT_TEST_SEED={SEED}"))
    return report


@pytest.fixture(scope="session")
def seed():
    return SEED


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def levit():
    return FAMILIES["levit"]


@pytest.fixture(scope="session")
def small_configs():
    return {name: levit_config(**arguments) for name, arguments in SMALL.items()}


@pytest.fixture(scope="session")
def make_small(levit, small_configs):
    """(name) → a small model as trained, with weights that this run has drawn."""
    models = {}

    def make(name):
        if name not in models:
            models[name] = random_model(levit, small_configs[name], SEED)
        return models[name]

    return make


@pytest.fixture(params=list(SMALL))
def small(request, make_small):
    """Each small model in turn."""
    return make_small(request.param)


@pytest.fixture
def draw(rng):
    """(config, count) → (pixels (N, H, W, C) uint8, tensors (N, C, H, W) float32)."""

    def make(config, count=2):
        pixels = smooth_pictures(rng, count, config.image_size, config.in_channels)
        return pixels, standardized(pixels)

    return make


@pytest.fixture
def draw_for(draw):
    """(model, count) → what the model takes, such that float32 itself computes it well.

    Some pictures drive a random network to its edges, where rounding alone is 1e-4.
    """

    def make(model, count=2):
        for _ in range(12):
            x = draw(model.config, count)[model.plan.pixels is None]
            exact, single = (model.forward(NumpyOps(t), x) for t in (np.float64, np.float32))
            pairs = [(single[name], value) for name, value in exact.items()]
            if all(np.abs(a - b).max() <= 4e-6 * np.abs(b).max() for a, b in pairs):
                return x
        return x

    return make


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory):
    """The folder of an artifact of levit_digits: labels, preprocessing, 10 classes, fp32."""
    folder = tmp_path_factory.mktemp("artifact") / "levit_digits-onnx-fp32"
    export(ExportOptions(model="levit_digits", output=folder))
    return folder
