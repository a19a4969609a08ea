import json
import os
import pickle
import subprocess
import sys
import textwrap
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from levit.artifact import MANIFEST_FILE
from levit.errors import ArtifactError, BackendUnavailableError, CorruptArtifactError, InputError
from levit.runtime import cpus
from levit.runtime.predictor import Predictor
from levit.runtime.sessions import openvino as module
from levit.runtime.sessions.openvino import OpenVinoSession

MODES = ("latency", "throughput")
# float32 rounding, in another order.
FLOAT32 = 1e-5


@pytest.fixture(scope="session")
def artifact(make_artifact):
    """(precision, **options) → the folder of an OpenVINO artifact of levit_digits."""

    def make(precision="fp32", **options):
        name = "-".join(["openvino", precision, *(f"{k}{v}" for k, v in options.items())])
        return make_artifact(name, target="openvino", precision=precision, **options)

    return make


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


def settings_of(predictor):
    """What the compiled networks say of themselves, by batch."""
    networks = predictor._session._networks
    return {batch: network.compiled for batch, network in networks.items()}


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 70])
def test_any_batch_in_both_modes_is_that_of_onnx_runtime(
    artifact, tiny_artifact, batch, count, mode
):
    x = batch(count)
    with Predictor(artifact(), mode=mode) as ours, Predictor(tiny_artifact) as other:
        found, expected = ours.forward(x)["logits"], other.forward(x)["logits"]
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.allclose(found, expected, rtol=0, atol=FLOAT32 * np.abs(expected).max(initial=1))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_a_static_artifact_is_padded(artifact, tiny_artifact, batch, count, mode):
    x = batch(count)
    with Predictor(artifact(batch=4), mode=mode) as ours, Predictor(tiny_artifact) as other:
        expected = other.forward(x)["logits"]
        assert np.allclose(ours.forward(x)["logits"], expected, atol=FLOAT32 * abs(expected).max())


def test_pixels_and_several_outputs(artifact, digit_paths):
    folder = artifact(input="uint8", outputs=("logits", "embedding"))
    with Predictor(folder) as predictor:
        assert predictor.check().passed
        answers = predictor.predict(digit_paths)
        assert predictor.embed(digit_paths[:3]).shape == (3, 64)
    assert [p.label for p in answers] == [path.parent.name for path in digit_paths]


def test_many_threads_get_the_answers_of_one(artifact, batch, mode):
    with Predictor(artifact(), mode=mode, threads=2) as predictor:
        inputs = [batch(count) for count in (1, 1, 2, 3, 8, 11)]
        expected = [predictor.forward(x)["logits"] for x in inputs]

        def work(offset):
            for turn in range(30):
                place = (offset + turn) % len(inputs)
                found = predictor.forward(inputs[place])["logits"]
                # The same batch may be cut elsewhere, and so be rounded elsewhere.
                assert np.allclose(found, expected[place], atol=1e-4)
            return True

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(work, range(12)))


def test_answers_are_the_callers_own(artifact, batch):
    with Predictor(artifact()) as predictor:
        first = predictor.forward(batch(1))["logits"]
        kept = first.copy()
        predictor.forward(-batch(1))
    assert (first == kept).all()


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("precision", "computed"), [("fp32", "float32"), ("fp16", "float32"), ("bf16", "bfloat16")]
)
def test_what_is_computed_in_is_said_and_not_left_to_the_machine(artifact, precision, computed):
    if precision == "bf16" and not cpus.cpu_precisions(cpus.cpu_features())["bf16"]:
        pytest.skip("this CPU has no bfloat16")
    with Predictor(artifact(precision), threads=1) as predictor:
        (compiled,) = settings_of(predictor).values()
        hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert {"f32": "float32", "bf16": "bfloat16"}.get(hint, hint) == computed


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_asked_for(artifact, threads, mode):
    with Predictor(artifact(), threads=threads, mode=mode) as predictor:
        compiled = settings_of(predictor)[1]
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        streams = compiled.get_property("NUM_STREAMS")
    assert streams == (1 if mode == "latency" else threads)


def test_what_is_asked_for_most_is_compiled_for_its_size(artifact, batch):
    with Predictor(artifact(batch=(1, 6, 64)), prove=False) as predictor:
        assert set(settings_of(predictor)) == {1}
        predictor.forward(batch(6))
        assert set(settings_of(predictor)) == {1, 6}
        for count in (2, 3, 5, 9):
            predictor.forward(batch(count))
        assert set(settings_of(predictor)) == {0, 1, 6}


