import io
import pickle
import re
import threading

import numpy as np
import pytest
from PIL import Image, ImageSequence

from levit.errors import ConfigError, InputError
from levit.pictures.pipeline import AHEAD, ALONE
from levit.pictures.preprocess import normalize, to_pixels
from levit.pictures.reading import load_image
from levit.pictures.resizing import fill_row
from levit.runtime.predictor import Prediction, Predictor


@pytest.fixture(params=["onnx", pytest.param("native", marks=pytest.mark.native)])
def artifact(request, make_artifact):
    """One whose network runs in the calling thread, and one that workers run."""
    return make_artifact(f"many-{request.param}", target=request.param)


@pytest.fixture
def line(artifact):
    """A predictor with threads beside it, whatever the machine has."""
    with Predictor(artifact, threads=1, workers=3) as opened:
        yield opened


@pytest.fixture
def expected(predictor, digit_paths):
    """The answers of one image after the other, without any thread."""
    return [predictor(path) for path in digit_paths]


def same(found, expected):
    """Equal but for the rounding that depends on the size of a batch."""
    assert [p.index for p in found] == [p.index for p in expected]
    np.testing.assert_allclose([p.score for p in found], [p.score for p in expected], atol=1e-5)


BAD = {
    "empty": b"",
    "text": b"dear diary",
    "cut": None,
    "absent": "absent.png",
    "number": 3,
    "float array": np.zeros((8, 8, 3)),
    "thin": np.zeros((1, 60_000, 3), np.uint8),
}


def bad_image(name, digit_paths):
    return digit_paths[0].read_bytes()[:-60] if name == "cut" else BAD[name]


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("count", [1, 2, 8, 9, 40])
def test_many_are_answered_as_one_by_one(artifact, digit_paths, expected, workers, count):
    with Predictor(artifact, threads=1, workers=workers) as predictor:
        same(predictor.predict(digit_paths[:count]), expected[:count])
        same(list(predictor.stream(iter(digit_paths[:count]))), expected[:count])


@pytest.mark.parametrize("kind", ["static_artifact", "uint8_artifact", "embedding_artifact"])
def test_every_kind_of_artifact(request, kind, digit_paths, expected):
    with Predictor(request.getfixturevalue(kind), threads=1, workers=2) as predictor:
        assert [p.index for p in predictor.predict(digit_paths)] == [p.index for p in expected]


def test_embeddings_and_tensors_have_a_row_per_image_in_order(embedding_artifact, digit_paths):
    with Predictor(embedding_artifact, threads=1, workers=3) as predictor:
        tensors = predictor.preprocess(digit_paths)
        spec = predictor.manifest.preprocess
        for path, tensor in zip(digit_paths, tensors, strict=True):
            assert np.array_equal(tensor, normalize(to_pixels(load_image(path), spec), spec))
        embeddings = predictor.embed(digit_paths)
        whole = predictor.forward(tensors)["embedding"]
        np.testing.assert_allclose(embeddings, whole, atol=1e-4)


def test_images_of_every_kind_side_by_side(line, digit_paths, expected):
    def kinds():
        for number, path in enumerate(digit_paths):
            data = path.read_bytes()
            yield [
                path,
                str(path),
                data,
                bytearray(data),
                io.BytesIO(data),
                Image.open(io.BytesIO(data)),
                np.asarray(load_image(path)),
            ][number % 7]

    same(line.predict(kinds()), expected)


def test_one_picture_many_times(line, digit_paths, expected):
    # A lazy Pillow image must not be decoded by two threads at once.
    for _ in range(5):
        with Image.open(digit_paths[3]) as image:
            same(line.predict([image] * 40), [expected[3]] * 40)
        with digit_paths[3].open("rb") as file:
            same(line.predict([file] * 40), [expected[3]] * 40)


def test_files_may_be_closed_when_the_next_is_asked_for(line, digit_paths, expected):
    def files():
        for path in digit_paths:
            with path.open("rb") as file:
                yield file

    same(line.predict(files()), expected)


@pytest.mark.parametrize("workers", [0, 3])
def test_frames_of_an_animation_are_pictures(artifact, digit_paths, expected, workers):
    frames = [load_image(path) for path in digit_paths[:12]]
    data = io.BytesIO()
    frames[0].save(data, "PNG", save_all=True, append_images=frames[1:])
    with (
        Predictor(artifact, threads=1, workers=workers) as predictor,
        Image.open(data) as animation,
    ):
        # One object, which is at another frame each time.
        same(predictor.predict(ImageSequence.Iterator(animation)), expected[:12])


