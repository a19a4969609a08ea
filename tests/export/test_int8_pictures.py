"""Pictures to calibrate with and to judge by: what is read, and what is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from levit.errors import CalibrationError
from levit.export.quantization import pictures as module
from levit.export.quantization.pictures import Decoder, read_pictures
from levit.models.pictures import smooth_pictures
from levit.pictures import preparation
from levit.pictures.preprocess import PreprocessSpec, normalize, to_pixels

LABELS = tuple("abcdefghij")


@pytest.fixture
def spec():
    return PreprocessSpec(flavour="timm", image_size=(96, 96), crop_pct=1.0)


@pytest.fixture
def decoder(spec):
    return Decoder(spec)


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


def test_pictures_come_preprocessed_one_by_one(folder, model, spec, decoder):
    pictures = read_pictures(folder, model, decoder)
    assert len(pictures) == 20
    assert pictures.labels is None
    first = next(iter(pictures))
    with Image.open(folder / "a" / "00.png") as image:
        expected = normalize(to_pixels(image.convert("RGB"), spec)[None], spec)
    np.testing.assert_array_equal(first, expected)


def test_a_model_of_pixels_gets_pixels(folder, model, spec, decoder):
    pixels = read_pictures(folder, model.with_plan(pixels=(spec.mean, spec.std)), decoder)
    assert next(iter(pixels)).dtype == np.uint8
    assert next(iter(pixels)).shape == (1, 96, 96, 3)


def test_labels_are_the_folders(folder, model, decoder):
    pictures = read_pictures(folder, model, decoder, LABELS)
    assert pictures.labels == tuple(i // 2 for i in range(20))
    few = pictures.sample(10)
    assert few.labels is not None
    assert len(few) == len(few.labels) == 10
    assert sorted(set(few.labels)) == list(range(10))  # spread over all classes


def test_a_flat_folder_has_no_labels(folder, model, decoder):
    assert read_pictures(folder / "a", model, decoder, LABELS).labels is None


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


def test_what_is_no_folder_and_no_npz_is_refused(tmp_path, model, decoder):
    with pytest.raises(CalibrationError, match="no such folder"):
        read_pictures(tmp_path / "nowhere", model, decoder)
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(CalibrationError, match=r"cannot be read as \.npz"):
        read_pictures(tmp_path / "x.npz", model, decoder)


def test_a_folder_without_images_is_refused(tmp_path, model, decoder):
    (tmp_path / "readme.txt").write_text("no picture")
    with pytest.raises(CalibrationError, match="no images in this folder"):
        read_pictures(tmp_path, model, decoder)


def test_a_file_that_is_no_image_is_named(folder, model, decoder):
    (folder / "a" / "99.png").write_text("no picture")
    with pytest.raises(CalibrationError, match=r"99\.png"):
        list(read_pictures(folder, model, decoder))


def test_labels_that_match_no_class_are_refused(folder, model, decoder):
    with pytest.raises(CalibrationError, match="are no labels of this model"):
        read_pictures(folder, model, decoder, ("cat", "dog"))


def test_a_model_of_other_channels_takes_an_npz(folder, make_small):
    with pytest.raises(CalibrationError, match=r"pass an \.npz"):
        read_pictures(folder, make_small("one_channel"), None)


def test_a_single_array_under_that_name_is_refused(tmp_path, model, decoder):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros((2, 3, 96, 96), np.float32))
    with pytest.raises(CalibrationError, match="a single array"):
        read_pictures(tmp_path / "x.npz", model, decoder)


def test_damage_inside_an_npz_is_refused(tmp_path, model, decoder):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, inputs=np.random.default_rng(0).random((4, 3, 96, 96), np.float32))
    content = bytearray(path.read_bytes())
    for i in range(2000, 4000):
        content[i] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"cannot be read as \.npz"):
        read_pictures(path, model, decoder)


def test_linked_folders_are_read_and_loops_are_not(folder, tmp_path, model, decoder):
    (tmp_path / "linked").mkdir()
    for place in folder.iterdir():
        (tmp_path / "linked" / place.name).symlink_to(place)
    (folder / "a" / "loop").symlink_to(folder / "a")
    assert len(read_pictures(tmp_path / "linked", model, decoder, LABELS)) == 20
    assert len(read_pictures(folder, model, decoder)) == 20


def test_numbers_that_are_no_indices_are_no_order(folder, model, decoder):
    for number, name in enumerate(LABELS):
        (folder / name).rename(folder / str(number + 1))
    with pytest.raises(CalibrationError, match="no labels of this model"):
        read_pictures(folder, model, decoder, LABELS)


def test_a_label_of_several_classes_names_none(folder, model, decoder):
    with pytest.raises(CalibrationError, match="'a' is the label of several classes"):
        read_pictures(folder, model, decoder, ("a", "a", *LABELS[2:]))


def test_a_picture_is_decoded_once(folder, model, decoder, monkeypatch):
    """However often it is asked for, and by however many users of one decoder."""
    decoded = []
    load_image = preparation.load_image

    def counted(image, **options):
        decoded.append(image)
        return load_image(image, **options)

    monkeypatch.setattr(preparation, "load_image", counted)
    pictures = read_pictures(folder, model, decoder)
    first = list(pictures)
    again = [*pictures.sample(5), *read_pictures(folder, model, decoder, LABELS)]
    assert len(decoded) == len(set(decoded)) == 20
    assert len(again) == 25
    np.testing.assert_array_equal(np.concatenate(again[5:]), np.concatenate(first))


def test_pictures_beyond_the_bound_are_decoded_each_time(folder, model, spec, monkeypatch):
    whole = np.concatenate(list(read_pictures(folder, model, Decoder(spec))))
    monkeypatch.setattr(module, "_MOST_BYTES", 7 * 96 * 96 * 3)
    decoder = Decoder(spec)
    pictures = read_pictures(folder, model, decoder)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(list(pictures)), whole)
    assert len(decoder._kept) == 7
