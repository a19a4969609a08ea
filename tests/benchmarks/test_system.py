import sys

import psutil
import pytest

from levit.benchmarks import system


@pytest.fixture
def free(tmp_path, monkeypatch):
    """(meminfo, max, current, stat) → what is available there."""

    def read(meminfo=None, limit=None, used="0", stat=""):
        for name, text in {
            "proc/meminfo": meminfo,
            "fs/cgroup/memory.max": limit,
            "fs/cgroup/memory.current": used,
            "fs/cgroup/memory.stat": stat,
        }.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
        monkeypatch.setattr(system, "_SYS", tmp_path)
        return system.free_memory()

    return read


HALF = """\
MemTotal:  1000 kB
MemFree:      1 kB
MemAvailable: 500 kB
Buffers:      9 kB
Cached:       9 kB
Shmem:        9 kB
Active:       9 kB
Inactive:     9 kB
"""


def test_the_smaller_of_machine_and_container_counts(free):
    assert free(HALF) == 0.5
    assert free(HALF, "max\n") == 0.5
    assert free(HALF, "1000", "900") == pytest.approx(0.1)
    # Pages of files are given back.
    assert free(HALF, "1000", "900", "anon 100\ninactive_file 600\n") == 0.5
    assert free(None, "1000", "250") == 0.75


@pytest.mark.parametrize("text", [None, "", "MemTotal: 0 kB\nMemAvailable: 0 kB\n", "nonsense"])
def test_where_nothing_is_told_nothing_is_known(free, text):
    assert free(text) is None


def test_without_psutil_nothing_of_the_machine_is_known(monkeypatch, free):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert free(HALF) is None
    assert free(HALF, "1000", "250") == 0.75
    for ask in (system.our_seconds, system.physical_cores, system.total_memory_bytes):
        assert ask() is None
    assert system.cpu_seconds() == (None, None)
