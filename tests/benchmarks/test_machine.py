import copy
import getpass
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import levit
from levit.benchmarks import machine
from levit.benchmarks.machine import changes, differences, fingerprint, identity
from levit.runtime import cpus


@pytest.fixture(scope="module")
def here():
    return fingerprint("cpu")


def leaves(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def test_it_is_plain_and_survives_json(here):
    assert all(isinstance(leaf, str | int | float | bool | None) for leaf in leaves(here))
    again = json.loads(json.dumps(here, allow_nan=False))
    assert again == here
    assert identity(again) == identity(here)


def test_it_says_what_is_known_everywhere(here):
    assert here["cpu"]["model"] == cpus.cpu_model()
    assert here["cpu"]["features"] == list(cpus.cpu_features())
    assert here["cpu"]["architecture"] == platform.machine()
    assert here["cpu"]["usable"] == cpus.available_cpus()
    assert here["gpu"] is None
    assert here["versions"]["levit"] == levit.__version__
    assert here["system"]["python"].endswith(platform.python_version())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and /sys are Linux's")
def test_it_says_what_linux_tells(here):
    assert here["cpu"]["mask"] == sorted(os.sched_getaffinity(0))
    assert here["cpu"]["allowed"] == len(here["cpu"]["mask"])
    kilobytes = Path("/proc/meminfo").read_text().split()[1]
    assert here["memory"]["total_bytes"] == int(kilobytes) * 1024
    assert len(here["load"]) == 3


def test_nothing_in_it_names_a_host_a_user_or_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LD_PRELOAD", f"{tmp_path}/secret place/libjemalloc.so")
    monkeypatch.setenv("OMP_TOOL_LIBRARIES", r"C:\Users\someone\tool.dll")
    monkeypatch.setenv("MKL_API_KEY", "do-not-publish")
    told = fingerprint("cpu")
    assert told["environment"]["LD_PRELOAD"] == "libjemalloc.so"
    assert told["environment"]["OMP_TOOL_LIBRARIES"] == "C:tool.dll"
    assert "MKL_API_KEY" not in told["environment"]
    texts = [leaf for leaf in leaves(told) if isinstance(leaf, str)]
    home, host, user = str(Path.home()), socket.gethostname(), getpass.getuser()
    for text in texts:
        assert str(tmp_path) not in text
        assert "secret" not in text
        assert home == "/" or home not in text
        assert text not in (host, user)
        # "Debian GNU/Linux" is a name; a folder begins with the slash.
        assert not text.startswith("/")


def test_variables_that_move_threads_are_in_it(monkeypatch):
    chosen = {"OMP_NUM_THREADS": "3", "KMP_BLOCKTIME": "0", "ORT_DISABLE_X": "1"}
    for name, value in {**chosen, "OMPX": "no", "EDITOR": "no"}.items():
        monkeypatch.setenv(name, value)
    told = fingerprint("cpu")["environment"]
    assert chosen.items() <= told.items()
    assert not {"OMPX", "EDITOR", "PATH", "HOME"} & set(told)


def test_without_proc_and_sys_it_says_none(monkeypatch, tmp_path):
    """macOS and Windows have neither; containers hide parts."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(cpus, "_PROC", tmp_path)
    monkeypatch.setattr(machine, "_SYS", tmp_path)
    monkeypatch.setattr(cpus, "_CGROUP_ROOT", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "getloadavg", raising=False)
    told = fingerprint("cpu")
    unknown = ("revision", "cores", "mask", "quota", "smt", "governor", "boost", "highest_mhz")
    assert {name: told["cpu"][name] for name in unknown} == dict.fromkeys(unknown)
    assert told["cpu"]["hypervisor"] is None
    assert told["cpu"]["features"] == []
    assert told["cpu"]["allowed"] == os.cpu_count()
    assert told["memory"]["transparent_huge_pages"] is None
    assert told["load"] is None
    assert differences(told, told) == []


def test_what_a_desktop_tells(monkeypatch, tmp_path):
    """Two cores of two threads with a governor: files as the kernel writes them."""
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 4 if logical else 2)
    files = {
        "devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "devices/system/cpu/cpu0/cpufreq/scaling_driver": "intel_pstate\n",
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1799998\n",
        "devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "4700000\n",
        "devices/system/cpu/intel_pstate/no_turbo": "0\n",
        "devices/system/cpu/smt/active": "1\n",
        "devices/system/cpu/cpu0/cache/index0/level": "1\n",
        "devices/system/cpu/cpu0/cache/index0/type": "Data\n",
        "devices/system/cpu/cpu0/cache/index0/size": "48K\n",
        "kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "class/dmi/id/sys_vendor": "LENOVO\n",
        "class/dmi/id/product_name": "20XW\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_SYS", tmp_path)
    told = fingerprint("cpu")
    cpu = told["cpu"]
    assert (cpu["governor"], cpu["driver"]) == ("powersave", "intel_pstate")
    assert (cpu["current_mhz"], cpu["highest_mhz"]) == (pytest.approx(1799.998), 4700)
    assert (cpu["boost"], cpu["smt"], cpu["cores"]) == (True, True, 2)
    assert cpu["caches"] == {"L1d": "48K"}
    assert told["memory"]["transparent_huge_pages"] == "madvise"
    assert told["system"]["platform"] == "LENOVO 20XW"


def test_what_an_arm_server_tells(monkeypatch, tmp_path):
    """It has no model name, and the parts of one make are told by numbers."""
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd asimddp sve i8mm bf16\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0xd40\n\n"
        "processor\t: 1\n"
    )
    monkeypatch.setattr(cpus, "_PROC", tmp_path)
    assert fingerprint("cpu")["cpu"]["revision"] == "implementer 0x41 part 0xd40 variant 0x1"


def changed(fingerprint, group, **values):
    other = copy.deepcopy(fingerprint)
    other[group] = {**(other[group] or {}), **values}
    return other


@pytest.mark.parametrize(
    ("group", "values", "line"),
    [
        ("cpu", {"model": "Z80"}, r"^CPU: .+ in the first, Z80 in the second$"),
        ("cpu", {"revision": "family 25"}, "^CPU revision: "),
        ("cpu", {"quota": 1.5}, "^CPU quota: .+, 1.5 in the second$"),
        ("cpu", {"allowed": 1001}, "^CPUs allowed: "),
        ("cpu", {"governor": "powersave"}, "^frequency governor: .+, powersave in the second$"),
        ("gpu", {"name": "NVIDIA H200"}, "^GPU: nothing in the first, NVIDIA H200 in the second$"),
    ],
)
def test_another_machine_is_told_apart_in_one_line(here, group, values, line):
    other = changed(here, group, **values)
    assert identity(other) != identity(here)
    (difference,) = differences(here, other)
    assert re.search(line, difference)
    assert "\n" not in difference


def test_features_are_named_alone():
    one, other = {"cpu": {"features": ["avx", "avx2"]}}, {"cpu": {"features": ["avx", "amx_int8"]}}
    assert differences(one, other) == [
        "CPU features: avx2 only in the first, amx_int8 only in the second"
    ]


def test_the_same_machine_at_another_time_is_the_same(here):
    later = changed(here, "versions", numpy="99", onnxruntime=None)
    later = changed(later, "environment", OMP_NUM_THREADS="64")
    later = changed(later, "cpu", current_mhz=1.0)
    later = changed(later, "revision", commit="abc")
    later["load"] = [9.0, 9.0, 9.0]
    assert differences(here, later) == []
    told = changes(here, later)
    assert f"numpy: {here['versions']['numpy']} in the first, 99 in the second" in told
    assert any(line.startswith("OMP_NUM_THREADS: ") for line in told)
    assert any(line.startswith("levit's commit: ") for line in told)
    assert changes(here, here) == []


def test_a_record_with_parts_missing_is_no_exception(here):
    assert differences({}, {}) == []
    assert any(line.startswith("CPU: ") for line in differences(here, {}))
    assert changes({}, here)


@pytest.fixture
def checkout(tmp_path):
    """A repository of a package, with one commit."""
    if shutil.which("git") is None:
        pytest.skip("git is not here")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    return package


def test_a_checkout_has_a_revision_and_says_when_it_was_changed(checkout):
    clean = machine._revision(checkout)
    assert len(clean["commit"]) == 40
    assert clean["changed"] is False
    (checkout.parent / "results.json").write_text("beside the package: no change of the code")
    assert machine._revision(checkout)["changed"] is False
    (checkout / "more.py").write_text("1")
    assert machine._revision(checkout) == {"commit": clean["commit"], "changed": True}


def test_an_installed_package_inside_a_repository_has_none(checkout):
    installed = checkout.parent / "venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert machine._revision(installed) is None
    assert machine._revision(checkout.parent.parent / "nowhere") is None


def test_it_imports_nothing_heavy():
    code = (
        "import sys; from levit.benchmarks.machine import fingerprint; fingerprint('cpu'); "
        "print(sorted({'torch', 'openvino', 'timm', 'nncf', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