@pytest.mark.parametrize("exif", [False, True])
def test_exif_of_many_is_that_of_one(artifact, portrait, exif):
    with Predictor(artifact, threads=1, workers=2, exif=exif) as predictor:
        same(predictor.predict([portrait] * 9), [predictor(portrait)] * 9)
        frames = [Image.new("RGB", (20, 30), "red"), load_image(portrait).resize((20, 30))]
        info = Image.Exif()
        info[0x0112] = 6
        data = io.BytesIO()
        frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], exif=info)
        with Image.open(data) as animation:
            answers = [predictor(frame) for frame in ImageSequence.Iterator(animation)]
            same(predictor.predict(ImageSequence.Iterator(animation)), answers)


def test_a_stream_without_end_is_read_three_batches_ahead(line, digit_paths):
    read = 0

    def images():
        nonlocal read
        while True:
            read += 1
            yield digit_paths[read % 40]

    stream = line.stream(images())
    opt = line.manifest.batch.opt
    for answered in range(1, 400):
        assert isinstance(next(stream), Prediction)
        assert read <= answered + (AHEAD + 1) * opt
    stream.close()


@pytest.mark.native
@pytest.mark.parametrize("workers", [1, 2, 16])
def test_workers_run_a_network_that_one_thread_can_run_alone(make_artifact, digit_paths, workers):
    artifact = make_artifact("many-native", target="native")
    runs, read = [], 0

    def images():
        nonlocal read
        for path in digit_paths * 5:
            read += 1
            yield path

    with Predictor(artifact, threads=2, workers=workers) as predictor:
        run = predictor._session.run

        def watched(feeds, *, alone=False):
            (batch,) = feeds.values()
            runs.append((threading.current_thread().name, alone, len(batch), batch.dtype))
            return run(feeds, alone=alone)

        predictor._session.run = watched
        bound = max((AHEAD + 1) * predictor.manifest.batch.opt, (workers + 1) * ALONE)
        for answered, _ in enumerate(predictor.stream(images()), 1):
            assert read <= answered + bound
    names, alone, sizes, dtypes = map(set, zip(*runs, strict=True))
    assert "levit worker" in names
    assert True in alone
    assert max(sizes) == ALONE
    assert dtypes == {np.dtype("uint8")}
    assert sum(size for _, _, size, _ in runs) == len(digit_paths) * 5


def test_a_stream_does_nothing_before_it_is_asked(line):
    def images():
        raise AssertionError("read")
        yield

    line.stream(images()).close()
    stream = line.stream(images())
    with pytest.raises(AssertionError, match="read"):
        next(stream)


def test_what_a_stream_cannot_be_is_said_at_once(line, headless_artifact):
    with pytest.raises(InputError, match="top_k"):
        line.stream([], top_k=0)
    with pytest.raises(InputError, match="expected images"):
        line.stream("a.png")
    with (
        Predictor(headless_artifact, threads=1, workers=1) as headless,
        pytest.raises(InputError, match="headless"),
    ):
        headless.stream([])


# ------------------------------------------------------------------ one bad image


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("workers", [0, 3])
def test_one_bad_image_is_returned_in_its_place(artifact, digit_paths, expected, name, workers):
    images = [*digit_paths[:17], bad_image(name, digit_paths), *digit_paths[17:]]
    with Predictor(artifact, threads=1, workers=workers) as predictor:
        answers = predictor.predict(images, on_error="return")
    error = answers.pop(17)
    assert isinstance(error, InputError)
    assert "\n" not in str(error)
    assert error.__traceback__ is None
    same(answers, expected)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("method", ["predict", "embed", "preprocess"])
def test_one_bad_image_names_itself_and_its_position(embedding_artifact, digit_paths, name, method):
    images = [*digit_paths[:17], bad_image(name, digit_paths), *digit_paths[17:]]
    with Predictor(embedding_artifact, threads=1, workers=3) as predictor:
        with pytest.raises(InputError, match=r"^images\[17\]: ") as caught:
            getattr(predictor, method)(iter(images))
        assert ("absent.png" in str(caught.value)) == (name == "absent")
        assert "\n" not in str(caught.value)
        # And nothing of it stays.
        assert len(getattr(predictor, method)(digit_paths[:3])) == 3


def test_one_bad_image_among_a_thousand(line, digit_paths, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 but then no more")
    images = [digit_paths[n % 40] for n in range(1000)]
    images[637] = bad
    with pytest.raises(InputError, match=re.escape(f"images[637]: {bad}: ")):
        line.predict(images)
    answers = line.predict(images, on_error="return")
    (found,) = [n for n, answer in enumerate(answers) if isinstance(answer, InputError)]
    assert found == 637
    assert str(answers[637]).startswith(f"{bad}: ")


def test_all_may_be_bad(line):
    answers = line.predict([b""] * 20, on_error="return")
    assert [str(answer) for answer in answers] == [
        "the image bytes: not an image, it is empty"
    ] * 20


def test_a_stream_answers_up_to_the_bad_one(line, digit_paths, expected):
    stream = line.stream([*digit_paths[:13], b"", *digit_paths])
    same([next(stream) for _ in range(13)], expected[:13])
    with pytest.raises(InputError, match=r"images\[13\]: the image bytes"):
        next(stream)
    assert list(stream) == []


def test_a_failing_camera_is_not_an_image(line, digit_paths):
    def images():
        yield digit_paths[0]
        yield b""
        raise OSError("the camera is gone")

    with pytest.raises(OSError, match=r"^the camera is gone$"):
        line.predict(images(), on_error="return")


def test_a_single_image_is_named_without_a_position(line, tmp_path):
    with pytest.raises(InputError, match=r"^the image bytes: not an image"):
        line(b"no image")
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}"):
        line(tmp_path / "absent.png")


