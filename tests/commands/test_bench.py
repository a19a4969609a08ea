"""`levit bench` as it is typed, on levit_digits and real engines."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from levit.benchmarks import lineup
from levit.benchmarks.record_file import read_record
from levit.cli import main
from levit.runtime.obstacle import Obstacle

ALL = "paper,latency,throughput,end-to-end,cold-start,memory"
DIGITS = ["bench", "--models", "levit_digits", "--engines", "levit-onnx"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(result file, what the command printed) of every protocol, shortened."""
    folder = tmp_path_factory.mktemp("bench")
    result = folder / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "levit", *DIGITS, "--protocol", ALL),
            *("--seconds", "0.3", "--rounds", "6", "--output", str(result)),
            *("--report", str(folder / "page.html"), "--csv", str(folder / "values.csv")),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return result, done.stdout


def failing(capsys, *words):
    """What is printed of a command that ends with status 1."""
    assert main(list(words)) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    return printed.err


def test_every_protocol_measures(measured):
    record = read_record(measured[0])
    assert record.status == "complete"
    ours = {
        m.protocol: m
        for m in record.measurements
        if not m.contender.startswith(("matmul", "registers"))
    }
    assert set(ours) == {*ALL.split(","), "end-to-end-many"}
    for name, measurement in ours.items():
        assert measurement.status == "ok", (name, measurement.reason)
        assert len(measurement.rounds) == 6
        assert all(r.values and r.elapsed_ns > 0 for r in measurement.rounds)
    assert ours["paper"].settings["batch"] == 16
    assert ours["paper"].settings["threads"] == 1
    assert ours["paper"].error < 1e-4
    assert set(ours["end-to-end"].rounds[0].stages) == {"decode", "resize", "network"}
    many = ours["end-to-end-many"]
    assert (many.settings["images"], many.settings["batch"]) == (128, 8)  # the artifact's own
    assert all(r.stages["cpu"][0] > 1_000_000 for r in many.rounds)
    assert len(ours["throughput"].scan) >= 5
    # A process with NumPy, Pillow and ONNX Runtime: more than an interpreter, less than PyTorch.
    assert 30e6 < ours["memory"].rounds[0].values[0] < 500e6
    assert ours["cold-start"].rounds[0].values[0] > 50e6


def test_ceilings_run_beside_them(measured):
    record = read_record(measured[0])
    tops = [m for m in record.measurements if "matmul" in m.contender]
    assert tops
    assert all(m.settings["batch"] == 1 for m in tops)
    assert {m.protocol for m in tops} == {"paper", "latency", "throughput"}


def test_tables_say_what_was_measured(measured):
    printed = measured[1]
    for words in (
        "paper's protocol",
        "Latency",
        "Throughput",
        "End to end, one image",
        "End to end, many images",
        "Cold start",
        "memory",
    ):
        assert words in printed
    for words in ("levit_digits", "images/s", "p99, ms", "MB", "ceiling, fp32"):
        assert words in printed
    for words in ("decode, ms", "resize, ms", "network, ms", "rest, ms", "CPU, ms/image"):
        assert words in printed
    assert "the machine was" in printed
    assert "result.json" in printed


def test_nothing_of_this_machine_but_what_matters_is_published(measured):
    text = measured[0].read_text()
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert str(measured[0].parent) not in text


def test_a_page_and_a_sheet_are_written(measured):
    folder = measured[0].parent
    assert "levit_digits" in (folder / "page.html").read_text()
    assert (folder / "values.csv").read_text().count("\n") > 6


