import gc
import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data
from PIL import Image

import levit
from levit.artifact import LABELS_FILE
from levit.errors import (
    ArtifactError,
    BackendUnavailableError,
    ConfigError,
    CorruptArtifactError,
    InputError,
    VerificationError,
)
from levit.pictures.preprocess import normalize, to_pixels
from levit.pictures.reading import load_image
from levit.runtime.cpus import available_cpus
from levit.runtime.predictor import Prediction, Predictor

# ------------------------------------------------------------------ one image


def test_package_exports_the_class_itself():
    assert levit.Predictor is Predictor
    assert levit.Prediction is Prediction
    assert {"Predictor", "Prediction", "__version__"} <= set(dir(levit))
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        levit.predict  # noqa: B018


def test_digits_are_recognised(predictor, digit_paths):
    found = [predictor(path).label for path in digit_paths]
    truth = [path.parent.name for path in digit_paths]
    assert np.mean([a == b for a, b in zip(found, truth, strict=True)]) >= 0.95


def test_prediction_is_the_softmax_of_the_logits(predictor, digit_paths):
    prediction = predictor(digit_paths[3])
    logits = predictor.forward(predictor.preprocess([digit_paths[3]]))["logits"][0]
    scores = np.exp(logits.astype(np.float64) - logits.max())
    scores /= scores.sum()
    order = np.argsort(-scores)[:5]
    assert [index for _, index, _ in prediction.top] == order.tolist()
    assert [label for label, _, _ in prediction.top] == [predictor.labels[i] for i in order]
    np.testing.assert_allclose([s for _, _, s in prediction.top], scores[order], rtol=1e-6)
    assert (prediction.label, prediction.index, prediction.score) == prediction.top[0]
    assert all(
        isinstance(label, str) and type(index) is int and type(score) is float
        for label, index, score in prediction.top
    )


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "file", "PIL", "array"])
def test_every_kind_of_image_has_the_same_answer(predictor, digit_paths, kind):
    path = digit_paths[0]
    expected = predictor(str(path))
    with path.open("rb") as file, Image.open(path) as opened:
        image = {
            "path": path,
            "str": str(path),
            "bytes": path.read_bytes(),
            "file": file,
            "PIL": opened,
            "array": np.asarray(opened.convert("RGB")),
        }[kind]
        assert predictor(image) == expected


def test_bad_image_is_named(predictor, tmp_path, digit_paths):
    (tmp_path / "notes.png").write_text("dear diary")
    with pytest.raises(InputError, match=r"notes\.png: not an image"):
        predictor(tmp_path / "notes.png")
    with pytest.raises(InputError, match=r"absent\.png: no such file"):
        predictor.predict([digit_paths[0], tmp_path / "absent.png"])


def test_exif_is_applied_only_when_asked(tiny_artifact, portrait):
    with Predictor(tiny_artifact, threads=1) as plain:
        as_stored = plain.preprocess([portrait])
    with Predictor(tiny_artifact, threads=1, exif=True) as turning:
        turned = turning.preprocess([portrait])
        spec = turning.manifest.preprocess
    assert np.array_equal(
        turned[0], normalize(to_pixels(load_image(portrait, exif=True), spec), spec)
    )
    assert not np.array_equal(as_stored, turned)


# ------------------------------------------------------------------ many images


@pytest.mark.parametrize("make", [list, tuple, iter, lambda paths: (p for p in paths)])
def test_any_iterable_keeps_its_order(predictor, digit_paths, make):
    paths = digit_paths[:20]  # more than two batches of eight
    assert predictor.predict(make(paths)) == [predictor(path) for path in paths]


def test_array_of_images_is_a_batch(predictor, digit_paths):
    images = np.stack([np.asarray(load_image(path)) for path in digit_paths[:3]])
    assert predictor.predict(images) == predictor.predict(digit_paths[:3])


