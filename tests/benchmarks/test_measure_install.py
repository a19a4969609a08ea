import json
import subprocess
import sys

import measure_install


def test_processes_are_timed_without_the_first_round(monkeypatch, capsys, tmp_path):
    result = tmp_path / "result.json"
    words = ["--json", str(result), "processes", "--model", "levit_128s", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["measure_install", *words])
    measure_install.main()
    assert "levit --help" in capsys.readouterr().out
    seconds = json.loads(result.read_text())["seconds"]
    assert len(seconds) == 3
    assert all(len(values) == 1 and values[0] > 0 for values in seconds.values())


def test_an_install_is_weighed_part_by_part(monkeypatch, capsys, tmp_path):
    """The script's own commands, but for pip's download: it puts a package of 3 MB there."""
    run = subprocess.run

    def install(command, **settings):
        if "venv" in command:
            command = [*command, "--without-pip"]
        elif "pip" in command:
            folder = tmp_path.glob("*/venv/lib/python*/site-packages")
            if "install" in command:
                package = next(folder) / "package"
                package.mkdir()
                (package / "data").write_bytes(bytes(3_000_000))
            command = [sys.executable, "-c", "print('package==1.0')"]
        return run(command, **settings)

    monkeypatch.setattr(subprocess, "run", install)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["measure_install", "--json", str(tmp_path / "r"), "size"])
    measure_install.main()
    assert "3.0 MB" in capsys.readouterr().out
    told = json.loads((tmp_path / "r").read_text())
    assert told == {
        "total_bytes": 3_000_000,
        "packages": ["package==1.0"],
        "bytes": {"package": 3_000_000},
    }
