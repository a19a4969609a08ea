"""Fenced blocks of Markdown pages: found, and run in order in one folder a page.

A comment before a block says how it is run::

    <!-- needs: hub: fetches published weights -->    skipped where there is no such thing
    <!-- port 8000 -->                                another port in a test
    <!-- setup                                        a shell block that readers do not see
    levit export --model levit_digits
    -->

A block with ``title="name"`` is written to that file in place of being run.
"""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = ("sh", "console", "python", "setup")
SHOWN = ("text", "json", "mermaid")
PROGRAMS = {"docs": ("curl",)}
MODULES = {
    "docs": ("fastapi", "uvicorn", "python_multipart"),
    "openvino": ("openvino",),
    "peers": ("torch", "timm", "transformers"),
}
NEVER = {
    "hub": "a way to huggingface.co",
    "install": "an environment to install into (.ci/run runs the README's)",
    "minutes": "more minutes than a test has",
}
SLOW = "slow"
_PORT = 8000
_FENCE = re.compile(r"( *)```(\w*) *(?:title=\"([^\"]+)\")?.*")
# Steps that take long on a busy machine.
_PROGRESS = re.compile(r"^  .*  (\d+ min )?\d+ s\n", re.MULTILINE)
_NEEDS = re.compile(r"<!-- needs: ([\w-]+): (.+) -->")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block, or one hidden set-up."""

    page: str
    line: int
    language: str
    code: str
    title: str | None = None
    needs: tuple[str, ...] = ()
    moves_port: bool = False

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def is_slow(self):
        return SLOW in self.needs or "peers" in self.needs

    def lacks(self):
        """Names of the block's needs that this machine lacks."""
        for need in self.needs:
            if need in NEVER:
                return NEVER[need]
            missing = [m for m in MODULES.get(need, ()) if importlib.util.find_spec(m) is None]
            missing += [p for p in PROGRAMS.get(need, ()) if shutil.which(p) is None]
            if missing:
                return f"{' and '.join(missing)} (extra {need!r})"
        return None


def pages():
    """README and every page but those that are generated from records."""
    written = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *(p for p in written if not p.with_suffix(".json.gz").exists())]


def blocks(page):
    """Every block of a page, in order."""
    name = page.relative_to(ROOT).as_posix()
    lines = page.read_text(encoding="utf-8").splitlines()
    found, needs, moves_port, place = [], [], False, 0
    while place < len(lines):
        line, start = lines[place], place + 1
        place += 1
        if match := _NEEDS.fullmatch(line.strip()):
            needs.append(match[1])
        elif line.strip() == f"<!-- port {_PORT} -->":
            moves_port = True
        elif line == "<!-- setup" or (match := _FENCE.fullmatch(line)):
            hidden = line == "<!-- setup"
            end = "-->" if hidden else f"{match[1]}```"
            stop = lines.index(end, place)
            indent = 0 if hidden else len(match[1])
            code = "\n".join(inner[indent:] for inner in lines[place:stop]) + "\n"
            found.append(
                Block(
                    page=name,
                    line=start,
                    language="setup" if hidden else match[2],
                    code=code,
                    title=None if hidden else match[3],
                    needs=tuple(needs),
                    moves_port=moves_port,
                )
            )
            place, needs, moves_port = stop + 1, [], False
    return found


class Session:
    """A folder that looks like a clone, in which a page's blocks run one after the other."""

    def __init__(self, folder, page_blocks):
        self.folder = folder
        self._blocks = page_blocks
        self._done = set()
        self._namespace = {"__name__": "__main__"}
        for name in ("levit", "scripts", "tests", "docs", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)
        tools = folder / ".tools"
        tools.mkdir()
        for name, module in (("python", ""), ("levit", "-m levit.cli"), ("uvicorn", "-m uvicorn")):
            tool = tools / name
            tool.write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
            tool.chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "XDG_CACHE_HOME": str(folder / ".cache"),
            "HF_HUB_OFFLINE": "1",
        }

    def run_to(self, block):
        """Run a block, and what stands before it and was not run."""
        for earlier in self._blocks[: self._blocks.index(block)]:
            if earlier.lacks() is None and (block.is_slow or not earlier.is_slow):
                self._run_once(earlier)
        self._run_once(block)

    def _run_once(self, block):
        if block.line in self._done or (block.language in SHOWN and block.title is None):
            return
        self._done.add(block.line)
        if block.title is not None:
            (self.folder / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            # Line numbers of a traceback are those of the page.
            code = "\n" * block.line + block.code
            exec(compile(code, ROOT / block.page, "exec"), self._namespace)
        elif block.language == "console":
            self._compare(block)
        else:
            run = self._shell(block.code, block.moves_port)
            assert run.returncode == 0, f"{block}: exit {run.returncode}\n{run.stdout}"

    def _shell(self, code, moves_port=False):
        if moves_port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                code = code.replace(str(_PORT), str(free.getsockname()[1]))
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )

    def _compare(self, block):
        """Every ``$ command`` prints what stands below it, where … is any text."""
        commands = re.split(r"^\$ ", block.code, flags=re.MULTILINE)
        assert not commands[0].strip(), f"{block}: begins with output"
        for part in commands[1:]:
            command, _, expected = part.partition("\n")
            while command.endswith("\\"):
                more, _, expected = expected.partition("\n")
                command += f"\n{more}"
            run = self._shell(command)
            printed = _PROGRESS.sub("", run.stdout).strip()
            pattern = re.escape(expected.strip()).replace("…", ".*?")
            assert re.fullmatch(pattern, printed, re.DOTALL), f"{block}: {command}\n{printed}"
            fails = "error: " in expected
            assert (run.returncode != 0) == fails, f"{block}: {command}: exit {run.returncode}"