def test_a_batch_that_comes_again_and_again_is_compiled_for_its_size(artifact, batch):
    with Predictor(artifact(batch=(1, 6, 64)), prove=False) as predictor:
        expected = predictor.forward(batch(5))["logits"]
        for count in (5, 5, 4, 5, 5, 5):  # three in a row are too few
            found = predictor.forward(batch(count))["logits"]
        assert set(settings_of(predictor)) == {0, 1}
        found = predictor.forward(batch(5))["logits"]
        assert set(settings_of(predictor)) == {0, 1, 5}
        assert np.allclose(found, expected, rtol=0, atol=FLOAT32 * np.abs(expected).max())
        for count in (2, 3, 4, 7, 9):
            for _ in range(9):
                predictor.forward(batch(count))
        assert len(settings_of(predictor)) <= 5  # any, and four sizes


def test_a_cache_is_written_and_read(artifact, batch, tmp_path):
    cache = tmp_path / "a" / "cache"
    with Predictor(artifact(), cache=cache) as predictor:
        expected = predictor.forward(batch(1))["logits"]
    written = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert written
    with Predictor(artifact(), cache=str(cache)) as predictor:
        assert (predictor.forward(batch(1))["logits"] == expected).all()
        (compiled,) = settings_of(predictor).values()
        assert compiled.get_property("LOADED_FROM_CACHE")
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == written


def test_a_cache_that_cannot_be_written_is_one_line(artifact, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"the cache cannot be made .*; choose another"):
        Predictor(artifact(), cache=tmp_path / "file" / "cache")
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(ArtifactError, match="the cache cannot be written; choose another"):
        Predictor(artifact(), cache=tmp_path)


def test_it_pickles_with_its_settings(artifact, tmp_path, batch):
    with Predictor(artifact(), mode="throughput", cache=tmp_path / "c", threads=1) as predictor:
        copy = pickle.loads(pickle.dumps(predictor))
        with copy:
            assert "throughput" in repr(copy)
            assert (copy.forward(batch(2))["logits"] == predictor.forward(batch(2))["logits"]).all()


# ------------------------------------------------------------------ errors and life


def test_bf16_on_a_cpu_without_it_says_what_to_do(artifact, monkeypatch):
    folder = artifact("bf16", verify="none")
    monkeypatch.setattr(module, "cpu_features", lambda: ("avx2", "avx512f"))
    with pytest.raises(BackendUnavailableError, match=r"no instructions .*--precision fp32"):
        Predictor(folder)


def test_no_gpu_without_a_word(artifact):
    with pytest.raises(BackendUnavailableError, match=r"OpenVINO on 'gpu'.*use device 'cpu'"):
        Predictor(artifact(), device="gpu")


def test_an_older_openvino_than_needed(artifact, tampered):
    folder = tampered(
        lambda folder, values: values["requirements"].update(backend_version=">=2031.0"),
        source=artifact(),
    )
    with pytest.raises(BackendUnavailableError, match=r"needs OpenVINO 2031\.0 or newer"):
        Predictor(folder)


class Failing:
    """A request whose outputs cannot be taken."""

    def get_output_tensor(self, index):
        raise RuntimeError("no room for the answer")


def test_an_answer_that_cannot_be_kept_is_an_error_and_no_hang(artifact, batch, mode, monkeypatch):
    taken = module._taken
    with Predictor(artifact(), mode=mode) as predictor:
        with monkeypatch.context() as patch:
            patch.setattr(module, "_taken", lambda request, outputs: taken(Failing(), outputs))
            with pytest.raises(InputError, match="no room for the answer"):
                predictor.forward(batch(4))
        assert predictor.forward(batch(4))["logits"].shape == (4, 10)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 3, 95, 96), np.float32), ((4, 3, 96, 96), np.float64)]
)
def test_what_does_not_fit_is_an_error_and_no_hang(artifact, mode, shape, dtype):
    with Predictor(artifact(), mode=mode) as predictor:
        session = predictor._session
        for _ in range(9):
            with pytest.raises(InputError, match=r"the network takes \(N, 3, 96, 96\) float32"):
                session.run({"image": np.zeros(shape, dtype)})
        assert session.run({"image": np.zeros((4, 3, 96, 96), np.float32)})


def test_a_static_network_takes_no_other_batch_and_does_not_hang(artifact, batch, mode):
    with Predictor(artifact(batch=4), mode=mode, threads=1) as predictor:
        session = predictor._session
        for count in (3, 5, 1, 8):
            with pytest.raises(InputError, match=r"takes \(4, 3, 96, 96\) float32, not"):
                session.run({"image": batch(count)})
        assert len(session._networks) == 1
        assert session.run({"image": batch(4)})


