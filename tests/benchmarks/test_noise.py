import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from levit.benchmarks import noise, system
from levit.benchmarks.noise import NoiseLog, calibrate, counters, drift, quietness
from levit.runtime import cpus

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def log(*, best_ms=7.0, spread=0.0, others=0.0, steal=0.0, count=30, **last):
    """A run of one sample a second on 4 CPUs: calibrations spread evenly, counters in CPUs."""
    times = best_ms * 1e6 * (1 + np.linspace(0, spread, 3 * count))
    times = np.random.default_rng(0).permutation(times).astype(int).reshape(count, 3)
    samples = [
        {
            "at_s": float(second),
            "kernel_ns": kernel_ns.tolist(),
            "busy_s": 1000 + second * (2 + others),
            "steal_s": 5 + second * 4 * steal,
            "ours_s": 10 + second * 2,
            "load": 2.0,
            "throttled": 3,
            "overheated": None,
        }
        for second, kernel_ns in enumerate(times)
    ]
    samples[-1].update(last)
    return {"cpus": 4, "samples": samples}


def test_a_quiet_run_is_quiet_without_reasons():
    assert quietness(log(spread=0.1, others=0.02, steal=0.001)) == ("quiet", [])


@pytest.mark.parametrize(
    ("given", "verdict", "reason"),
    [
        # The tenths of evenly spread values are 10 and 90 % of the way.
        ({"spread": 0.6}, "noisy", "slowest tenth of the calibrations took 45% longer"),
        ({"spread": 2.0}, "very noisy", "slowest tenth"),
        ({"others": 0.2}, "noisy", "other processes used 0.20 CPUs"),
        ({"others": 0.9}, "very noisy", "other processes used 0.90 CPUs"),
        ({"steal": 0.02}, "noisy", "the hypervisor took 2.0% of the CPUs' time"),
        ({"steal": 0.2}, "very noisy", "the hypervisor took 20.0%"),
        ({"throttled": 7}, "noisy", "quota stopped the run 4 times"),
    ],
)
def test_each_cause_is_told(given, verdict, reason):
    found, (line,) = quietness(log(**given))
    assert found == verdict
    assert reason in line


def test_the_worst_reason_decides_and_all_are_told():
    verdict, reasons = quietness(log(others=0.2, steal=0.2, throttled=9))
    assert verdict == "very noisy"
    assert len(reasons) == 3


def test_one_slow_calibration_does_not_make_a_run_noisy():
    quiet = log()
    quiet["samples"][3]["kernel_ns"] = [7_000_000, 7_000_000, 70_000_000]
    assert quietness(quiet) == ("quiet", [])


def test_thresholds_grow():
    for limits in (noise.SPREAD, noise.OTHERS, noise.STEAL):
        assert 0 < limits[0] < limits[1]


def test_a_run_that_was_stopped_at_once_cannot_be_told_quiet():
    verdict, (reason,) = quietness(log(count=2))
    assert verdict == "noisy"
    assert "only 2" in reason
    assert quietness({"samples": []})[0] == quietness({})[0] == "noisy"


def test_counters_that_a_system_does_not_have_are_left_out():
    given = log(spread=0.1)
    for sample in given["samples"]:
        sample.update(dict.fromkeys(counters()))
    assert quietness(given) == ("quiet", [])
    for sample in given["samples"]:
        sample["kernel_ns"] = [7_000_000, 7_000_000, 21_000_000]
    assert quietness(given)[0] == "very noisy"


def test_drift_is_of_the_medians_and_has_a_sign():
    assert drift(log(), log()) == 0
    assert drift(log(best_ms=10), log(best_ms=10.5)) == pytest.approx(0.05)
    assert drift(log(best_ms=10), log(best_ms=8)) == pytest.approx(-0.2)
    assert drift(log(), {"samples": []}) == drift({}, log()) == 0