@pytest.mark.parametrize("value", ["ignore", None, True, "RAISE"])
def test_other_ways_with_errors_do_not_exist(line, digit_paths, value):
    with pytest.raises(ConfigError, match="'raise' or 'return'"):
        line.predict(digit_paths, on_error=value)


def test_an_error_of_the_predictor_is_never_returned(artifact, digit_paths):
    predictor = Predictor(artifact, threads=1, workers=2)
    stream = predictor.stream(digit_paths * 2, on_error="return")
    next(stream)
    predictor.close()
    with pytest.raises(InputError, match="closed"):
        list(stream)
    with pytest.raises(InputError, match="closed"):
        predictor.predict([b""], on_error="return")


# ------------------------------------------------------------------ drafts


@pytest.fixture(scope="module")
def photo():
    """A JPEG of 12 megapixels, smooth and noisy at once."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    image = coarse.resize((4000, 3000), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=92)
    return data.getvalue()


def test_a_draft_has_nearly_the_pixels_of_the_photo(uint8_artifact, photo):
    with (
        Predictor(uint8_artifact, threads=1) as plain,
        Predictor(uint8_artifact, threads=1, draft=True) as drafting,
    ):
        whole, draft = (p.preprocess([photo]).astype(int) for p in (plain, drafting))
    assert not np.array_equal(whole, draft)
    assert np.abs(whole - draft).mean() < 1
    assert np.abs(whole - draft).max() < 16


def test_a_draft_is_larger_than_what_it_is_resized_to(monkeypatch, artifact):
    # Short edges of 8 * 134 and 8 * 135: 96 * 1.4 = 134.4.
    sizes = []
    from levit.pictures import preparation

    def watched(picture, spec, row):
        sizes.append(picture.size)
        fill_row(picture, spec, row)

    monkeypatch.setattr(preparation, "fill_row", watched)
    with Predictor(artifact, threads=1, draft=True) as predictor:
        for edge in (8 * 134, 8 * 135):
            data = io.BytesIO()
            Image.new("RGB", (edge * 2, edge)).save(data, "JPEG")
            predictor(data.getvalue())
    assert sizes == [(8 * 134 // 2, 8 * 134 // 4), (8 * 135 // 4, 8 * 135 // 8)]


def test_small_pictures_and_other_formats_are_the_same_with_draft(artifact, digit_paths):
    small = io.BytesIO()
    load_image(digit_paths[0]).resize((150, 120)).save(small, "JPEG")
    with (
        Predictor(artifact, threads=1) as plain,
        Predictor(artifact, threads=1, draft=True) as drafting,
    ):
        for image in (*digit_paths[:4], small.getvalue()):
            assert np.array_equal(plain.preprocess([image]), drafting.preprocess([image]))


# ------------------------------------------------------------------ the setting


def test_workers_are_as_many_as_threads_and_none_beside_one(artifact):
    for threads, workers in ((1, 0), (2, 2), (5, 5)):
        with Predictor(artifact, threads=threads) as predictor:
            assert predictor.workers == workers
    for workers in (0, 1, 7, np.int64(3)):
        with Predictor(artifact, threads=2, workers=workers) as predictor:
            assert predictor.workers == workers
            assert f"workers={workers}" in repr(predictor)


@pytest.mark.parametrize("workers", [-1, 1025, True, "two", 1.5, float("nan")])
def test_bad_worker_counts_are_config_errors(artifact, workers):
    with pytest.raises(ConfigError, match="workers must be a whole number from 0 to 1024"):
        Predictor(artifact, workers=workers)


def test_workers_and_drafts_survive_pickling(artifact):
    with Predictor(artifact, threads=1, workers=3, draft=True) as predictor:
        again = pickle.loads(pickle.dumps(predictor))
    assert (again.threads, again.workers, again._settings.draft) == (1, 3, True)
    again.close()


def test_no_thread_stays_behind(line, digit_paths):
    before = threading.active_count()
    line.predict(digit_paths)
    line.predict([*digit_paths, b""], on_error="return")
    with pytest.raises(InputError):
        line.predict([b"", *digit_paths])
    assert threading.active_count() == before