def test_another_weights_file_is_refused(artifact, tampered):
    def change(folder, values):
        data = bytearray((folder / "model.bin").read_bytes())
        del data[len(data) // 2 :]
        (folder / "model.bin").write_bytes(data)

    with pytest.raises(CorruptArtifactError, match="weights lie outside of their file"):
        Predictor(tampered(change, source=artifact()))


def test_a_manifest_that_says_otherwise_is_refused(artifact, tampered):
    folder = tampered(
        lambda folder, values: values["preprocess"].update(mean=[0.1, 0.2, 0.3]), source=artifact()
    )
    with pytest.raises(CorruptArtifactError, match="preprocessing that it states"):
        Predictor(folder)


def test_one_changed_byte_is_refused(artifact, tmp_path, tampered):
    folder = tampered(source=artifact())
    path = folder / "model.bin"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match="contents have changed"):
        Predictor(folder)


def test_closed_means_closed(artifact, batch):
    predictor = Predictor(artifact())
    predictor.close()
    predictor.close()
    with pytest.raises(InputError, match="open a new one"):
        predictor.forward(batch(1))


def test_a_batch_outlives_a_caller_that_was_interrupted(artifact, batch):
    class Batch(np.ndarray):
        """An array that can be watched."""

    memory = batch(64)
    piece = memory.view(Batch)
    watched = weakref.ref(piece)
    with Predictor(artifact(), mode="throughput", threads=1) as predictor:
        call, network = module._Call([piece]), predictor._session._network(64)
        network.start(call, 0)
        del piece
        assert watched() is not None or call._done.is_set()
        call.wait([network])
        network.raise_failure()
        assert watched() is None  # and is not kept until the next one


def test_closing_frees_the_networks(artifact, batch, mode):
    predictor = Predictor(artifact(), mode=mode)
    predictor.forward(batch(8))
    networks = [weakref.ref(network) for network in predictor._session._networks.values()]
    predictor.close()
    assert networks
    assert [network() for network in networks] == [None] * len(networks)


def test_closing_waits_for_requests_to_end(artifact, batch, monkeypatch):
    finish, ended = module._finish, []

    def slow(*arguments):
        finish(*arguments)  # from here on the caller has its answer
        time.sleep(0.05)
        ended.append(True)

    monkeypatch.setattr(module, "_finish", slow)
    with Predictor(artifact(), mode="throughput", prove=False) as predictor:
        predictor.forward(batch(1))
    assert ended == [True]


def test_process_ends_well_with_an_open_predictor_and_after_a_fork(artifact):
    script = """
        import os, sys
        import numpy as np
        from levit import Predictor
        from levit.errors import LevitError

        predictor = Predictor(sys.argv[1], mode="throughput", threads=2)
        batch = np.zeros((5, 3, 96, 96), np.float32)
        predictor.forward(batch)
        child = os.fork()
        if child == 0:
            try:
                predictor.forward(batch)
            except LevitError as error:
                answer = 7 if "open a Predictor in the child" in str(error) else 8
            del predictor
            os._exit(answer)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        print(predictor.forward(batch)["logits"].shape)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(artifact())],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "(5, 10)\n"), done.stderr


def test_the_interpreter_waits_for_requests_to_end(artifact):
    script = """
        import sys, time
        import numpy as np
        from levit import Predictor
        from levit.runtime.sessions import openvino as module

        finish = module._finish

        def slow(*arguments):
            finish(*arguments)  # from here on the caller has its answer
            time.sleep(0.3)
            print("ended")

        module._finish = slow
        predictor = Predictor(sys.argv[1], mode="throughput", prove=False)
        predictor.forward(np.zeros((1, 3, 96, 96), np.float32))
        print("leaving", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(artifact())],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "leaving\nended\n"), done.stderr


def test_signals_arrive_after_sessions_have_come_and_gone(artifact):
    script = """
        import signal, sys
        from levit import Predictor

        # Started in the background, this process has Ctrl-C ignored, and its children too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Their lives overlap.
        one, other = Predictor(sys.argv[1]), Predictor(sys.argv[1])
        one.close()
        del one
        other.close()
        del other
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("interrupted")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(artifact())],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_telemetry_stays_away(artifact):
    script = (
        "import sys; from levit import Predictor; Predictor(sys.argv[1]); "
        "print(sys.modules.get('openvino_telemetry'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(artifact())], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "None\n", done.stderr


def test_machine_class_is_the_cpus(artifact):
    values = json.loads((artifact() / MANIFEST_FILE).read_text())
    assert values["verification"]["cpu_class"] == cpus.cpu_class()
    assert issubclass(OpenVinoSession, object)
    with Predictor(artifact()) as predictor:
        assert predictor._session.machine_class == cpus.known_cpu_class()
