import os
import re
import subprocess
import sys

import pytest

from levit.runtime import cpus
from levit.runtime.cpus import (
    available_cpus,
    cpu_class,
    cpu_features,
    cpu_model,
    cpu_precisions,
    is_bf16_fast,
)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """(files, cpus) → what `available_cpus` sees: a fake /proc and /sys/fs/cgroup."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    root.mkdir()
    (proc / "self").mkdir(parents=True)
    monkeypatch.setattr(cpus, "_CGROUP_ROOT", root)
    monkeypatch.setattr(cpus, "_PROC", proc)

    def make(membership, files=(), affinity=64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
        if membership is not None:
            (proc / "self" / "cgroup").write_text(membership)
        for name, text in dict(files).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return available_cpus()

    make.proc = proc
    return make


# ------------------------------------------------------------------ affinity


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
@pytest.mark.parametrize("count", [1, 2])
def test_affinity_of_the_process_counts(count):
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < count:
        pytest.skip(f"needs {count} CPUs")
    code = (
        "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1:]));"
        "from levit.runtime import cpus; cpus._PROC = cpus.Path('/nonexistent');"
        "print(cpus.available_cpus())"
    )
    command = [sys.executable, "-c", code, *map(str, mine[:count])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) == count


def test_real_machine_gives_a_possible_number():
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0)) <= os.cpu_count()


def test_without_affinity_the_hosts_count_stands(machine, monkeypatch):
    machine(None)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert available_cpus() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


def test_without_proc_only_affinity_counts(machine):
    assert machine(None, affinity=7) == 7


# ------------------------------------------------------------------ cgroup version 2

V2 = "0::/user.slice/app.scope\n"


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("max 100000", 64),
        ("400000 100000", 4),
        ("50000 50000", 1),
        ("250000 100000", 2),  # a fraction is rounded down …
        ("199999 100000", 1),
        ("50000 100000", 1),  # … but never below one
        ("1000 100000", 1),
        ("99900000 100000", 64),  # more than there are
        ("3000000 1000000\n", 3),
    ],
)
def test_quota_of_version_2(machine, limit, count):
    assert machine(V2, {"user.slice/app.scope/cpu.max": limit}) == count


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"user.slice/cpu.max": "300000 100000"}, 3),
        ({"cpu.max": "200000 100000"}, 2),
        (
            {
                "user.slice/app.scope/cpu.max": "800000 100000",
                "user.slice/cpu.max": "300000 100000",
                "cpu.max": "500000 100000",
            },
            3,
        ),
        (
            {
                "user.slice/app.scope/cpu.max": "200000 100000",
                "user.slice/cpu.max": "max 100000",
            },
            2,
        ),
        ({"other.slice/cpu.max": "100000 100000"}, 64),
    ],
)
def test_smallest_limit_on_the_way_up_counts(machine, files, count):
    assert machine(V2, files) == count


def test_affinity_smaller_than_the_quota_counts(machine):
    assert machine(V2, {"cpu.max": "800000 100000"}, affinity=3) == 3


def test_path_of_the_host_inside_a_container_falls_back_to_the_mounts_root(machine):
    membership = "0::/kubepods.slice/pod1234/cri-abcd.scope\n"
    assert machine(membership, {"cpu.max": "200000 100000"}) == 2


def test_limits_above_the_mount_are_not_read(machine):
    # …/cgroup/../cpu.max is nobody's limit.
    assert machine("0::/\n", {"../cpu.max": "100000 100000"}) == 64


# ------------------------------------------------------------------ cgroup version 1

V1 = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n1:name=systemd:/x\n"


def v1(quota, period="100000", folder="docker/abc"):
    return {
        f"cpu/{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"cpu/{folder}/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [(-1, 100000, 64), (400000, 100000, 4), (150000, 100000, 1), (20000, 100000, 1), (0, 1, 64)],
)
def test_quota_of_version_1(machine, quota, period, count):
    assert machine(V1, v1(quota, period)) == count


def test_nested_limits_of_version_1(machine):
    files = v1(800000) | v1(300000, folder="docker") | v1(-1, folder=".")
    assert machine(V1, files) == 3


def test_other_controllers_of_version_1_do_not_count(machine):
    assert machine("12:memory:/docker/abc\n", v1(100000)) == 64


def test_hybrid_hierarchy_reads_both(machine):
    files = v1(500000) | {"user.slice/app.scope/cpu.max": "300000 100000"}
    assert machine(V1 + V2, files) == 3


# ------------------------------------------------------------------ what is malformed


@pytest.mark.parametrize(
    "text",
    ["", "max", "100000", "a b", "100000 0", "1 2 3", "100000 -x", "\0", "nan 100000", "é"],
)
def test_malformed_limits_do_not_count(machine, text):
    assert machine(V2, {"user.slice/app.scope/cpu.max": text}) == 64


@pytest.mark.parametrize("text", ["-100000 100000", "100000 -100000", "0 100000"])
def test_limits_that_are_not_positive_leave_one_or_all(machine, text):
    assert machine(V2, {"user.slice/app.scope/cpu.max": text}) in (1, 64)


@pytest.mark.parametrize("membership", ["", "\n\n", "garbage", "0", "0:", "::", "0::", ":::", "é"])
def test_malformed_membership_does_not_crash(machine, membership):
    assert machine(membership, {"cpu.max": "200000 100000"}) in (2, 64)


@pytest.mark.parametrize(("quota", "period"), [("", "1"), ("x", "1"), ("100000", "0"), ("1", "")])
def test_malformed_limits_of_version_1_do_not_count(machine, quota, period):
    assert machine(V1, v1(quota, period)) == 64


def test_binary_files_do_not_crash(machine):
    machine(V2, {"cpu.max": ""})
    (cpus._CGROUP_ROOT / "cpu.max").write_bytes(b"\xff\xfe\x00")
    assert available_cpus() == 64
    (machine.proc / "self" / "cgroup").write_bytes(b"0::/\xff\xfe\n")
    assert available_cpus() == 64


# ------------------------------------------------------------------ what the CPU is

CPUINFO = """processor\t: 0
model name\t: Some CPU @ 2 GHz
flags\t\t: fpu sse2 avx avx2 fma f16c avx512f made_up

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
ARM_CPUINFO = "processor\t: 0\nFeatures\t: fp asimd asimddp bf16 i8mm\n\nHardware\t: x\n"