@pytest.mark.parametrize("method", ["predict", "embed", "preprocess"])
def test_no_images_are_no_answers(embedding_artifact, method):
    with Predictor(embedding_artifact, threads=1) as predictor:
        answer = getattr(predictor, method)([])
        assert len(answer) == 0
        if method != "predict":
            assert answer.dtype == np.float32
            assert answer.shape == {"embed": (0, 64), "preprocess": (0, 3, 96, 96)}[method]


def test_images_are_read_a_batch_at_a_time(predictor, digit_paths):
    read, batches = [], []
    session = predictor._session
    run = session.run

    def watched(feeds, *, alone=False):
        batches.append((len(read), len(feeds["image"])))
        return run(feeds, alone=alone)

    def images():
        for path in digit_paths[:20]:
            read.append(path)
            yield path

    session.run = watched
    predictor.predict(images())
    assert batches == [(8, 8), (16, 8), (20, 4)]


def test_error_of_the_callers_generator_comes_through(predictor, digit_paths):
    def images():
        yield digit_paths[0]
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        predictor.predict(images())


@pytest.mark.parametrize("top_k", [1, 3, 5, 10, 11, 1000, 10**6, np.int64(2)])
def test_top_k_is_at_most_the_number_of_classes(predictor, digit_paths, top_k):
    (prediction,) = predictor.predict(digit_paths[:1], top_k=top_k)
    assert len(prediction.top) == min(top_k, 10)
    assert predictor(digit_paths[0], top_k=top_k) == prediction
    scores = [score for _, _, score in prediction.top]
    assert scores == sorted(scores, reverse=True)
    if top_k >= 10:
        assert sum(scores) == pytest.approx(1, abs=1e-6)
        assert {index for _, index, _ in prediction.top} == set(range(10))


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "5", None, True])
def test_bad_top_k_is_an_input_error(predictor, digit_paths, top_k):
    with pytest.raises(InputError, match="top_k must be a whole number of at least 1"):
        predictor.predict(digit_paths[:1], top_k=top_k)
    with pytest.raises(InputError, match="top_k must be a whole number of at least 1"):
        predictor(digit_paths[0], top_k=top_k)


def test_frames_in_bgr_are_those_of_opencv(make_artifact, predictor):
    frame = np.random.default_rng(3).integers(0, 256, (60, 80, 3), np.uint8)
    with Predictor(make_artifact("plain"), channels="bgr") as of_opencv:
        answers = of_opencv.predict([frame[:, :, ::-1], Image.fromarray(frame)])
        assert [answer.top for answer in answers] == [predictor(frame).top] * 2
        assert of_opencv(frame).top != predictor(frame).top


@pytest.mark.parametrize("channels", ["BGR", "gbr", None, 3])
def test_orders_of_channels_that_there_are_not(make_artifact, channels):
    with pytest.raises(ConfigError, match="channels must be 'rgb' or 'bgr'"):
        Predictor(make_artifact("plain"), channels=channels)


@pytest.mark.parametrize("method", ["predict", "embed", "preprocess"])
@pytest.mark.parametrize("kind", ["str", "path", "bytes", "file", "PIL", "None", "int"])
def test_one_image_in_place_of_many_is_an_error_that_says_so(
    embedding_artifact, digit_paths, method, kind
):
    path = digit_paths[0]
    image = {
        "str": "a.png",
        "path": path,
        "bytes": path.read_bytes(),
        "file": io.BytesIO(path.read_bytes()),
        "PIL": load_image(path),
        "None": None,
        "int": 3,
    }[kind]
    with (
        Predictor(embedding_artifact, threads=1) as predictor,
        pytest.raises(InputError, match=r"expected images.*pass \[image\]"),
    ):
        getattr(predictor, method)(image)


def test_one_array_in_place_of_many_is_an_error(predictor):
    with pytest.raises(InputError, match=r"not one ndarray: pass \[image\]"):
        predictor.predict(np.zeros((96, 96, 3), np.uint8))


def test_many_images_in_place_of_one_is_an_error(predictor, digit_paths):
    with pytest.raises(InputError, match=r"several go to predict\(images\)"):
        predictor(digit_paths[:2])


