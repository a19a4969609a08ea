"""What contenders load: each model its own folder, whatever artifacts are called."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from levit.artifact import open_artifact
from levit.benchmarks.correctness import REFERENCE_FILE
from levit.benchmarks.lineup import choose_lineup
from levit.benchmarks.material import prepare_material
from levit.errors import ExportError
from levit.export import api
from levit.models.counting import count
from levit.models.registry import FAMILIES

DEFAULTS = dict(device="cpu", models=None, artifacts=(), engines=["levit-onnx"], peers=False)


@pytest.fixture
def prepare(tmp_path):
    def make(**settings):
        lineup = choose_lineup(**{**DEFAULTS, **settings})
        return lineup.contenders, prepare_material(
            lineup.contenders, tmp_path / "work", seed=0, cache=False, progress=lambda title: None
        )

    return make


def test_a_model_is_exported_with_its_reference(prepare):
    (contender,), material = prepare(models=["levit_digits"])
    files = material.files(contender)
    assert open_artifact(files / contender.artifact).manifest.variant == "levit_digits"
    with np.load(files / REFERENCE_FILE) as stored:
        assert stored["input"].shape == (2, 3, 96, 96)
        assert stored["logits"].dtype == np.float64
    assert material.counted(contender).parameters == 227_105


@pytest.mark.slow
def test_a_model_at_int8_is_held_against_the_exact_answers(prepare):
    (contender,), material = prepare(models=["levit_digits"], engines=["levit-onnx-int8"])
    assert not material.failed
    files = material.files(contender)
    artifact = open_artifact(files / contender.artifact)
    assert artifact.manifest.precision == "int8"
    with np.load(files / REFERENCE_FILE) as stored:
        integers = artifact.golden()["output/logits"][:2]
        difference = np.abs(stored["logits"] - integers).max() / np.abs(stored["logits"]).max()
    assert 0 < difference < 0.2  # not its own


def test_artifacts_of_one_name_do_not_meet(prepare, tiny_artifact, tmp_path):
    for name in ("before", "after"):
        shutil.copytree(tiny_artifact, tmp_path / name / "levit_digits")
    folders = [tmp_path / name / "levit_digits" for name in ("before", "after")]
    contenders, material = prepare(artifacts=folders, models=["levit_digits"])
    assert len({material.files(contender) for contender in contenders}) == 3
    users = contenders[1:]
    assert [(material.files(e) / e.artifact).resolve() for e in users] == folders
    # Its own weights, whatever its name: nothing of the published model is said of it.
    assert all(c.model == "levit_digits (artifact)" for c in users)
    assert not any((material.files(e) / REFERENCE_FILE).exists() for e in users)
    assert len({c.name for c in contenders}) == 3


def test_an_artifact_may_be_named_from_the_current_folder(
    prepare, tiny_artifact, tmp_path, monkeypatch
):
    shutil.copytree(tiny_artifact, tmp_path / "runs" / "best")
    monkeypatch.chdir(tmp_path)
    (contender,), material = prepare(artifacts=[Path("runs/best")])
    found = material.files(contender) / contender.artifact
    assert found.resolve() == tmp_path / "runs" / "best"
    assert open_artifact(found).path == found


def test_an_artifact_has_the_counts_of_its_own_config(prepare, tiny_artifact):
    (contender,), material = prepare(artifacts=[tiny_artifact])
    manifest = open_artifact(tiny_artifact).manifest
    family = FAMILIES["levit"]
    config = family.config_from_dict(manifest.config)
    assert material.counted(contender).macs == count(family, config).macs


def test_what_cannot_be_exported_is_a_reason_not_an_end(prepare):
    def refuse(options):
        raise ExportError("this export is refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "export", refuse)
        (contender,), material = prepare(models=["levit_digits"])
    assert material.failed == {contender.name: "this export is refused"}