def test_features_are_those_that_choose_kernels(machine):
    (machine.proc / "cpuinfo").write_text(CPUINFO)
    assert cpu_features() == ("avx", "avx2", "avx512f", "f16c", "fma")
    assert cpu_model() == "Some CPU @ 2 GHz"
    (machine.proc / "cpuinfo").write_text(ARM_CPUINFO)
    assert cpu_features() == ("asimd", "asimddp", "bf16", "i8mm")
    assert cpu_model() != ""


def test_precisions_are_those_with_instructions_of_their_own():
    none = {"bf16": (), "fp16": (), "int8": ()}
    assert cpu_precisions(["avx2", "avx512f", "f16c", "asimd"]) == none
    zen_5 = cpu_precisions(["avx512_bf16", "avx512_vnni", "avx_vnni"])
    assert zen_5 == none | {"bf16": ("avx512_bf16",), "int8": ("avx512_vnni", "avx_vnni")}
    granite_rapids = cpu_precisions(["amx_bf16", "amx_fp16", "amx_int8", "avx512_fp16"])
    assert granite_rapids["fp16"] == ("amx_fp16", "avx512_fp16")
    assert cpu_precisions(["asimdhp", "bf16"]) == none | {"fp16": ("asimdhp",), "bf16": ("bf16",)}


@pytest.mark.parametrize(
    ("vendor", "features", "fast"),
    [
        ("AuthenticAMD", "avx2 avx512f avx512_vnni", False),
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", True),
        ("GenuineIntel", "avx2 avx512f avx512_bf16", False),
        ("GenuineIntel", "avx2 avx512f avx512_bf16 amx_bf16", True),
    ],
)
def test_bfloat16_is_fast_with_amds_and_with_amx(machine, vendor, features, fast):
    (machine.proc / "cpuinfo").write_text(f"vendor_id\t: {vendor}\nflags\t: {features}\n")
    assert is_bf16_fast() == fast


def test_bfloat16_of_an_arm(machine):
    (machine.proc / "cpuinfo").write_text(ARM_CPUINFO)
    assert is_bf16_fast()
    (machine.proc / "cpuinfo").write_text(ARM_CPUINFO.replace(" bf16", ""))
    assert not is_bf16_fast()


def test_class_changes_with_kernel_features_only(machine):
    (machine.proc / "cpuinfo").write_text(CPUINFO)
    name = cpu_class()
    assert re.fullmatch(r"[a-z0-9_]+-[a-z0-9_]+-[0-9a-f]{8}", name)
    (machine.proc / "cpuinfo").write_text(CPUINFO.replace("2 GHz", "9 GHz").replace("sse2 ", ""))
    assert cpu_class() == name
    (machine.proc / "cpuinfo").write_text(CPUINFO.replace("avx512f", "avx512f avx512_bf16"))
    assert cpu_class() != name


def test_machine_without_cpuinfo_has_a_class_too(machine):
    assert cpu_features() == ()
    assert cpu_class()
    assert isinstance(cpu_model(), str)
