"""Pictures to calibrate with and to judge by: what is read, and what is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from levit.errors import CalibrationError
from levit.export.quantization.pictures import read_pictures
from levit.models.pictures import smooth_pictures
from levit.pictures.preprocess import PreprocessSpec, normalize, to_pixels

LABELS = tuple("abcdefghij")


@pytest.fixture
def spec():
    return PreprocessSpec(flavour="timm", image_size=(96, 96), crop_pct=1.0)


@pytest.fixture
def model(make_small):
    return make_small("tiny")


@pytest.fixture
def folder(tmp_path, rng):
    """Twenty pictures in ten classes."""
    for i, picture in enumerate(smooth_pictures(rng, 20, (70, 90))):
        place = tmp_path / "photos" / LABELS[i % 10]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{i:02}.png")
    return tmp_path / "photos"


def test_pictures_come_preprocessed_one_by_one(folder, model, spec):
    pictures = read_pictures(folder, model, spec)
    assert len(pictures) == 20
    assert pictures.labels is None
    first = next(iter(pictures))
    with Image.open(folder / "a" / "00.png") as image:
        expected = normalize(to_pixels(image.convert("RGB"), spec)[None], spec)
    np.testing.assert_array_equal(first, expected)


def test_a_model_of_pixels_gets_pixels(folder, model, spec):
    pixels = read_pictures(folder, model.with_plan(pixels=(spec.mean, spec.std)), spec)
    assert next(iter(pixels)).dtype == np.uint8
    assert next(iter(pixels)).shape == (1, 96, 96, 3)


def test_labels_are_the_folders(folder, model, spec):
    pictures = read_pictures(folder, model, spec, LABELS)
    assert pictures.labels == tuple(i // 2 for i in range(20))
    few = pictures.sample(10)
    assert few.labels is not None
    assert len(few) == len(few.labels) == 10
    assert sorted(set(few.labels)) == list(range(10))  # spread over all classes


def test_a_flat_folder_has_no_labels(folder, model, spec):
    assert read_pictures(folder / "a", model, spec, LABELS).labels is None


def test_an_npz_holds_inputs(tmp_path, model, rng):
    x = rng.standard_normal((12, 3, 96, 96)).astype(np.float32)
    np.savez(tmp_path / "x.npz", inputs=x, labels=np.arange(12) % 10)
    pictures = read_pictures(tmp_path / "x.npz", model, None, LABELS)
    np.testing.assert_array_equal(np.concatenate(list(pictures)), x)
    assert pictures.labels == tuple(i % 10 for i in range(12))
    assert len(pictures.sample(5)) == 5
    np.savez(tmp_path / "y.npz", anything=x)
    assert len(read_pictures(tmp_path / "y.npz", model, None)) == 12


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"inputs": np.zeros((4, 3, 96, 95), np.float32)}, "takes (N, 3, 96, 96) float32"),
        ({"inputs": np.zeros((4, 96, 96, 3), np.uint8)}, "takes (N, 3, 96, 96) float32"),
        ({"inputs": np.zeros((0, 3, 96, 96), np.float32)}, "holds no inputs"),
        ({"one": np.zeros(3), "two": np.zeros(3)}, "which array are the inputs"),
        (
            {"inputs": np.zeros((2, 3, 96, 96), np.float32), "labels": np.array([1, 10])},
            "a class from 0 to 9",
        ),
        (
            {"inputs": np.zeros((2, 3, 96, 96), np.float32), "labels": np.array([1])},
            "a class from 0 to 9",
        ),
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path, model, arrays, said):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(CalibrationError, match=r"x\.npz") as error:
        read_pictures(tmp_path / "x.npz", model, None, LABELS)
    assert said in str(error.value)


def test_what_is_no_folder_and_no_npz_is_refused(tmp_path, model, spec):
    with pytest.raises(CalibrationError, match="no such folder"):
        read_pictures(tmp_path / "nowhere", model, spec)
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(CalibrationError, match=r"cannot be read as \.npz"):
        read_pictures(tmp_path / "x.npz", model, spec)


def test_a_folder_without_images_is_refused(tmp_path, model, spec):
    (tmp_path / "readme.txt").write_text("no picture")
    with pytest.raises(CalibrationError, match="no images in this folder"):
        read_pictures(tmp_path, model, spec)


def test_a_file_that_is_no_image_is_named(folder, model, spec):
    (folder / "a" / "99.png").write_text("no picture")
    with pytest.raises(CalibrationError, match=r"99\.png"):
        list(read_pictures(folder, model, spec))


def test_labels_that_match_no_class_are_refused(folder, model, spec):
    with pytest.raises(CalibrationError, match="are no labels of this model"):
        read_pictures(folder, model, spec, ("cat", "dog"))


def test_a_model_of_other_channels_takes_an_npz(folder, make_small):
    with pytest.raises(CalibrationError, match=r"pass an \.npz"):
        read_pictures(folder, make_small("one_channel"), None)


def test_a_single_array_under_that_name_is_refused(tmp_path, model, spec):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros((2, 3, 96, 96), np.float32))
    with pytest.raises(CalibrationError, match="a single array"):
        read_pictures(tmp_path / "x.npz", model, spec)


def test_damage_inside_an_npz_is_refused(tmp_path, model, spec):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, inputs=np.random.default_rng(0).random((4, 3, 96, 96), np.float32))
    content = bytearray(path.read_bytes())
    for i in range(2000, 4000):
        content[i] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"cannot be read as \.npz"):
        read_pictures(path, model, spec)


def test_linked_folders_are_read_and_loops_are_not(folder, tmp_path, model, spec):
    (tmp_path / "linked").mkdir()
    for place in folder.iterdir():
        (tmp_path / "linked" / place.name).symlink_to(place)
    (folder / "a" / "loop").symlink_to(folder / "a")
    assert len(read_pictures(tmp_path / "linked", model, spec, LABELS)) == 20
    assert len(read_pictures(folder, model, spec)) == 20


def test_numbers_that_are_no_indices_are_no_order(folder, model, spec):
    for number, name in enumerate(LABELS):
        (folder / name).rename(folder / str(number + 1))
    with pytest.raises(CalibrationError, match="no labels of this model"):
        read_pictures(folder, model, spec, LABELS)


def test_a_label_of_several_classes_names_none(folder, model, spec):
    with pytest.raises(CalibrationError, match="'a' is the label of several classes"):
        read_pictures(folder, model, spec, ("a", "a", *LABELS[2:]))
