import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levit.artifact import MANIFEST_FILE, describe_files
from levit.export import ExportOptions, export
from levit.models.registry import digits_folder
from levit.runtime.predictor import Predictor


@pytest.fixture(scope="session")
def digit_paths():
    """Four pictures of every digit, in an order in which neighbours differ."""
    folders = [digits_folder() / "images" / str(digit) for digit in range(10)]
    return [sorted(folder.glob("*.png"))[i] for i in range(4) for folder in folders]


@pytest.fixture(scope="session")
def make_artifact(tmp_path_factory):
    """(name, **options) → the folder of an artifact of levit_digits, exported once."""
    folders = {}

    def make(name, **options):
        if name not in folders:
            folder = tmp_path_factory.mktemp("artifacts") / name
            export(ExportOptions(**{"model": "levit_digits", **options, "output": folder}))
            folders[name] = folder
        return folders[name]

    return make


@pytest.fixture(scope="session")
def embedding_artifact(make_artifact):
    return make_artifact("with-embedding", outputs=("logits", "embedding"))


@pytest.fixture(scope="session")
def static_artifact(make_artifact):
    return make_artifact("static-4", batch=4)


@pytest.fixture(scope="session")
def uint8_artifact(make_artifact):
    return make_artifact("uint8", input="uint8")


@pytest.fixture(scope="session")
def headless_artifact(make_artifact, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "config.json"
    config.write_text(json.dumps({"num_classes": 0}))
    return make_artifact("headless", random_weights=3, config=config)


@pytest.fixture(scope="session")
def tensor_artifact(make_artifact, tmp_path_factory):
    """One that takes two channels, and so no images."""
    values = json.loads((digits_folder() / "config.json").read_text())
    values = {name: values[name] for name in ("img_size", "embed_dim", "key_dim", "depth")}
    values |= {"num_heads": [2, 3, 4], "in_chans": 2, "num_classes": 3, "architecture": "two"}
    config = tmp_path_factory.mktemp("config") / "config.json"
    config.write_text(json.dumps(values))
    return make_artifact("two", model=None, random_weights=3, config=config)


@pytest.fixture
def predictor(tiny_artifact):
    with Predictor(tiny_artifact, threads=1) as opened:
        yield opened


@pytest.fixture
def batch():
    """(count) → tensors as levit_digits takes them."""

    def make(count):
        return np.random.default_rng(count).standard_normal((count, 3, 96, 96)).astype(np.float32)

    return make


@pytest.fixture
def tampered(tiny_artifact, tmp_path):
    """(change) → a copy whose manifest fits what `change` has done to the folder."""

    def make(change=lambda folder, values: None, source=tiny_artifact):
        folder = Path(shutil.copytree(source, tmp_path / "tampered"))
        values = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        change(folder, values)
        values["files"] = describe_files(folder)
        (folder / MANIFEST_FILE).write_text(json.dumps(values), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def portrait(tmp_path):
    """A picture that EXIF says to turn by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "portrait.jpg"
    pixels = np.random.default_rng(5).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    return path
