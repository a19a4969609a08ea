import os
import subprocess
from pathlib import Path

import pytest

from levit.commands.images import find_images
from levit.errors import InputError


@pytest.mark.parametrize("words", ["d", "d/**/*.png"])
def test_folders_in_each_other_without_end_are_one_line(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    for _ in range(3000):
        Path("d").mkdir()
        os.chdir("d")
    Path("a.png").write_bytes(b"")
    os.chdir(tmp_path)
    try:
        with pytest.raises(InputError, match="too deep"):
            find_images([words])
    finally:
        subprocess.run(["rm", "-rf", "d"], check=True)
