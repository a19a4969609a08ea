"""int8 on an x86 without VNNI would saturate in silence: such an artifact does not open."""

import shutil
from dataclasses import replace

import pytest

from levit import Predictor
from levit.artifact import open_artifact, write_manifest
from levit.errors import BackendUnavailableError, ExportError
from levit.export import ExportOptions, export
from levit.models.registry import digits_folder
from levit.runtime import compatibility
from levit.runtime.cpus import VNNI, cpu_precisions


@pytest.fixture
def of_vnni(tiny_artifact, tmp_path):
    """An artifact whose manifest asks for VNNI."""
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    manifest = open_artifact(folder).manifest
    requirements = {**manifest.requirements, "cpu_features": list(VNNI)}
    write_manifest(folder, replace(manifest, requirements=requirements))
    return folder


@pytest.fixture
def machine(monkeypatch):
    """(features, x86) → this is such a CPU."""

    def pretend(features, *, x86=True):
        for module in ("levit.runtime.compatibility", "levit.export.quantization.hardware"):
            monkeypatch.setattr(f"{module}.cpu_features", lambda: features)
            monkeypatch.setattr(f"{module}.is_x86", lambda: x86)

    return pretend


def test_a_cpu_that_saturates_is_refused(of_vnni, machine):
    machine(("avx", "avx2", "fma"))
    with pytest.raises(BackendUnavailableError, match="avx512_vnni or avx_vnni or amx_int8") as e:
        Predictor(of_vnni)
    assert "--reduce-range" in str(e.value)


@pytest.mark.parametrize(
    ("features", "x86"), [*(((one,), True) for one in VNNI), (("asimd",), False), ((), True)]
)
def test_others_open_it(of_vnni, machine, features, x86):
    """Any one will do; other CPUs have no such kernels; golden cases tell of unknown ones."""
    machine(features, x86=x86)
    with Predictor(of_vnni) as predictor:
        compatibility.require_cpu_features(open_artifact(predictor.path))


def test_what_asks_for_nothing_opens_anywhere(tiny_artifact, machine):
    machine(("avx2",))
    Predictor(tiny_artifact).close()


@pytest.mark.slow
def test_such_a_cpu_exports_only_what_it_can_prove(machine, tmp_path):
    machine(("avx2",))
    photos = digits_folder() / "images"
    options = dict(model="levit_digits", precision="int8", calibration=photos)
    with pytest.raises(ExportError, match="add --reduce-range"):
        export(ExportOptions(**options, output=tmp_path / "out"))
    unproven = export(ExportOptions(**options, output=tmp_path / "out", verify="none", force=True))
    assert unproven.manifest.verification["status"] == "unverified"
    assert unproven.manifest.requirements["cpu_features"] == list(VNNI)


def test_vnni_is_how_an_x86_computes_in_int8():
    for feature in VNNI:
        assert cpu_precisions([feature])["int8"] == (feature,)
