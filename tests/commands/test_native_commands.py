"""Commands on artifacts of the native engine, and on machines without it."""

import json

import pytest

from levit.export import ExportOptions, export
from levit.models.registry import digits_folder

PICTURES = digits_folder() / "images"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native") / "digits"
    export(ExportOptions(model="levit_digits", target="native", output=folder, verify="none"))
    return folder


@pytest.mark.native
def test_check_predict_and_eval(levit, artifact):
    values = json.loads(levit("check", artifact, "--json").stdout)
    assert (values["backend"], values["passed"]) == ("levit native", True)
    result = levit("predict", artifact, PICTURES / "3" / "0045.png", "--top-k", "1")
    assert (result.status, result.stdout.split(": ")[1]) == (0, "3 90.4%\n")
    values = json.loads(levit("eval", artifact, PICTURES, "--json").stdout)
    assert (values["images"], round(values["top1"], 4)) == (540, 0.9944)


def test_inspect_needs_no_engine(levit, artifact, monkeypatch):
    monkeypatch.setenv("LEVIT_NATIVE_LIBRARY", "/nowhere.so")
    result = levit("inspect", artifact)
    assert result.status == 0
    assert "target         native, fp32" in result.stdout


def test_without_the_engine_it_is_one_line(levit, artifact, monkeypatch):
    monkeypatch.setenv("LEVIT_NATIVE_LIBRARY", "/nowhere.so")
    for words in (["check", artifact], ["predict", artifact, PICTURES / "3" / "0045.png"]):
        result = levit(*words)
        assert (result.status, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1
        assert "/nowhere.so: cannot open" in result.stderr
        assert "pip install --force-reinstall --no-deps ." in result.stderr


def test_an_export_without_the_engine_is_unverified(levit, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVIT_NATIVE_LIBRARY", "/nowhere.so")
    folder = tmp_path / "out"
    result = levit("export", "--model", "levit_digits", "--target", "native", "--output", folder)
    assert result.status == 0
    assert result.stdout.startswith(f"{folder}: unverified")
    assert "cannot be loaded" in result.stderr
