"""scripts/check_arm64.py: what it needs, what it leaves behind, and that it can say no."""

import contextlib
import copy
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import check_arm64
import pytest
from check_arm64 import APART, MODELS, CannotRunError, command, compare, made, obstacle

SCRIPT = Path(check_arm64.__file__)
ROOT = SCRIPT.parents[1]


def environment(**more):
    path = f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"
    return {**os.environ, "PYTHONPATH": path, **{k: str(v) for k, v in more.items()}}


def script(*words, **more):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)],
        capture_output=True, text=True, env=environment(**more), timeout=900,
    )  # fmt: skip


def processes_with(text):
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text in file.read_bytes().decode(errors="replace"):
                found.append(file.parent.name)
    return found


def wait_until(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it does not come")


@pytest.fixture
def namespaces():
    """Skips where mounts cannot be made apart."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("setpriv", "unshare"))):
        pytest.skip("needs root on Linux, with setpriv and unshare")
    if subprocess.run([*APART, "true"], capture_output=True).returncode != 0:
        pytest.skip("this root may not mount")


@pytest.fixture
def emulation(namespaces):
    problem = obstacle(platform.system(), platform.machine(), os.geteuid(), shutil.which)
    if problem:
        pytest.skip(problem)


# ------------------------------------------------------------------ what it needs


def lacking(*tools):
    return lambda name: None if name in tools else f"/usr/bin/{name}"


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (("Linux", "x86_64", 0, lacking()), None),
        (("Darwin", "arm64", 0, lacking()), "this is Darwin"),
        (("Linux", "aarch64", 0, lacking()), "run levit check ARTIFACT directly"),
        (("Linux", "x86_64", 1000, lacking()), "only root"),
        (
            ("Linux", "x86_64", 0, lacking("qemu-aarch64-static")),
            "qemu-aarch64-static is missing: apt-get install qemu-user-static",
        ),
        (
            ("Linux", "x86_64", 0, lacking("unshare", "mmdebstrap", "setpriv")),
            "are missing: apt-get install mmdebstrap util-linux",
        ),
    ],
)
def test_obstacles_are_named_with_what_to_do(machine, says):
    problem = obstacle(*machine)
    assert problem is None if says is None else problem.endswith(says) or says in problem
    assert problem is None or "\n" not in problem


def test_without_its_tools_it_ends_in_one_line(tmp_path):
    result = script(PATH=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        assert "apt-get install mmdebstrap qemu-user-static" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(["{folder}"], ["--cpu", "z80"], ["{folder}/none"]),
        *(["--wheel", "levit-any.whl"], ["--tests", "tests/native"]),
    ],
)
def test_usage_errors(tmp_path, words):
    result = script(*(word.format(folder=tmp_path) for word in words))
    assert result.returncode == 2
    assert "error: " in result.stderr


def test_the_five_sizes_and_the_embedded_default():
    assert len(MODELS) == 6
    assert "levit_digits" in MODELS


# ------------------------------------------------------------------ what it leaves behind


def fill(folder):
    folder.mkdir()
    (folder / "file").write_text("whole")


def test_a_tree_is_made_once(tmp_path):
    folder = tmp_path / "tree"
    assert made(folder, fill) == folder
    assert made(folder, lambda part: pytest.fail("made again")) == folder
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, OSError])
def test_an_interrupted_build_leaves_nothing(tmp_path, interruption):
    def interrupted(part):
        fill(part)
        raise interruption

    with pytest.raises(interruption):
        made(tmp_path / "tree", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_has_left_is_not_taken_for_a_tree(tmp_path):
    code = (
        "import os, sys, pathlib, check_arm64\n"
        "def die(part):\n"
        "    part.mkdir(); (part / 'stale').touch(); os.kill(os.getpid(), 9)\n"
        "check_arm64.made(pathlib.Path(sys.argv[1]), die)\n"
    )
    folder = tmp_path / "tree"
    killed = subprocess.run([sys.executable, "-c", code, str(folder)], env=environment())
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()
    made(folder, fill)
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_runs_apart_and_its_mounts_end_with_the_script(namespaces, tmp_path, number):
    inside = f"mount -t proc proc {tmp_path} && exec sleep 86399"
    # Started in the background, this process has Ctrl-C ignored, and its children too.
    code = (
        "import signal, check_arm64\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"check_arm64.command([*check_arm64.APART, 'sh', '-c', {inside!r}], '')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stderr=subprocess.DEVNULL
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def sleeper():
            for child in children.read_text().split():
                below = Path(f"/proc/{child}/task/{child}/children").read_text().split()
                for pid in below:
                    if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                        return pid
            return None

        wait_until(sleeper)
        pid = sleeper()
        assert str(tmp_path) in Path(f"/proc/{pid}/mounts").read_text()
        process.send_signal(number)
    assert process.returncode != 0
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_what_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(check_arm64, "LIMIT_S", 0.2)
    with pytest.raises(CannotRunError, match=r"^check: no answer in 0\.2 s"):
        command(["sleep", "86398"], "check")


# ------------------------------------------------------------------ its verdict


def test_reports_and_reasons():
    out_of_tolerance = ["sh", "-c", "echo '{}'; exit 1"]
    assert command(out_of_tolerance, "check") == "{}\n"
    failing = ["sh", "-c", "echo error: this >&2; echo a warning >&2; exit 1"]
    with pytest.raises(CannotRunError, match=r"^check: error: this$"):
        command(failing, "check")
    crashing = ["sh", "-c", "kill -SEGV $$"]
    with pytest.raises(CannotRunError, match="check: status -11"):
        command(crashing, "check")


@pytest.fixture(scope="module")
def here(tiny_artifact):
    """What this machine really says."""
    picture = next((ROOT / "levit/data/levit_digits/images").glob("*/*.png"))
    return check_arm64.answers([sys.executable], str(tiny_artifact), str(picture))


@pytest.fixture
def there(here):
    """The same answers, as if an aarch64 machine had given them."""
    answers = copy.deepcopy(here)
    answers["outputs"]["machine"] = "aarch64"
    return answers


def test_the_same_answers_pass(here, there):
    result = compare("levit_digits", "max", there, here)
    assert result.passed
    assert result.host_difference == 0
    assert result.problem == ""


def not_emulated(answers):
    answers["outputs"]["machine"] = "x86_64"


def another_top1(answers):
    row = answers["outputs"]["outputs"]["picture"]["logits"][0]
    row[row.index(min(row))] = max(row) * 1.000001


def another_prediction(answers):
    top = answers["predict"][0]["top"]
    top[0], top[1] = top[1], top[0]


def beyond_tolerance(answers):
    rows = answers["outputs"]["outputs"]["golden"]["logits"]
    rows[0] = [value * 1.001 for value in rows[0]]


def not_a_number(answers):
    answers["outputs"]["outputs"]["golden"]["logits"][0][3] = float("nan")


def another_tensor(answers):
    answers["outputs"]["tensor_sha256"] = "0" * 64


def other_golden_tensors(answers):
    answers["check"]["preprocessing_error"] = 0.004


def failed_check(answers):
    answers["check"]["passed"] = False


DIFFERENCES = (
    *(not_emulated, another_top1, another_prediction, beyond_tolerance),
    *(not_a_number, another_tensor, other_golden_tensors, failed_check),
)


@pytest.mark.parametrize("change", DIFFERENCES)
def test_whatever_differs_fails(here, there, change):
    change(there)
    result = compare("levit_digits", "max", there, here)
    assert not result.passed
    assert check_arm64.line_of(result).startswith("FAIL levit_digits on max: ")


# ------------------------------------------------------------------ the real thing


@pytest.mark.slow
def test_levit_digits_answers_on_aarch64_as_here(emulation, tiny_artifact, tmp_path):
    report = tmp_path / "report.json"
    result = script(tiny_artifact, "--json", report, TMPDIR=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "times under emulation mean nothing" in result.stdout
    (row,) = json.loads(report.read_text())["results"]
    assert row["passed"]
    assert row["there"]["machine"] == "aarch64"
    assert 0 < row["golden_error"] < row["tolerance"]


@pytest.mark.slow
def test_terminated_it_leaves_nothing_behind(emulation, tiny_artifact, tmp_path):
    words = [sys.executable, str(SCRIPT), str(tiny_artifact)]
    more = environment(TMPDIR=tmp_path)
    with subprocess.Popen(words, env=more, stdout=subprocess.DEVNULL) as process:
        # unshare, which waits for the emulated process, has the artifact among its arguments.
        emulated = f"{tiny_artifact}\0{check_arm64.ARTIFACT}\0"
        wait_until(lambda: processes_with(emulated) or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    wait_until(lambda: not processes_with(emulated))
    # ONNX Runtime leaves a file of its own there.
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert "debian-bookworm" not in Path("/proc/mounts").read_text()
