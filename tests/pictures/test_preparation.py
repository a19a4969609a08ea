import numpy as np
import pytest
from drawn_pictures import encoded, picture
from PIL import Image

from levit.errors import InputError
from levit.pictures.preparation import to_tensor
from levit.pictures.preprocess import PreprocessSpec, normalize, to_pixels
from levit.pictures.reading import load_image

SPEC = PreprocessSpec(image_size=(24, 32))


@pytest.mark.parametrize("exif", [False, True])
def test_a_picture_becomes_a_row_of_either_type(exif):
    options = Image.Exif()
    options[0x0112] = 6
    data = encoded(picture("RGB", (60, 40)), "JPEG", exif=options)
    pixels = to_pixels(load_image(data, exif=exif), SPEC)
    assert np.array_equal(to_tensor(data, SPEC, "uint8", exif=exif), pixels)
    row = to_tensor(data, SPEC, "float32", exif=exif)
    assert row.shape == (3, 24, 32)
    assert np.array_equal(row, normalize(pixels, SPEC))


def test_a_draft_is_another_decoding_of_the_same_picture():
    data = encoded(picture("RGB", (1600, 1200)), "JPEG")
    whole, draft = (to_tensor(data, SPEC, "uint8", draft=on).astype(int) for on in (False, True))
    assert 0 < np.abs(whole - draft).mean() < 3


def test_a_picture_that_cannot_be_resized_is_named(tmp_path):
    path = tmp_path / "thin.png"
    Image.new("RGB", (20_000, 1)).save(path)
    with pytest.raises(InputError, match=r"thin\.png: an image of 20000x1 pixels is too long"):
        to_tensor(path, PreprocessSpec(image_size=(224, 224)), "uint8")
