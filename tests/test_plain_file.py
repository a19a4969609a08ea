import os
import socket
import threading
from pathlib import Path

import pytest

from levit.plain_file import open_plain, read_plain


def within(seconds, function, *arguments):
    """Call a function that might wait for ever; its result or its exception."""
    found = []

    def call():
        try:
            found.append(function(*arguments))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it waits"
    return found[0]


def test_a_plain_file_is_read_through_links(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").symlink_to("a")
    assert read_plain(tmp_path / "b", 5) == b"12345"
    with open_plain(str(tmp_path / "a")) as file:
        assert file.read(2) == b"12"


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket", "terminal", "endless"])
def test_what_one_would_wait_for_is_refused(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "terminal":
        _, terminal = os.openpty()
        path = os.ttyname(terminal)
    else:
        path = "/dev/zero"
    found = within(20, read_plain, path, 1 << 20)
    assert isinstance(found, OSError)
    if kind != "socket":  # which cannot be opened at all
        assert "no plain file" in str(found)


def test_a_large_file_is_refused_unread(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_plain(path, 1 << 20)
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_plain(path, 3)


def test_folders_and_odd_names(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_plain(tmp_path, 9)
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "none", 9)
    with pytest.raises(ValueError, match="null"):
        read_plain("a\0b", 9)


def test_nothing_stays_open(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        for _ in range(5):
            with pytest.raises(OSError, match=r"."):
                read_plain(path, 9)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