def test_a_result_is_shown_again(measured, capsys, tmp_path):
    assert main(["bench", "report", str(measured[0]), "--markdown", str(tmp_path / "t.md")]) == 0
    assert "levit_digits" in capsys.readouterr().out
    assert "levit_digits" in (tmp_path / "t.md").read_text()
    assert main(["bench", "report", str(measured[0]), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["measurements"][0]["images_per_s"][0] > 0
    one, many = (
        next(m for m in document["measurements"] if m["protocol"] == name)
        for name in ("end-to-end", "end-to-end-many")
    )
    assert set(one["stages_ms"]) == {"decode", "resize", "network", "rest"}
    assert sum(one["stages_ms"].values()) == pytest.approx(one["latency_ms"]["p50"][0])
    assert many["images_per_s"][0] > 0
    assert many["cpu_ms"][0] > 0
    # As many CPUs as there are threads, and no more.
    assert many["time_over_cpu"][0] > 0.9


def test_a_result_is_equal_to_itself(measured, capsys):
    path = str(measured[0])
    assert main(["bench", "compare", path, path, "--fail-under", "0.97", "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert len(changes) == 7
    assert {change["ratio"][0] for change in changes} == {1.0}
    assert not {change["verdict"] for change in changes} & {"faster", "slower"}


def altered(measured, path, change):
    """A copy of the result with something changed in it."""
    document = json.loads(measured[0].read_text())
    change(document)
    path.write_text(json.dumps(document))
    return str(path)


def slow_down(document):
    for measurement in document["measurements"]:
        for turn in measurement["rounds"]:
            turn["elapsed_ns"] *= 4
            turn["values"] = [value * 4 for value in turn["values"]]


def test_what_became_slower_fails(measured, tmp_path, capsys):
    slower = altered(measured, tmp_path / "slower.json", slow_down)
    before = str(measured[0])
    assert main(["bench", "compare", before, slower, "--fail-under", "0.9"]) == 1
    printed = capsys.readouterr()
    assert "slower" in printed.out
    assert "asked for is 0.9" in printed.err
    assert main(["bench", "compare", slower, before, "--fail-under", "0.9"]) == 0
    assert main(["bench", "compare", before, slower]) == 0  # to look at
    # The whole interval has to lie under the ratio.
    capsys.readouterr()
    assert main(["bench", "compare", before, slower, "--fail-under", "0.01"]) == 0


def test_what_is_not_measured_any_more_fails(measured, tmp_path, capsys):
    def lose(document):
        document["measurements"][0].update(status="failed", reason="broken", rounds=[])

    fewer = altered(measured, tmp_path / "fewer.json", lose)
    assert main(["bench", "compare", str(measured[0]), fewer]) == 0
    assert "only in the first" in capsys.readouterr().out
    assert main(["bench", "compare", str(measured[0]), fewer, "--fail-under", "0.5"]) == 1
    assert "not measured any more: levit_digits" in capsys.readouterr().err


def test_lengths_may_differ(measured, tmp_path, capsys):
    def longer(document):
        for measurement in document["measurements"]:
            measurement["settings"].update(seconds=60.0, warmup_s=10.0, rounds=12)

    other = altered(measured, tmp_path / "longer.json", longer)
    assert main(["bench", "compare", str(measured[0]), other]) == 0


def test_the_record_and_its_reports_need_a_file_each(measured, tmp_path, capsys):
    before = measured[0].read_bytes()
    path = str(measured[0])
    assert "a file each" in failing(capsys, "bench", "report", path, "--report", path)
    assert measured[0].read_bytes() == before
    one = str(tmp_path / "one")
    assert "a file each" in failing(capsys, "bench", "--output", one, "--report", one)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: d["machine"]["cpu"].update(model="Another CPU"), "different machines.*CPU"),
        (lambda d: d["measurements"][0]["settings"].update(threads=7), "different settings.*7"),
        (lambda d: d["measurements"].clear(), "nothing to compare"),
        (lambda d: d.update(schema_version=99), "schema 99.*upgrade|newer"),
        (lambda d: d.update(schema_version=0), "older|schema 0"),
        (lambda d: d["contenders"][0].update(macs=7), "different work.*multiply-accumulates"),
        (lambda d: d["settings"].update(pictures=9), "different work.*pictures"),
    ],
    ids=["machine", "settings", "nothing", "newer", "older", "network", "pictures"],
)
def test_what_cannot_be_compared_is_refused(measured, tmp_path, capsys, change, line):
    import re

    other = altered(measured, tmp_path / "other.json", change)
    assert re.search(line, failing(capsys, "bench", "compare", str(measured[0]), other))


# ------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--protocol", "speed"], "unknown protocol 'speed'; there are: paper"),
        (["--models", "levit_129"], "did you mean"),
        (["--engines", "tensorflow"], "unknown engine 'tensorflow'"),
        (["--artifact", "nowhere"], "nowhere"),
        (["--photos", "nowhere", *DIGITS[1:], "--protocol", "end-to-end"], "no such folder"),
        (["--report", "no/such/folder/page.html"], "does not exist"),
        (["--rounds", "2001"], "--rounds is 2000 at most"),
        (["--fail-under", "0.9"], "--peers"),
        (
            ["--protocol", "latency", "--png", "f.png"],
            "it needs the protocol paper, throughput",
        ),
        (["--protocol", "paper", "--figure", "f.png"], "needs the protocol latency"),
        (["--models", "levit_128s,resnet50"], "no engine of this run takes resnet50"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line in failing(capsys, "bench", *words)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_device_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--device", "tpu"])
    assert stop.value.code == 2
    assert "tpu" in capsys.readouterr().err


def test_arm_elsewhere_says_how(capsys):
    if platform.machine().lower() in ("aarch64", "arm64"):
        pytest.skip("this is one")
    line = failing(capsys, "bench", "--device", "arm")
    assert "levit bench --device arm --artifact" in line


def test_a_gpu_that_is_not_there_is_an_error(capsys, monkeypatch):
    obstacle = Obstacle(reason="no NVIDIA driver", remedy="install it")
    monkeypatch.setattr("levit.benchmarks.gpu.look_for_gpu", lambda: obstacle)
    assert "NVIDIA" in failing(capsys, "bench", "--device", "gpu")


def test_a_result_is_not_overwritten(measured, capsys):
    before = measured[0].read_bytes()
    assert "already exists" in failing(capsys, *DIGITS, "--output", str(measured[0]))
    assert measured[0].read_bytes() == before


def test_an_artifact_that_fails_its_golden_check_is_not_timed(tmp_path, capsys):
    import numpy as np

    from levit.artifact import describe_files, open_artifact, write_manifest
    from levit.export import ExportOptions, export

    folder = export(ExportOptions(model="levit_digits", output=tmp_path / "changed")).path
    with np.load(folder / "golden.npz") as stored:
        arrays = dict(stored)
    arrays["output/logits"] = arrays["output/logits"] * 1.01
    np.savez(folder / "golden.npz", **arrays)
    manifest = open_artifact(folder, verify_hashes=False).manifest
    write_manifest(folder, replace(manifest, files=describe_files(folder)))
    result = tmp_path / "result.json"
    words = ["bench", "--artifact", str(folder), "--protocol", "latency,cold-start"]
    words += ["--seconds", "0.1", "--rounds", "1", "--output", str(result)]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "golden cases" in printed.out
    assert printed.err.startswith("not measured: changed · levit → ONNX Runtime · fp32: changed:")
    ours = [
        m
        for m in read_record(result).measurements
        if not m.contender.startswith(("matmul", "registers"))
    ]
    assert [(m.status, m.rounds) for m in ours] == [("failed", ())] * 2


@pytest.mark.slow
def test_an_artifact_of_the_readme(tiny_artifact, tmp_path, monkeypatch, capsys):
    """``levit bench --artifact runs/best-onnx-fp32``, as the README says it, but shortened."""
    shutil.copytree(tiny_artifact, tmp_path / "runs" / "best-onnx-fp32")
    monkeypatch.chdir(tmp_path)
    line = ["bench", "--artifact", "runs/best-onnx-fp32", "--seconds", "0.1", "--rounds", "2"]
    kinds = "latency,end-to-end,cold-start"  # the network, pictures, processes
    assert main([*line, "--protocol", kinds, "--output", "before.json"]) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "psutil", None)  # a runtime install has none
    assert main([*line, "--protocol", "latency,cold-start", "--output", "after.json"]) == 0
    assert capsys.readouterr().err.startswith("not installed: psutil, ")
    noise = read_record("after.json").noise
    assert {sample["busy_s"] for sample in noise["samples"]} == {None}
    ours = [
        m
        for m in read_record("before.json").measurements
        if not m.contender.startswith(("matmul", "registers"))
    ]
    expected = [*kinds.split(","), "end-to-end-many"]  # which comes with one image
    assert {m.protocol: m.status for m in ours} == dict.fromkeys(expected, "ok")
    assert main(["bench", "compare", "before.json", "after.json", "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert {change["protocol"] for change in changes} == {"latency", "cold-start"}


@pytest.mark.slow
def test_engines_that_one_command_installs_are_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        lineup,
        "ENGINES",
        {
            name: replace(engine, needs={"no_such_module": f"pip install {engine.kind}"})
            if engine.kind == "peer"
            else engine
            for name, engine in lineup.ENGINES.items()
        },
    )
    words = ["bench", "--peers", "--models", "levit_digits", "--protocol", "latency"]
    words += ["--seconds", "0.1", "--rounds", "1", "--output", str(tmp_path / "result.json")]
    main(words)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "pip install peer" in x]
    assert line.startswith("not installed: timm, PyTorch eager; timm, BatchNorm folded")
    assert line.endswith(" (pip install peer)")


def what_is_in(folder):
    """All but the session file that ONNX Runtime 1.31 leaves in $TMPDIR when it is imported."""
    return [path for path in folder.iterdir() if path.name != ".ses"]


def children_of(process):
    """Processes of a session of their own that the command has started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize(
    ("protocol", "number", "status"),
    [("latency", signal.SIGINT, 130), ("cold-start", signal.SIGTERM, 143)],
)
def test_an_interruption_keeps_what_was_measured(tmp_path, protocol, number, status):
    result = tmp_path / "result.json"
    words = ["--protocol", protocol, "--seconds", "600", "--rounds", "2000", "--json"]
    command = [sys.executable, "-m", "levit", *DIGITS, *words, "--output", str(result)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # Jobs in the background are started with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    seen, since = set(), time.monotonic()
    # Rounds are under way when no worker has been started for a while, or several fresh processes
    # have ended.
    while not seen or time.monotonic() - since < 20:
        assert process.poll() is None, process.communicate()
        found = set(children_of(process))
        if not found <= seen:
            seen, since = seen | found, time.monotonic()
        if protocol == "cold-start" and len(seen) >= 15:  # a few only ask git or check answers
            break
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"what was measured until it was interrupted is in {result}" in errors
    assert (number == signal.SIGINT) == errors.rstrip().endswith("error: interrupted")
    record = read_record(result)
    assert record.status == "interrupted"
    assert any(m.rounds for m in record.measurements)
    assert not [pid for pid in seen if Path(f"/proc/{pid}").exists()]
    assert what_is_in(tmp_path) == [result]


def test_an_interruption_before_anything_was_measured_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "levit", "bench", "--output", str(tmp_path / "result.json")]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # Jobs in the background are started with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list(tmp_path.glob("levit-bench-*")):  # the folder of the artifacts to come
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = [line for line in errors.splitlines() if not line.startswith("not installed: ")]
    assert lines == ["error: interrupted"]
    assert what_is_in(tmp_path) == []