# ------------------------------------------------------------------ embed


def test_embeddings_are_the_output_of_that_name(embedding_artifact, digit_paths):
    with Predictor(embedding_artifact, threads=1) as predictor:
        embeddings = predictor.embed(path for path in digit_paths[:19])
        assert embeddings.shape == (19, 64)
        assert embeddings.dtype == np.float32
        outputs = predictor.forward(predictor.preprocess(digit_paths[:19]))
        np.testing.assert_allclose(embeddings, outputs["embedding"], rtol=1e-4, atol=1e-5)
        assert np.ptp(embeddings, axis=0).max() > 0.1
        assert predictor.predict(digit_paths[:2])[0].label == digit_paths[0].parent.name


def test_embedding_of_an_artifact_without_one_says_how_to_get_it(predictor, digit_paths):
    with pytest.raises(InputError, match=r"no output 'embedding'.*--outputs logits,embedding"):
        predictor.embed(digit_paths[:1])


def test_headless_artifact_says_so_when_called(headless_artifact, digit_paths):
    with Predictor(headless_artifact, threads=1) as predictor:
        assert predictor.labels == ()
        for ask in (predictor, lambda image: predictor.predict([image])):
            with pytest.raises(InputError, match=r"no output 'logits'.*headless.*embed\(\)"):
                ask(digit_paths[0])
        assert predictor.embed(digit_paths[:3]).shape == (3, 64)
        assert list(predictor.forward(predictor.preprocess(digit_paths[:1]))) == ["embedding"]


# ------------------------------------------------------------------ preprocess, forward


def test_preprocess_is_the_manifests_spec(predictor, digit_paths):
    batch = predictor.preprocess(digit_paths[:3])
    spec = predictor.manifest.preprocess
    assert batch.shape == (3, 3, 96, 96)
    assert batch.dtype == np.float32
    for path, tensor in zip(digit_paths, batch, strict=False):
        assert np.array_equal(tensor, normalize(to_pixels(load_image(path), spec), spec))


@pytest.mark.parametrize("count", [0, 1, 7, 64, 65, 200])
def test_forward_takes_any_number(predictor, batch, count):
    outputs = predictor.forward(batch(count))
    assert list(outputs) == ["logits"]
    assert outputs["logits"].shape == (count, 10)
    assert outputs["logits"].dtype == np.float32
    singles = [predictor.forward(row[None])["logits"][0] for row in batch(count)[:3]]
    singles += [predictor.forward(row[None])["logits"][0] for row in batch(count)[-3:]]
    found = [*outputs["logits"][:3], *outputs["logits"][-3:]]
    for one, several in zip(singles, found, strict=False):
        np.testing.assert_allclose(several, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [0, *range(1, 10)])
