"""Fixtures of every suite (small models, seeds, one artifact) and markers of what a test needs.

A test that needs more than ``pip install -e '.[dev]'`` carries a marker of ``NEEDED``. It is
skipped where that is missing, and fails there if LEVIT_REQUIRE_<MARKER> is set, as in CI.
"""

import importlib.util
import os
import shutil
from collections import Counter
from dataclasses import dataclass

import hypothesis
import numpy as np
import pytest

from levit.export import ExportOptions, export
from levit.models.levit.config import levit_config
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.runtime.backends import BACKENDS
from levit.runtime.cpus import available_cpus


@dataclass(frozen=True, kw_only=True)
class Need:
    """Modules and programs that the tests of a marker use, and the command that brings them."""

    install: str
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()

    def missing(self):
        modules = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return modules + [name for name in self.programs if shutil.which(name) is None]


class NeedEngine(Need):
    """Our own engine, which the installation has compiled or not."""

    def missing(self):
        obstacle = BACKENDS["native"].obstacle("cpu")
        return [] if obstacle is None else [obstacle.reason]


NEEDED = {
    "native": NeedEngine(install=BACKENDS["native"].places["cpu"].install),
    "peers": Need(
        modules=(
            "torch",
            "torchvision",
            "timm",
            "transformers",
            "onnxscript",
            "nncf",
            "mmpretrain",
        ),
        install="pip install 'levit[peers]'",
    ),
    "trt_rtx": Need(modules=("tensorrt_rtx_bindings",), install="pip install 'levit[trt-rtx]'"),
    "trt_names": Need(modules=("tensorrt_bindings",), install="pip install 'levit[dev]'"),
    "docs": Need(
        modules=("fastapi", "uvicorn", "python_multipart"),
        programs=("curl",),
        install="pip install 'levit[docs]', and curl",
    ),
    "frozen": Need(modules=("PyInstaller",), install="pip install pyinstaller"),
    "chromium": Need(
        programs=("chromium", "chromedriver"), install="apt-get install chromium chromium-driver"
    ),
}

# Ordinary runs draw the same weights, pictures and examples each time; LEVIT_NIGHTLY draws new
# ones, and LEVIT_TEST_SEED repeats the weights and pictures of a run.
NIGHTLY = bool(os.environ.get("LEVIT_NIGHTLY"))
ORDINARY_SEED = 210401136
SEED = int(
    os.environ.get("LEVIT_TEST_SEED")
    or (int.from_bytes(os.urandom(4), "little") if NIGHTLY else ORDINARY_SEED)
)
os.environ["LEVIT_TEST_SEED"] = str(SEED)  # the same one in every worker of pytest-xdist

hypothesis.settings.register_profile("ordinary", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("nightly", print_blob=True, deadline=None)
hypothesis.settings.load_profile("nightly" if NIGHTLY else "ordinary")

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


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Run modules side by side, one process for each CPU, up to 8, unless ``-n`` says otherwise.

    Each module stays whole, so that its fixtures are made once. Where single tests are named, or
    somebody watches (``-s``, ``--pdb``), one process is quicker and easier to follow.
    """
    option = config.option
    if hasattr(config, "workerinput") or getattr(option, "numprocesses", 0) is not None:
        return
    named = any("::" in argument for argument in config.args)
    if not (named or option.usepdb or option.collectonly or option.capture == "no"):
        option.numprocesses = min(available_cpus(), 8)
        option.dist, option.loadscopereorder = "loadscope", False  # in the order of `longest_first`
        # The workers share the CPUs already: a second thread of BLAS in each spends its time
        # spinning (docs/decisions.md). Read when NumPy and PyTorch are loaded, in the workers.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")


@pytest.hookimpl(trylast=True)  # of those whose marks are asked for
def pytest_collection_modifyitems(config, items):
    """Keep one case of each test where LEVIT_FIRST_CASES is set.

    Another Python runs the same lines; it computes the cases' numbers no differently.
    """
    if os.environ.get("LEVIT_FIRST_CASES"):
        first = {}
        for item in items:
            first.setdefault(item.nodeid.partition("[")[0], item)
        kept = set(first.values())
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]
    if hasattr(config, "workerinput"):
        longest_first(items)


def longest_first(items):
    """Order modules so that none is long when the others have ended: slow tests count tenfold."""
    weights = Counter()
    for item in items:
        weights[item.path] += 10 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -weights[item.path])


def pytest_runtest_setup(item):
    for marker, need in NEEDED.items():
        if item.get_closest_marker(marker) is None or not (missing := need.missing()):
            continue
        reason = f"{' and '.join(missing)} missing: {need.install}"
        variable = f"LEVIT_REQUIRE_{marker.upper()}"
        if os.environ.get(variable):
            pytest.fail(f"{variable} is set, but {reason}", pytrace=False)
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


@pytest.fixture(scope="session", autouse=True)
def quiet_steps():
    """No line about a step of over five seconds, which a busy machine would add to stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("levit.commands.progress._LONG_S", 3600.0)
        yield