def test_drift_does_not_see_single_interruptions():
    interrupted = log()
    for sample in interrupted["samples"]:
        sample["kernel_ns"][0] *= 5
    assert drift(log(), interrupted) == pytest.approx(0, abs=1e-6)


def test_calibrations_do_the_same_work_each_time():
    calibrate()
    near, result, far, copy = noise._buffers()
    first = result.copy()
    before = time.perf_counter_ns()
    elapsed = calibrate()
    assert 0 < elapsed <= time.perf_counter_ns() - before
    np.testing.assert_array_equal(result, first)
    np.testing.assert_array_equal(first, near**2 + near)
    np.testing.assert_array_equal(copy, far)


def test_a_log_keeps_raw_values_that_json_keeps():
    taken = NoiseLog()
    for _ in range(4):
        taken.sample()
    raw = taken.to_dict()
    assert json.loads(json.dumps(raw)) == raw
    assert raw["cpus"] == os.cpu_count()
    assert [len(sample["kernel_ns"]) for sample in raw["samples"]] == [3] * 4
    at = [sample["at_s"] for sample in raw["samples"]]
    assert at == sorted(at)
    assert set(raw["samples"][0]) == {"at_s", "kernel_ns", *counters()}
    assert quietness(raw)[0] in ("quiet", "noisy", "very noisy")
    taken.sample()
    assert len(raw["samples"]) == 4  # what was handed out does not grow


@on_linux
def test_our_workers_do_not_count_as_others():
    """A child that lives, its child, and then the same when they have ended."""
    code = (
        "import subprocess, sys, time\n"
        "if len(sys.argv) > 1:\n"
        "    child = subprocess.Popen([sys.executable, __file__])\n"
        "    child.wait()\n"
        "end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
        "print('done', flush=True)\n"
        "sys.stdin.read()\n"
    )
    child_code = code.replace("__file__", "'-c', 'import time\\nwhile time.process_time() < .3: 0'")
    before = counters()
    child = subprocess.Popen(
        [sys.executable, "-c", child_code, "more"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "done\n"
    alive = counters()
    child.communicate()
    ended = counters()
    # Both children's 0.3 s; a hundredth each is lost to the counter's ticks.
    assert alive["ours_s"] - before["ours_s"] >= 0.55
    assert ended["ours_s"] >= alive["ours_s"] - 0.05


@on_linux
def test_counters_of_a_quota_and_of_heat(monkeypatch, tmp_path):
    files = {
        "proc/stat": "cpu  100 20 30 4000 50 6 7 80 9 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n",
        "proc/self/cgroup": "0::/user.slice/run\n",
        "sys/fs/cgroup/user.slice/run/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 4\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "3\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    monkeypatch.setattr(cpus, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(cpus, "_CGROUP_ROOT", tmp_path / "sys/fs/cgroup")
    monkeypatch.setattr(system, "_SYS", tmp_path / "sys")
    told = counters()
    hertz = os.sysconf("SC_CLK_TCK")
    # Idle and waiting for disks are not busy, stolen time is not ours, guests are in user already.
    assert told["busy_s"] == pytest.approx((100 + 20 + 30 + 6 + 7) / hertz)
    assert told["steal_s"] == 80 / hertz
    assert (told["throttled"], told["overheated"]) == (4, 5)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a\n1:cpu,cpuacct:/docker/abc\n")
    (tmp_path / "sys/fs/cgroup/cpu").mkdir()
    (tmp_path / "sys/fs/cgroup/cpu/cpu.stat").write_text("nr_throttled 11\n")
    assert counters()["throttled"] == 11


@on_linux
@pytest.mark.parametrize("installed", [True, False])
def test_without_proc_and_sys_counters_are_none(monkeypatch, tmp_path, installed):
    if installed:
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    else:
        monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(cpus, "_PROC", tmp_path)
    monkeypatch.setattr(system, "_SYS", tmp_path)
    monkeypatch.delattr(os, "getloadavg", raising=False)
    told = counters()
    assert told == dict.fromkeys(told)
