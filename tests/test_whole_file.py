"""Files that are written whole take the place of files alone."""

import os
import stat

import pytest

from levit.whole_file import whole_file


def test_a_device_is_not_replaced(tmp_path):
    """Root may rename over /dev/full; nobody means to."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes")
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with pytest.raises(OSError, match="no plain file"), whole_file(place) as file:
        file.write(b"x")
    assert stat.S_ISFIFO(place.lstat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="no plain file"), whole_file(tmp_path / "folder") as file:
        file.write(b"x")


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to("file")
    for contents in (b"new", b"newer"):
        with whole_file(tmp_path / "link") as file:
            file.write(contents)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_bytes() == contents


def test_nothing_is_left_of_a_block_that_raises(tmp_path):
    def fail():
        with whole_file(tmp_path / "file") as file:
            file.write(b"new")
            raise KeyError

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyError):
        fail()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