def test_static_artifact_takes_any_number(static_artifact, predictor, batch, count):
    with Predictor(static_artifact, threads=1) as static:
        assert static.manifest.batch.static
        assert static.manifest.inputs[0].shape == (4, 3, 96, 96)
        found = static.forward(batch(count))["logits"]
    assert found.shape == (count, 10)
    expected = predictor.forward(batch(count))["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_static_artifact_predicts_in_order(static_artifact, predictor, digit_paths):
    with Predictor(static_artifact, threads=1) as static:
        found = [p.label for p in static.predict(digit_paths[:11])]
    assert found == [p.label for p in predictor.predict(digit_paths[:11])]


def test_uint8_artifact_takes_pixels(uint8_artifact, predictor, digit_paths):
    with Predictor(uint8_artifact, threads=1) as pixels:
        batch = pixels.preprocess(digit_paths[:5])
        assert batch.shape == (5, 96, 96, 3)
        assert batch.dtype == np.uint8
        assert pixels.preprocess([]).shape == (0, 96, 96, 3)
        expected = predictor.forward(predictor.preprocess(digit_paths[:5]))["logits"]
        found = pixels.forward(batch)["logits"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
        assert [p.label for p in pixels.predict(digit_paths)] == [
            p.label for p in predictor.predict(digit_paths)
        ]


@pytest.mark.parametrize("order", ["F", "reversed", "strided", "read-only", "broadcast"])
def test_forward_reads_arrays_of_any_memory_order(predictor, batch, order):
    whole = batch(6)
    array = {
        "F": np.asfortranarray(whole),
        "reversed": whole[::-1],
        "strided": whole[::2],
        "read-only": whole.copy(),
        "broadcast": np.broadcast_to(whole[:1], whole.shape),
    }[order]
    if order == "read-only":
        array.flags.writeable = False
    before = array.copy()
    found = predictor.forward(array)["logits"]
    expected = predictor.forward(before)["logits"]
    assert np.array_equal(found, expected)
    assert np.array_equal(array, before)


def test_outputs_are_the_callers_to_keep(predictor, batch):
    first = predictor.forward(batch(2))["logits"]
    kept = first.copy()
    predictor.forward(batch(3))
    assert np.array_equal(first, kept)
    first[:] = 0


@pytest.mark.parametrize(
    ("shape", "dtype", "hint"),
    [
        ((3, 96, 96), "float32", r"add the batch axis: batch\[None\]"),
        ((2, 96, 96, 3), "float32", r"the layout is NCHW: transpose\(0, 3, 1, 2\)"),
        ((2, 3, 96, 96), "float64", r"\.astype\('float32'\)"),
        ((2, 3, 96, 96), "float16", r"\.astype\('float32'\)"),
        ((2, 3, 96, 96), ">f4", r"\.astype\('float32'\)"),
        ((2, 3, 96, 96), "uint8", r"make it with preprocess\(\)"),
        ((2, 3, 64, 64), "float32", r"takes \(N, 3, 96, 96\) float32, not \(2, 3, 64, 64\)"),
        ((2, 1, 96, 96), "float32", r"takes \(N, 3, 96, 96\)"),
        ((2, 2, 3, 96, 96), "float32", r"takes \(N, 3, 96, 96\)"),
        ((96, 96), "float32", r"takes \(N, 3, 96, 96\)"),
        ((), "float32", r"takes \(N, 3, 96, 96\)"),
        ((2, 3, 96, 96), "object", r"takes \(N, 3, 96, 96\)"),
        ((2, 3, 96, 96), "complex64", r"takes \(N, 3, 96, 96\)"),
    ],
)
def test_wrong_arrays_are_input_errors_with_a_hint(predictor, shape, dtype, hint):
    with pytest.raises(InputError, match=hint):
        predictor.forward(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("shape", "dtype", "hint"),
    [
        ((96, 96, 3), "uint8", r"batch\[None\]"),
        ((2, 3, 96, 96), "uint8", r"the layout is NHWC: transpose\(0, 2, 3, 1\)"),
        ((2, 96, 96, 3), "float32", r"make it with preprocess\(\)"),
    ],
)
def test_wrong_arrays_of_a_uint8_artifact(uint8_artifact, shape, dtype, hint):
    with (
        Predictor(uint8_artifact, threads=1) as predictor,
        pytest.raises(InputError, match=hint),
    ):
        predictor.forward(np.zeros(shape, dtype))


@pytest.mark.parametrize("value", [None, [[1.0]], "a.png", 3])
def test_forward_takes_arrays_only(predictor, value):
    with pytest.raises(InputError, match="takes a NumPy array"):
        predictor.forward(value)


def test_model_of_two_channels_takes_tensors_only(tensor_artifact, digit_paths):
    with Predictor(tensor_artifact, threads=1) as predictor:
        assert predictor.manifest.preprocess is None
        assert predictor.forward(np.zeros((2, 2, 96, 96), np.float32))["logits"].shape == (2, 3)
        with pytest.raises(InputError, match=r"not images: call forward\(\)"):
            predictor(digit_paths[0])
        assert predictor.check().passed


# ------------------------------------------------------------------ opening and closing


def test_what_it_says_of_itself(predictor, tiny_artifact):
    assert predictor.labels == tuple("0123456789")
    assert predictor.manifest.variant == "levit_digits"
    assert predictor.path == tiny_artifact
    assert predictor.threads == 1
    assert str(tiny_artifact) in repr(predictor)
    assert "closed" not in repr(predictor)


def test_it_is_quiet_and_leaves_no_file_open(tiny_artifact, capfd):
    Predictor(tiny_artifact, threads=1).close()
    gc.collect()
    held = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [path for path in held if path.is_relative_to(tiny_artifact)]
    assert capfd.readouterr() == ("", "")


def test_close_twice_is_fine_and_use_after_it_is_an_error(tiny_artifact, digit_paths, batch):
    predictor = Predictor(tiny_artifact, threads=1)
    predictor.close()
    predictor.close()
    assert "closed" in repr(predictor)
    assert predictor.labels
    for use in (
        lambda: predictor(digit_paths[0]),
        lambda: predictor.predict(digit_paths[:2]),
        lambda: predictor.forward(batch(1)),
        predictor.check,
    ):
        with pytest.raises(InputError, match=r"closed.*open a new one"):
            use()


def test_context_manager_closes_and_passes_errors_on(tiny_artifact):
    with pytest.raises(ZeroDivisionError), Predictor(tiny_artifact, threads=1) as predictor:
        1 / 0  # noqa: B018
    assert "closed" in repr(predictor)


@pytest.mark.parametrize(
    "threads", [0, -1, 1025, 10**11, True, False, "two", 1.5, [2], float("nan")]
)
def test_bad_thread_counts_are_config_errors(tiny_artifact, threads):
    with pytest.raises(ConfigError, match="threads"):
        Predictor(tiny_artifact, threads=threads)


def test_thread_count_is_the_callers_or_what_the_process_may_use(tiny_artifact, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # which the tests' own processes have
    with Predictor(tiny_artifact) as predictor:
        assert predictor.threads == available_cpus()
    for threads in (2, np.int64(2)):
        with Predictor(tiny_artifact, threads=threads) as predictor:
            assert predictor.threads == 2


def test_gpu_is_refused_with_what_to_do(tiny_artifact):
    with pytest.raises(BackendUnavailableError, match="device 'cpu'"):
        Predictor(tiny_artifact, device="gpu")


@pytest.mark.parametrize("device", ["cuda", "CPU", "", None, 0])
def test_unknown_device_is_a_config_error(tiny_artifact, device):
    with pytest.raises(ConfigError, match="'cpu' or 'gpu'"):
        Predictor(tiny_artifact, device=device)


def test_absent_artifact(tmp_path):
    with pytest.raises(ArtifactError, match="no such folder"):
        Predictor(tmp_path / "absent")


def test_format_without_a_backend_names_those_there_are(tampered):
    folder = tampered(lambda folder, values: values.update(format="tflite"))
    with pytest.raises(BackendUnavailableError, match=r"format 'tflite'.*it runs: onnx"):
        Predictor(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"garbage", "not an ONNX file"),
        (b"\x08\x07" * 50, "not an ONNX file"),
    ],
)
def test_payload_that_is_refused_is_one_line(tampered, data, message):
    folder = tampered(lambda folder, values: (folder / "model.onnx").write_bytes(data))
    with pytest.raises(CorruptArtifactError, match=message) as caught:
        Predictor(folder)
    assert "\n" not in str(caught.value)


def change_graph(change):
    """What `tampered` takes, to change the payload's graph."""

    def apply(folder, values):
        model = onnx.load(folder / "model.onnx")
        change(model.graph)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return apply


def put_outside(location):
    """Keep one tensor of the payload in another file."""

    def apply(folder, values):
        model = onnx.load(folder / "model.onnx")
        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        (folder / "weights.bin").write_bytes(tensor.raw_data)
        (folder.parent / "weights.bin").write_bytes(tensor.raw_data)
        set_external_data(tensor, location, length=len(tensor.raw_data))
        tensor.ClearField("raw_data")
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return apply


@pytest.mark.parametrize("place", ["weights.bin", "../weights.bin", "/proc/self/mem"])
def test_payload_that_keeps_tensors_elsewhere_is_refused(tampered, place):
    with pytest.raises(CorruptArtifactError, match="it has weights in another file"):
        Predictor(tampered(put_outside(place)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_that_are_not_finite_are_no_answer(
    tampered, embedding_artifact, digit_paths, value, workers
):
    def spoil(graph):
        # The last bias of the head; what goes before it is as it was.
        (output,) = [node for node in graph.node if "logits" in node.output]
        names = [t.name for t in graph.initializer if t.name in output.input]
        for tensor in graph.initializer:
            if tensor.name == names[-1]:
                array = numpy_helper.to_array(tensor).copy()
                array.flat[3] = value
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    folder = tampered(change_graph(spoil), source=embedding_artifact)
    with Predictor(folder, threads=1, workers=workers, prove=False) as predictor:
        for use in (
            lambda: predictor(digit_paths[0]),
            lambda: predictor.predict(digit_paths),
            lambda: predictor.predict(digit_paths, on_error="return"),
        ):
            with pytest.raises(VerificationError, match=r"logits are not finite.*levit check"):
                use()
        assert np.isfinite(predictor.embed(digit_paths[:3])).all()
        assert not np.isfinite(
            predictor.forward(predictor.preprocess(digit_paths[:1]))["logits"]
        ).all()
        assert not predictor.check().passed


@pytest.mark.parametrize("labels", ["", "only\ntwo\n", "\n".join("0123456789ab") + "\n"])
def test_labels_that_do_not_fit_the_classes_are_corrupt(tampered, labels):
    folder = tampered(lambda folder, values: (folder / LABELS_FILE).write_text(labels))
    with pytest.raises(CorruptArtifactError, match=r"labels"):
        Predictor(folder, threads=1)


def test_change_of_folder_after_opening_is_harmless(
    tiny_artifact, digit_paths, tmp_path, monkeypatch
):
    monkeypatch.chdir(tiny_artifact.parent)
    with Predictor(tiny_artifact.name, threads=1) as predictor:
        expected = predictor(digit_paths[0])
        monkeypatch.chdir(tmp_path)
        assert predictor(digit_paths[0]) == expected
        assert predictor.check().passed
        with pickle.loads(pickle.dumps(predictor)) as again:
            assert again(digit_paths[0]) == expected


def test_trailing_slash_and_path_objects_open_too(tiny_artifact):
    for path in (f"{tiny_artifact}/", tiny_artifact / ".", Path(tiny_artifact)):
        with Predictor(path, threads=1) as predictor:
            assert predictor.path == tiny_artifact


# ------------------------------------------------------------------ processes and threads


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_reopens_with_the_same_settings(tiny_artifact, portrait, protocol):
    with Predictor(tiny_artifact, threads=2, exif=True) as predictor:
        data = pickle.dumps(predictor, protocol)
        expected = predictor(portrait)
    assert len(data) < 1000
    with pickle.loads(data) as again:
        assert again(portrait) == expected
        assert (again.threads, again.path) == (2, tiny_artifact)


def test_default_threads_stay_the_default_after_pickling(tiny_artifact):
    # Another machine has another number of CPUs.
    with Predictor(tiny_artifact) as predictor:
        assert predictor.__reduce__()[1][1]["threads"] is None
        assert predictor.__reduce__()[1][1]["workers"] is None


def _label(predictor, path):
    return predictor(path).label


def test_pickled_predictor_answers_in_a_spawned_process(predictor, digit_paths):
    paths = digit_paths[:3]
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.starmap(_label, [(predictor, path) for path in paths])
    assert found == [predictor(path).label for path in paths]


FORK = """
    import os, signal, sys, time, warnings
    warnings.simplefilter("ignore")  # Python 3.12 warns of forks with threads
    from levit import Predictor
    predictor = Predictor(sys.argv[1], threads=2)
    image = sys.argv[2]
    expected = predictor(image)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            predictor(image)
            os._exit(1)
        except Exception as error:
            print(type(error).__module__, type(error).__name__, error, flush=True)
        with Predictor(sys.argv[1], threads=2) as own:
            print("own", own(image) == expected, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("child", os.waitstatus_to_exitcode(status))
    print("parent", predictor(image) == expected)
"""


def test_use_after_a_fork_is_an_error_and_not_a_hang(tiny_artifact, digit_paths):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORK), str(tiny_artifact), str(digit_paths[0])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    first, *rest = result.stdout.splitlines()
    assert first.startswith("levit.errors")
    assert "opened before a fork" in first
    assert "open a Predictor in the child" in first
    assert rest == ["own True", "child 0", "parent True"]


INHERIT = """
    import os, signal, sys, warnings
    warnings.simplefilter("ignore")
    from levit import Predictor
    predictor = Predictor(sys.argv[1], threads=2)
    expected = predictor(sys.argv[2])
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        {action}
        print("done", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("child", os.waitstatus_to_exitcode(status))
    print("parent", predictor(sys.argv[2]) == expected)
"""


@pytest.mark.parametrize(
    "action",
    [
        "del predictor",
        "predictor.close()",
        "predictor = Predictor(sys.argv[1], threads=2); assert predictor(sys.argv[2]) == expected",
        "predictor.__enter__(); predictor.__exit__(None, None, None)",
        "predictor.close(); del predictor; import gc; gc.collect()",
    ],
)
def test_a_forked_child_may_let_go_of_what_it_inherited(tiny_artifact, digit_paths, action):
    script = textwrap.dedent(INHERIT).format(action=action)
    result = subprocess.run(
        [sys.executable, "-c", script, str(tiny_artifact), str(digit_paths[0])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.split("\n") == ["done", "child 0", "parent True", ""], result.stderr


def test_an_artifact_that_needs_a_newer_backend_says_so(tiny_artifact, tmp_path):
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["requirements"]["backend_version"] = ">=99.1"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BackendUnavailableError, match=r"needs ONNX Runtime 99.1 or newer, here is"):
        Predictor(folder)


def test_pickling_keeps_every_setting(tiny_artifact):
    with Predictor(tiny_artifact, threads=1, exif=True, prove=False) as predictor:
        again = pickle.loads(pickle.dumps(predictor))
    assert (again.threads, again._settings.exif, again._settings.prove) == (1, True, False)


def test_eight_threads_get_the_answers_of_one(predictor, digit_paths):
    expected = [predictor(path) for path in digit_paths]
    start = threading.Barrier(8)

    def work(offset):
        start.wait()
        return [
            (k := (offset * 7 + i) % len(digit_paths), predictor(digit_paths[k])) for i in range(50)
        ]

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(work, range(8)):
            assert [answer for _, answer in answers] == [expected[k] for k, _ in answers]


def test_closing_under_a_running_thread_is_an_answer_or_an_error(tiny_artifact, batch):
    predictor = Predictor(tiny_artifact, threads=1)
    array = batch(8)
    expected = predictor.forward(array)["logits"]
    begun = threading.Event()

    def work():
        for _ in range(200):
            try:
                assert np.array_equal(predictor.forward(array)["logits"], expected)
            except InputError as error:
                return str(error)
            begun.set()
        return "never closed"

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(work) for _ in range(4)]
        assert begun.wait(30)
        predictor.close()
        assert all("closed" in answer.result() for answer in answers)


def test_manifest_of_a_predictor_is_json(predictor):
    assert json.loads(json.dumps(predictor.manifest.to_dict()))["variant"] == "levit_digits"


def test_environment_is_left_alone(tiny_artifact):
    before = dict(os.environ)
    Predictor(tiny_artifact, threads=1).close()
    assert dict(os.environ) == before
