import importlib.util

import pytest

from levit.artifact import open_artifact
from levit.errors import BackendUnavailableError
from levit.runtime.backends import BACKENDS, Backend, Place, SessionOptions, open_session
from levit.runtime.obstacle import Obstacle
from levit.runtime.probes import imports, provider_obstacle

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def absent(**changes):
    values = dict(
        name="Absent",
        module="no_such_module_of_anyone",
        distributions=("no-such-package",),
        places={"gpu": Place(session="no:No", install="pip install it", probe="no:no")},
    )
    return Backend(**(values | changes))


@pytest.mark.parametrize("format_name", list(BACKENDS))
def test_every_place_names_what_there_is(format_name):
    backend = BACKENDS[format_name]
    assert set(backend.places) <= {"cpu", "gpu"}
    for place in backend.places.values():
        assert place.install.startswith("pip install")
        for name in (place.session, place.probe):
            module, _, attribute = name.partition(":")
            spec = importlib.util.find_spec(module)
            with open(spec.origin, encoding="utf-8") as file:
                source = file.read()
            assert f"def {attribute}(" in source or f"class {attribute}:" in source


def test_the_backend_of_these_tests_can_be_used():
    assert BACKENDS["onnx"].obstacle("cpu") is None
    assert BACKENDS["onnx"].version


def test_what_is_not_installed_says_how_to_install_it():
    backend = absent()
    assert (backend.installed, backend.version) == (False, None)
    assert backend.obstacle("gpu") == Obstacle(reason="not installed", remedy="pip install it")


def test_a_device_that_a_backend_does_not_know():
    found = absent().obstacle("cpu")
    assert found == Obstacle(reason="it does not run on 'cpu'", remedy="use device 'gpu'")


def test_a_backend_whose_package_is_broken(tmp_path, monkeypatch):
    (tmp_path / "broken_backend_of_this_test.py").write_text("raise RuntimeError('no\\nluck')")
    monkeypatch.syspath_prepend(tmp_path)
    place = Place(session="no:No", install="pip install it", probe="levit.runtime.probes:imports")
    assert absent(module="broken_backend_of_this_test", places={"gpu": place}).installed
    found = imports("broken_backend_of_this_test")
    assert found.reason == "cannot be imported (no luck)"


def test_an_obstacle_is_an_error_of_one_line(tiny_artifact):
    if BACKENDS["onnx"].obstacle("gpu") is None:
        pytest.skip("a GPU is here")
    with pytest.raises(BackendUnavailableError, match=r"^ONNX Runtime on 'gpu': no .*'cpu'$"):
        open_session(open_artifact(tiny_artifact), SessionOptions(device="gpu"))


def test_onnxruntime_must_have_cuda():
    assert provider_obstacle([CUDA, CPU], ["onnxruntime-gpu"]) is None
    found = provider_obstacle([CPU], ["onnxruntime"])
    assert found.reason == "the installed onnxruntime has no CUDA provider"
    assert found.remedy == (
        "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )
    # Installed over each other: whichever came last has written the files.
    found = provider_obstacle([CPU], ["onnxruntime", "onnxruntime-gpu"])
    assert found.remedy.startswith("pip uninstall onnxruntime onnxruntime-gpu && pip")
