"""Arrays and pictures that whoever gives them fills again: reading runs ahead, answers must not."""

import io

import numpy as np
import pytest
from PIL import Image

from levit.runtime.predictor import Predictor

COUNT = 26


@pytest.fixture(params=[0, 2], ids=["no workers", "2 workers"])
def predictor(request, tiny_artifact):
    with Predictor(tiny_artifact, threads=1, workers=request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def pixels(digit_paths):
    return [np.asarray(Image.open(path).convert("RGB")) for path in digit_paths[:COUNT]]


def one_array(pixels):
    buffer = np.empty_like(pixels[0])
    for values in pixels:
        buffer[...] = values
        yield buffer
        buffer[...] = 0


def views_of_one_array(pixels):
    buffer = np.empty((2, *pixels[0].shape), np.uint8)
    for i, values in enumerate(pixels):
        buffer[i % 2] = values
        yield buffer[i % 2]


def reversed_channels(pixels):
    buffer = np.empty_like(pixels[0])
    for values in pixels:
        buffer[...] = values[..., ::-1]
        yield buffer[..., ::-1]


def over_a_bytearray(pixels):
    buffer = bytearray(pixels[0].nbytes)
    for values in pixels:
        buffer[:] = values.tobytes()
        yield np.frombuffer(buffer, np.uint8).reshape(values.shape)


def one_picture(pixels):
    picture = Image.new("RGB", pixels[0].shape[1::-1])
    for values in pixels:
        picture.paste(Image.fromarray(values))
        yield picture
        picture.paste(0, (0, 0, *picture.size))


def encoded(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def closed_pictures(pixels):
    for values in pixels:
        with Image.open(io.BytesIO(encoded(values))) as picture:
            yield picture


def encoded_in_one_buffer(pixels, kind=bytearray):
    buffer = bytearray(2**16)
    for values in pixels:
        data = encoded(values)
        buffer[: len(data)] = data
        yield buffer if kind is bytearray else kind(buffer)[: len(data)]
        buffer[:] = bytes(len(buffer))


def memoryviews(pixels):
    yield from encoded_in_one_buffer(pixels, memoryview)


class Frames(list):
    """A list whose iterator is the caller's own code."""

    def __iter__(self):
        return one_array([self[i] for i in range(len(self))])


LENDERS = [
    *(one_array, views_of_one_array, reversed_channels, over_a_bytearray, one_picture),
    *(closed_pictures, encoded_in_one_buffer, memoryviews, Frames),
]


@pytest.mark.parametrize("lender", LENDERS)
def test_images_that_are_filled_again(predictor, pixels, lender):
    expected = predictor.predict(pixels)
    assert len({answer.label for answer in expected}) > 5
    labels = [answer.label for answer in expected]
    assert [answer.label for answer in predictor.predict(lender(pixels))] == labels
    assert [answer.label for answer in predictor.stream(lender(pixels))] == labels
    np.testing.assert_array_equal(
        predictor.preprocess(lender(pixels)), predictor.preprocess(list(pixels))
    )


def test_arrays_that_are_too_large_are_refused_without_a_copy(predictor):
    vast = np.broadcast_to(np.zeros(3, np.uint8), (200_000, 200_000, 3))  # 120 GB, of 3 bytes
    (answer,) = predictor.predict(iter([vast]), on_error="return")
    assert "megapixels" in str(answer)
