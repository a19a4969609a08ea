"""Commands that gave a wrong figure, or took away what they had read, on a slip of the hand."""

import shutil

import pytest

from levit.cli import main
from levit.errors import InputError
from levit.export import ExportOptions, export
from levit.models.registry import digits_folder
from levit.pictures.folders import labelled_images

PICTURE = min((digits_folder() / "images").glob("*/*.png"))


@pytest.fixture(scope="module")
def embedding_artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedding") / "artifact"
    export(ExportOptions(model="levit_digits", outputs=["embedding"], output=folder))
    return folder


@pytest.fixture
def zoo(tmp_path):
    """A folder of pictures for each of ten animals, and their labels in another order."""
    labels = ["zebra", "ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis"]
    for label in labels:
        (tmp_path / "zoo" / label).mkdir(parents=True)
        shutil.copy(PICTURE, tmp_path / "zoo" / label / "a.png")
    return tmp_path / "zoo", labels


def test_one_misspelt_folder_among_labels_is_no_sorted_order(zoo):
    folder, labels = zoo
    assert len(labelled_images(folder, labels)[0]) == 10
    (folder / "gnu").rename(folder / "gnus")
    with pytest.raises(InputError, match=r"1 of its 10 folders are no labels .*\(gnus\)"):
        labelled_images(folder, labels)


def test_folders_that_are_no_labels_at_all_are_in_sorted_order(zoo):
    folder, labels = zoo
    for number, label in enumerate(labels):
        (folder / label).rename(folder / f"n{number:04d}")
    pairs, assumed = labelled_images(folder, labels)
    assert [index for _, index in pairs] == list(range(10))
    assert assumed


@pytest.mark.parametrize("second", ["00", "\u0660", "\uff10"])
def test_two_folders_of_one_index(tmp_path, second):
    for name in ("0", second):
        (tmp_path / name).mkdir()
        shutil.copy(PICTURE, tmp_path / name / "a.png")
    with pytest.raises(InputError, match="have one index"):
        labelled_images(tmp_path, [str(i) for i in range(10)])


def test_an_empty_word_is_not_the_current_folder(tiny_artifact, monkeypatch, capsys):
    monkeypatch.chdir(PICTURE.parent)
    assert main(["predict", str(tiny_artifact), ""]) == 1
    assert "an empty word names no image" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["picture", "model.onnx", "manifest.json"])
def test_embeddings_are_not_written_over_what_is_read(embedding_artifact, tmp_path, capsys, target):
    folder = shutil.copytree(embedding_artifact, tmp_path / "artifact")
    picture = shutil.copy(PICTURE, tmp_path / "picture")
    path = tmp_path / "picture" if target == "picture" else folder / target
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    assert main(["predict", str(folder), str(picture), "--embed", str(tmp_path / "link")]) == 1
    assert "would be overwritten" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_an_export_does_not_take_the_current_folder_away(
    tiny_artifact, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    monkeypatch.chdir(folder)
    for place in (".", str(folder)):
        assert main(["export", "--model", "levit_digits", "--output", place, "--force"]) == 1
        assert "the current folder lies in it" in capsys.readouterr().err
    assert (folder / "manifest.json").exists()
