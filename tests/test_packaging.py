"""Files that describe the package agree with it."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import levit

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def hook():
    """hatch_build.py, which only a build imports."""
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    """A PATH without any program."""
    for name in ("CXX", "LEVIT_ZIG", "LEVIT_WHEEL_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_citation_has_the_version_of_the_package():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", text, re.MULTILINE) == [levit.__version__]


def test_the_version_of_the_distribution_is_read_from_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in text
    assert f'"{levit.__version__}"' not in text


def test_every_python_of_the_classifiers_is_one_that_is_required():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (oldest,) = re.findall(r'requires-python = ">=3\.(\d+)"', text)
    minors = [
        int(minor) for minor in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', text)
    ]
    assert minors == list(range(int(oldest), max(minors) + 1))


def test_leaking_releases_of_onnx_runtime_are_excluded_on_arm_alone():
    requirements = pytest.importorskip("packaging.requirements")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    wanted = [
        requirements.Requirement(line) for line in re.findall(r'^ +"(.*)",$', block, re.MULTILINE)
    ]
    for machine, leaks in {"x86_64": False, "aarch64": True, "arm64": True}.items():
        here = {"platform_machine": machine}
        (one,) = [w for w in wanted if w.name == "onnxruntime" and w.marker.evaluate(here)]
        taken = [v for v in ("1.20.0", "1.23.2", "1.24.4", "1.25.1", "1.26.0", "1.27.0", "1.32.0")
                 if v in one.specifier]  # fmt: skip
        assert len(taken) == (4 if leaks else 7)


def test_contributing_names_paths_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w/.])((?:levit|scripts|docs|tests|\.ci)/[\w./-]*\w)", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) > 10


def test_every_source_of_the_engine_is_compiled():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    named = re.findall(r"\bnative/\w+\.cpp\b", text)
    assert sorted(set(named)) == sorted(f"native/{path.name}" for path in ROOT.glob("native/*.cpp"))


def test_zig_compiles_where_there_is_no_compiler(hook, no_compiler, monkeypatch):
    assert hook.wants_zig()
    monkeypatch.setenv("LEVIT_ZIG", "0")
    assert not hook.wants_zig()
    monkeypatch.delenv("LEVIT_ZIG")
    monkeypatch.setenv("CXX", "/opt/clang++")  # a choice, even where it is not there
    assert not hook.wants_zig()
    monkeypatch.setenv("LEVIT_ZIG", "1")
    assert hook.wants_zig()


def test_a_build_without_tools_says_so_in_a_line(hook, no_compiler, monkeypatch, tmp_path):
    assert hook.lacks_cmake()
    monkeypatch.setenv("LEVIT_ZIG", "0")
    with pytest.raises(hook.CannotBuildError, match=r"\A(cmake: .+|it is for Linux .+)\Z"):
        hook.build(ROOT, tmp_path / "build", tmp_path)


def test_a_platform_that_no_wheel_is_for_is_refused(hook, monkeypatch):
    monkeypatch.setenv("LEVIT_WHEEL_PLATFORM", "win_amd64")
    with pytest.raises(hook.CannotBuildError, match=r"\ALEVIT_WHEEL_PLATFORM=win_amd64: not .+\Z"):
        hook.zig_options()


@pytest.mark.slow
def test_a_source_distribution_is_enough_for_a_wheel_with_the_engine(tmp_path):
    if sysconfig.get_platform() not in ("linux-x86_64", "linux-aarch64"):
        pytest.skip("the engine is for Linux on x86-64 and aarch64")
    # The wheel is built from the source distribution, not from the checkout; .ci/run has done it.
    folder = Path(os.environ.get("LEVIT_TEST_DIST") or tmp_path)
    if folder == tmp_path:
        done = subprocess.run(
            [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)],
            capture_output=True, text=True, env={**os.environ, "LEVIT_REQUIRE_NATIVE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    (sources,) = folder.glob("*.tar.gz")
    with tarfile.open(sources) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CMakeLists.txt", "hatch_build.py", "native/isa.cpp", "tests/conftest.py"} <= held
    assert "levit/native/_levit.so" not in held
    platform = sysconfig.get_platform().replace("-", "_")
    (wheel,) = folder.glob(f"levit-{levit.__version__}-py3-none-{platform}.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "levit/native/_levit.so" in archive.namelist()
        assert not any(name.startswith("native/") for name in archive.namelist())
