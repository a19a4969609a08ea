import inspect
import io
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from levit.commands import progress as module
from levit.commands.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def lines(self):
        """Everything that stood in the line, in order."""
        return [line for line in re.split(r"\r\x1b\[K|\n", self.getvalue()) if line]


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def pipe(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=stream))
    return stream


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_it_is_called_as_an_export_calls_it():
    parameters = list(inspect.signature(Progress.__call__).parameters.values())[1:]
    assert [(p.name, p.default) for p in parameters] == [
        ("step", inspect.Parameter.empty),
        ("done", 0),
        ("total", 0),
    ]


def test_a_step_shows_its_count_and_its_time(terminal, monkeypatch):
    monkeypatch.setattr(module, "_REDRAW_S", 0.0)
    with Progress() as progress:
        progress("calibrating", 37, 128)
        progress("building the engine")
    assert terminal.lines() == ["  calibrating 37/128  0 s", "  building the engine  0 s"]
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_the_clock_moves_while_nothing_calls(terminal, monkeypatch):
    monkeypatch.setattr(module, "_TICK_S", 0.01)
    with Progress() as progress:
        progress("building the engine")
        progress._begun -= 61
        wait_until(lambda: "  building the engine  1 min 1 s" in terminal.lines())


def test_a_detail_behind_a_colon_does_not_start_the_clock_anew(terminal, monkeypatch):
    monkeypatch.setattr(module, "_REDRAW_S", 0.0)
    with Progress() as progress:
        progress("measuring: one")
        progress._begun -= 7
        progress("measuring: another")
        progress("writing")
    lines = ["  measuring: one  0 s", "  measuring: another  7 s", "  writing  0 s"]
    assert terminal.lines() == lines


def test_output_comes_into_a_line_of_its_own(terminal, monkeypatch):
    monkeypatch.setattr(module, "_TICK_S", 0.001)
    with Progress() as progress:
        progress("classifying", 1, 2)
        for number in range(20):
            with progress.aside():
                terminal.write(f"answer {number}")
                time.sleep(0.003)
                terminal.write("\n")
    assert [line for line in terminal.lines() if "answer" in line] == [
        f"answer {number}" for number in range(20)
    ]


def test_a_line_is_no_longer_than_the_terminal_is_wide(terminal, monkeypatch):
    monkeypatch.setattr(module, "_columns", lambda: 21)
    with Progress() as progress:
        progress("a step of many words and a name\x1b[2J")
    assert terminal.lines() == ["  a step of ma…  0 s"]


def test_a_short_step_says_nothing_in_a_pipe(pipe):
    with Progress() as progress:
        progress("calibrating", 1, 2)
    assert pipe.getvalue() == ""


def test_a_long_step_is_told_once_in_a_pipe(pipe, monkeypatch):
    monkeypatch.setattr(module, "_LONG_S", 0.05)
    with Progress() as progress:
        progress("calibrating", 37, 128)
        wait_until(lambda: pipe.getvalue())
        time.sleep(0.1)
        progress("calibrating", 128, 128)
        assert pipe.getvalue() == "calibrating 37/128  0 s\n"
        progress("building the engine")
        wait_until(lambda: pipe.getvalue().count("\n") == 2)
    assert pipe.getvalue() == "calibrating 37/128  0 s\nbuilding the engine  0 s\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_thread_ends_with_the_work(terminal, error):
    before = threading.active_count()

    def work():
        with Progress() as progress:
            progress("classifying")
            raise error

    with pytest.raises(error):
        work()
    assert threading.active_count() == before
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_a_terminal_that_has_gone_is_no_error(terminal):
    with Progress() as progress:
        terminal.close()
        progress("classifying")


def test_ctrl_c_ends_it_at_once():
    code = (
        "import os, signal, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may ignore it
        "from levit.commands.progress import Progress\n"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    with Progress() as progress:\n"
        "        progress('waiting')\n"
        "        time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', threading.active_count())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert re.fullmatch(r"interrupted [12]\n", result.stdout)
    assert result.stderr == ""
