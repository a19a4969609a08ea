import numpy as np
import pytest

from levit.models.pictures import smooth_pictures, standardized


@pytest.mark.parametrize("size", [(64, 96), (7, 5), (1, 1), (224, 224)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_pictures_have_the_size_and_type_that_was_asked(rng, size, channels):
    pictures = smooth_pictures(rng, 3, size, channels)
    assert pictures.shape == (3, *size, channels)
    assert pictures.dtype == np.uint8


def test_pictures_are_smooth_and_different(rng):
    pictures = smooth_pictures(rng, 4, (96, 96)).astype(float)
    for picture in pictures:
        assert np.ptp(picture) > 30
        assert roughness(picture) < 10
    for i in range(4):
        for j in range(i):
            assert np.abs(pictures[i] - pictures[j]).mean() > 3
    assert roughness(rng.integers(0, 256, (96, 96, 3)).astype(float)) > 60


def roughness(picture):
    """Mean step between neighbours, of 255."""
    return np.abs(np.diff(picture, axis=0)).mean()


def test_a_generator_repeats_itself():
    first, again = (smooth_pictures(np.random.default_rng(3), 2, (32, 48)) for _ in range(2))
    assert np.array_equal(first, again)


def test_standardized_moves_channels_and_scales():
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    pixels[1, 2, 3, 1] = 255
    found = standardized(pixels)
    assert found.shape == (2, 3, 4, 5)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found[0].max() == np.float32(-127.5 / 64)
    assert found[1, 1, 2, 3] == np.float32(127.5 / 64)
    assert np.count_nonzero(found != found[0, 0, 0, 0]) == 1


def test_standardized_pictures_have_mean_0_and_deviation_1(rng):
    found = standardized(smooth_pictures(rng, 40, (48, 48)))
    assert abs(found.mean()) < 0.25
    assert 0.6 < found.std() < 1.4
