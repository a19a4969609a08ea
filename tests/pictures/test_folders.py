import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from levit.errors import InputError
from levit.pictures.folders import images_in, labelled_images


def place(path, name="a.png"):
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(b"")
    return path / name


def chain(folder, depth):
    """Make folders in each other with a picture in the last; paths may be longer than a path."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        Path("a.png").write_bytes(b"")
    finally:
        os.chdir(before)


@pytest.fixture
def deep(tmp_path):
    yield tmp_path
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_a_folder_that_five_links_lead_to_counts_once_by_its_own_name(tmp_path):
    real = place(tmp_path / "m" / "real")
    for name in "avwxz":
        (tmp_path / name).symlink_to(real.parent, target_is_directory=True)
    assert images_in(tmp_path) == [real]


def test_a_folder_elsewhere_counts_once_by_the_first_link(tmp_path):
    place(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    for name in "cab":
        (tmp_path / "here" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert images_in(tmp_path / "here") == [tmp_path / "here" / "a" / "a.png"]


def test_links_in_a_circle_end(tmp_path):
    one, two = place(tmp_path / "one"), place(tmp_path / "one" / "two")
    (two.parent / "up").symlink_to(tmp_path, target_is_directory=True)
    (two.parent / "self").symlink_to("self")
    (two.parent / "gone").symlink_to("nowhere")
    assert images_in(tmp_path) == [one, two]


def test_any_tree_with_any_links_has_each_picture_once(tmp_path):
    rng = random.Random(os.environ.get("LEVIT_TEST_SEED", "7"))
    folders = [tmp_path / "root"]
    for number in range(40):
        folders.append(rng.choice(folders) / f"f{number}")
    pictures = {place(folder).resolve() for folder in folders}
    for number in range(60):
        link = rng.choice(folders) / f"{rng.choice('ax')}{number}"
        link.symlink_to(rng.choice(folders), target_is_directory=True)
    found = images_in(tmp_path / "root")
    assert len(found) == len(pictures)
    assert set(found) == pictures  # by their own names


def test_two_links_to_one_file_are_two_pictures(tmp_path):
    real = place(tmp_path)
    (tmp_path / "b.png").symlink_to(real)
    assert images_in(tmp_path) == [real, tmp_path / "b.png"]


def test_folders_a_thousand_deep_are_searched(deep):
    chain(deep, 1000)
    started = time.monotonic()
    assert len(images_in(deep)) == 1
    assert time.monotonic() - started < 20  # 0.1 s


def test_folders_too_deep_to_be_named_are_an_error_and_not_passed_by(deep):
    chain(deep, 3000)
    started = time.monotonic()
    with pytest.raises(InputError, match="too deep to name them"):
        images_in(deep)
    assert time.monotonic() - started < 60  # 1 s; by real paths it took minutes


def test_two_names_of_one_class_folder_are_refused(tmp_path):
    place(tmp_path / "cat")
    place(tmp_path / "dog")
    assert len(labelled_images(tmp_path, ["cat", "dog", "pet"])[0]) == 2
    (tmp_path / "pet").symlink_to(tmp_path / "dog", target_is_directory=True)
    with pytest.raises(InputError, match=r"pet and .*dog are the same folder"):
        labelled_images(tmp_path, ["cat", "dog", "pet"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
def test_a_folder_that_may_not_be_read_is_passed_by(tmp_path):
    place(tmp_path / "closed")
    (tmp_path / "closed").chmod(0)
    assert images_in(tmp_path) == []
    (tmp_path / "closed").chmod(0o700)
    shutil.rmtree(tmp_path / "closed")
