import pytest

from levit.benchmarks import memory


@pytest.fixture
def system(tmp_path, monkeypatch):
    """(meminfo, max, current, stat) → what is available there."""

    def read(meminfo=None, limit=None, used="0", stat=""):
        for name, text in {
            "meminfo": meminfo,
            "memory.max": limit,
            "memory.current": used,
            "memory.stat": stat,
        }.items():
            path = tmp_path / name
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)
        monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(memory, "_CGROUP", tmp_path)
        return memory.available_memory()

    return read


HALF = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  500 kB\n"


def test_the_smaller_of_machine_and_container_counts(system):
    assert system(HALF) == 0.5
    assert system(HALF, "max\n") == 0.5
    assert system(HALF, "1000", "900") == pytest.approx(0.1)
    # Pages of files are given back.
    assert system(HALF, "1000", "900", "anon 100\ninactive_file 600\n") == 0.5
    assert system(None, "1000", "250") == 0.75


@pytest.mark.parametrize("text", [None, "", "MemTotal: 0 kB\nMemAvailable: 0 kB\n", "nonsense"])
def test_where_nothing_is_told_nothing_is_known(system, text):
    assert system(text) is None
