import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from levit.artifact import NATIVE_FILE, open_artifact
from levit.errors import (
    BackendUnavailableError,
    CorruptArtifactError,
    InputError,
    ManifestVersionError,
)
from levit.native.library import load_library
from levit.native.payload import open_payload, write_payload
from levit.pictures.preprocess import to_pixels
from levit.pictures.reading import load_image
from levit.runtime.arguments import MAX_THREADS
from levit.runtime.backends import BACKENDS, SessionOptions, open_session
from levit.runtime.cpus import is_x86
from levit.runtime.predictor import Predictor

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def native_artifact(make_artifact):
    return make_artifact("native", target="native", outputs=("logits", "embedding"))


@pytest.fixture(scope="module")
def native_uint8_artifact(make_artifact):
    return make_artifact("native-uint8", target="native", input="uint8")


@pytest.fixture
def native(native_artifact):
    with Predictor(native_artifact, threads=2) as opened:
        yield opened


def close_to(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


# ------------------------------------------------------------------ answers


def test_it_answers_as_onnx_runtime_does(native, embedding_artifact, batch):
    with Predictor(embedding_artifact, threads=1) as onnx:
        for size in (0, 1, 2, 5, 16):
            found, expected = native.forward(batch(size)), onnx.forward(batch(size))
            assert list(found) == list(expected) == ["logits", "embedding"]
            for name, values in found.items():
                assert (values.dtype, values.shape) == (np.float32, expected[name].shape)
                if size:
                    close_to(values, expected[name])


def test_pixels(native_uint8_artifact, uint8_artifact, digit_paths):
    with Predictor(native_uint8_artifact) as native, Predictor(uint8_artifact) as onnx:
        pixels = native.preprocess(digit_paths[:5])
        assert pixels.dtype == np.uint8
        close_to(native.forward(pixels)["logits"], onnx.forward(pixels)["logits"])
        assert native(digit_paths[3]).label == digit_paths[3].parent.name


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_is_its_images_one_by_one(native_artifact, batch, threads):
    rows = batch(33)
    with Predictor(native_artifact, threads=threads) as predictor:
        one_by_one = [predictor.forward(rows[i : i + 1])["logits"] for i in range(33)]
        for size in (2, 3, 7, 8, 16, 33):
            found = predictor.forward(rows[:size])["logits"]
            close_to(found, np.concatenate(one_by_one[:size]))


@pytest.mark.parametrize(
    "isa",
    [
        *("amx", "avx512bf16", "avx512vnni", "avx512", "avxvnni", "avx2", "portable"),
        *("bf16", "dotprod", "neon"),
    ],
)
def test_every_instruction_set(native_artifact, native, batch, monkeypatch, isa):
    if isa not in load_library().isas:
        pytest.skip(f"{isa} is not on this CPU")
    monkeypatch.setenv("LEVIT_NATIVE_ISA", isa)
    with Predictor(native_artifact, threads=2) as predictor:
        assert predictor._session._engine.isa == isa
        close_to(predictor.forward(batch(3))["logits"], native.forward(batch(3))["logits"])


def test_arrays_in_any_memory(native, batch):
    rows = batch(4)
    expected = native.forward(rows)["logits"]
    session = native._session
    crooked = np.frombuffer(b"x" + rows.tobytes(), np.float32, offset=1, count=rows.size)
    read_only = rows.copy()
    read_only.flags.writeable = False
    for memory in (
        np.asfortranarray(rows),
        np.concatenate([rows, rows])[::2],
        rows[::-1],
        crooked.reshape(rows.shape),
        read_only,
    ):
        found = session.run({"image": memory})["logits"]
        np.testing.assert_array_equal(found, session.run({"image": memory.copy()})["logits"])
    np.testing.assert_array_equal(session.run({"image": rows})["logits"], expected)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, 96, 95), np.float32),
        np.zeros((3, 96, 96), np.float32),
        np.zeros((1, 96, 96, 3), np.float32),
        np.zeros((1, 3, 96, 96), np.float64),
        np.zeros((1, 3, 96, 96), ">f4"),
        np.zeros((1, 3, 96, 96), np.uint8),
    ],
)
def test_arrays_that_do_not_fit(native, wrong):
    with pytest.raises(InputError, match=r"^the network takes \(N, 3, 96, 96\) float32, not "):
        native._session.run({"image": wrong})
    with pytest.raises(InputError, match=r"^forward\(\) takes \(N, 3, 96, 96\) float32, not "):
        native.forward(wrong)


# ------------------------------------------------------------------ files


@pytest.fixture
def changed(tampered, native_artifact):
    """(change) → an artifact whose payload has been changed, under hashes that fit.

    `change` is given the arrays, the texts and the program, to change in place.
    """

    def make(change):
        def rewrite(folder, values):
            path = folder / NATIVE_FILE
            with open_payload(path) as payload:
                arrays = {name: payload.read(name) for name in payload.specs}
                metadata = dict(payload.metadata)
            program = json.loads(metadata["program"])
            change(arrays, metadata, program)
            if "program" in metadata:
                metadata["program"] = json.dumps(program)
            write_payload(path, arrays, metadata)

        return tampered(rewrite, native_artifact)

    return make


def refused(folder, kind=CorruptArtifactError):
    with pytest.raises(kind) as caught:
        Predictor(folder)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    return message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["head.weight", "attn.bias", "stem"])
def test_weights_that_are_no_finite_numbers(changed, value, name):
    found = []

    def change(arrays, metadata, program):
        found.append(next(key for key in sorted(arrays) if name in key))
        arrays[found[0]].flat[-1] = value

    message = refused(changed(change))
    assert NATIVE_FILE in message
    assert f"{found[0]!r} holds values that are no finite numbers" in message
    assert message.endswith("export again")


def test_infinities_of_both_signs_are_no_warning(changed):
    def change(arrays, metadata, program):
        arrays["head.weight"].flat[:2] = np.inf, -np.inf

    assert "no finite numbers" in refused(changed(change))


def test_finite_weights_whose_sum_is_not_open(changed):
    def change(arrays, metadata, program):
        arrays["head.bias"][:] = 3e38

    Predictor(changed(change), prove=False).close()


def first(steps, kind):
    return next(step for step in steps if step["kind"] == kind)


def rename(arrays):
    arrays["other"] = arrays.pop("head.weight")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, m, p: a.pop("head.weight"), "'head.weight' is missing"),
        (lambda a, m, p: rename(a), "array"),
        (lambda a, m, p: a.update(more=np.zeros(3)), "'more' is not of the program"),
        (lambda a, m, p: a.update({"head.weight": a["head.weight"].T}), "is float32 of shape"),
        (lambda a, m, p: m.pop("program"), "no program"),
        (lambda a, m, p: p.pop("steps"), "steps"),
        (lambda a, m, p: p.update(steps=[]), "steps"),
        (lambda a, m, p: p["buffers"][0].update(offset=-16), "offset"),
        (lambda a, m, p: p["buffers"][0].update(offset=8), "offset"),
        (lambda a, m, p: p["buffers"][0].update(offset=2**62), "offset"),
        (lambda a, m, p: p["buffers"][0].update(rows=2**40), "rows"),
        (lambda a, m, p: p["buffers"][2].update(stride=1), "stride"),
        (lambda a, m, p: p["steps"][3].update(source=10_000), "10000"),
        (lambda a, m, p: p["steps"][3].update(source=-1), "source"),
        (lambda a, m, p: p["steps"][3].update(kind="shell"), "shell"),
        (lambda a, m, p: p["input"].update(dtype="float64"), "float64"),
        (lambda a, m, p: first(p["steps"], "attention").update(heads=2**31), "heads"),
        (lambda a, m, p: first(p["steps"], "conv").update(activation="relu"), "relu"),
    ],
)
def test_programs_that_cannot_be(changed, change, words):
    message = refused(changed(change))
    assert words in message
    assert NATIVE_FILE in message
    assert message.endswith("export again")


def test_a_newer_program(changed):
    def change(arrays, metadata, program):
        program["version"] = 99

    message = refused(changed(change), ManifestVersionError)
    assert "99" in message
    assert "upgrade levit" in message


def test_a_program_that_is_no_json(changed, native_artifact, tampered):
    def rewrite(folder, values):
        write_payload(folder / NATIVE_FILE, {}, {"program": '{"version": 1, ' * 10_000})

    assert "export again" in refused(tampered(rewrite, native_artifact))


def test_a_file_of_something_else(tampered, native_artifact):
    def rewrite(folder, values):
        (folder / NATIVE_FILE).write_bytes(b"\x7fELF" + bytes(1000))

    assert "not a .safetensors file" in refused(tampered(rewrite, native_artifact))


def test_manifests_that_say_something_else(tampered, native_artifact):
    def wider(folder, values):
        values["inputs"][0]["shape"][-1] = 95

    def renamed(folder, values):
        values["outputs"][0]["name"] = "logits_head"

    def other_mean(folder, values):
        values["preprocess"]["mean"][0] = 0.0

    for change, words in (
        (wider, "inputs"),
        (renamed, "outputs"),
        (other_mean, "preprocessing"),
    ):
        folder = tampered(change, native_artifact)
        assert f"the {words} that it states are not those of {NATIVE_FILE}" in refused(folder)
        shutil.rmtree(folder)


def test_an_artifact_of_a_newer_release(tampered, native_artifact):
    def change(folder, values):
        values["requirements"]["backend_version"] = ">=99.1"

    message = refused(tampered(change, native_artifact), BackendUnavailableError)
    assert "needs levit 99.1 or newer" in message
    assert message.endswith("pip install -U levit")


# ------------------------------------------------------------------ threads and memory


@pytest.mark.parametrize("threads", [7, 64, MAX_THREADS])
def test_more_threads_than_cpus(native_artifact, native, batch, threads):
    with Predictor(native_artifact, threads=threads) as predictor:
        for size in (1, 5):
            found = predictor.forward(batch(size))["logits"]
            close_to(found, native.forward(batch(size))["logits"])


def test_callers_run_beside_each_other_and_get_the_same_answers(native, batch):
    rows = batch(24)
    expected = [native.forward(rows[i : i + 1])["logits"] for i in range(24)]
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        order = np.random.default_rng(number).permutation(24)
        return [(i, native.forward(rows[i : i + 1])["logits"]) for i in [*order] * 20]

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(work, range(8)):
            for place, found in answers:
                close_to(found, expected[place])


def test_closing_ends_no_run_that_is_under_way(native_artifact, batch):
    rows = batch(8)
    for _ in range(20):
        predictor = Predictor(native_artifact, threads=2)
        expected = predictor.forward(rows)["logits"]
        begun = threading.Barrier(4)

        def work(predictor=predictor, expected=expected, begun=begun):
            begun.wait()
            while True:
                try:
                    found = predictor.forward(rows)["logits"]
                except InputError as error:
                    return str(error)
                close_to(found, expected)

        with ThreadPoolExecutor(3) as pool:
            answers = [pool.submit(work) for _ in range(3)]
            begun.wait()
            predictor.close()
            predictor.close()
            assert all("closed" in answer.result(timeout=60) for answer in answers)


def test_a_closed_session(native_artifact, batch):
    session = open_session(open_artifact(native_artifact), SessionOptions())
    session.close()
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run({"image": batch(1)})


def run(code, *arguments, timeout=60, **variables):
    """A Python process: its exit status, and what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    environment = os.environ | variables
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment
    )
    return result.returncode, result.stdout.splitlines(), result.stderr


LIMITED = """
    import resource, sys
    import numpy as np
    from levit import Predictor
    from levit.errors import LevitError
    def limit(more):
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.RLIM_INFINITY))
    predictor = Predictor(sys.argv[1], threads=1)
    rows = np.ones((1, 3, 96, 96), np.float32)
    expected = predictor.forward(rows)["logits"]
    {action}
"""


def answer(action, artifact):
    status, lines, errors = run(LIMITED.format(action=action), artifact)
    assert (status, errors) == (0, "")
    return lines


def test_threads_that_are_not_to_be_had(native_artifact):
    action = """limit(200 << 20)
    try:
        Predictor(sys.argv[1], threads=1024)
    except LevitError as error:
        print(type(error).__name__, error)
    print((predictor.forward(rows)["logits"] == expected).all())"""
    first, second = answer(action, native_artifact)
    assert first.startswith("ResourceError the system gives the native engine no 1024")
    assert first.endswith("ask for fewer")
    assert second == "True"


def test_memory_for_weights_that_is_not_to_be_had(native_artifact):
    # Of every limit the answer is an error or a predictor that answers, and nothing between.
    action = """
    from levit.artifact import open_artifact
    from levit.runtime.backends import SessionOptions, open_session
    artifact = open_artifact(sys.argv[1])
    found = set()
    for kilobytes in range(0, 8000, 200):
        limit(kilobytes << 10)
        try:
            other = open_session(artifact, SessionOptions())
            found.add(bool((other.run({"image": rows})["logits"] == expected).all()))
        except LevitError as error:
            found.add(type(error).__name__)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(sorted(map(str, found)))"""
    (line,) = answer(action, native_artifact)
    assert set(json.loads(line.replace("'", '"'))) == {"ResourceError", "True"}


def test_memory_for_a_batch_that_is_not_to_be_had(native_artifact):
    action = """many = np.broadcast_to(rows, (2000, 3, 96, 96)).copy()
    limit(16 << 10)
    session = predictor._session
    try:
        session.run({"image": many})
        print("answered")
    except LevitError as error:
        print(type(error).__name__, error)
    print((predictor.forward(rows)["logits"] == expected).all())"""
    first, second = answer(action, native_artifact)
    assert first.startswith("ResourceError there is not enough memory")
    assert second == "True"


LEAKS = """
    import os, resource, sys, threading
    import numpy as np
    from levit import Predictor
    rows = np.ones((3, 3, 96, 96), np.float32)
    def work(count):
        for number in range(count):
            predictor = Predictor(sys.argv[1], threads=3, prove=False)
            if number % 4:
                predictor.forward(rows)
            if number % 2:
                predictor.close()
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 1e6
    work({warm})
    before, threads = resident(), len(os.listdir("/proc/self/task"))
    work({count})
    print(before, resident(), threads, len(os.listdir("/proc/self/task")))
"""


@pytest.mark.slow
def test_thousands_of_openings_leave_nothing_behind(native_artifact):
    code = LEAKS.format(warm=200, count=3000)
    status, lines, errors = run(code, native_artifact, timeout=300)
    assert (status, errors) == (0, "")
    before, after, *threads = map(float, lines[0].split())
    assert after < before + 2
    assert threads == [1, 1]


# ------------------------------------------------------------------ processes


FORKED = """
    import os, signal, sys, threading, warnings
    warnings.simplefilter("ignore")  # Python 3.12 warns of forks with threads
    from levit import Predictor
    images = sys.argv[2:]
    predictor = Predictor(sys.argv[1], threads=3, workers=2)
    expected = [answer.label for answer in predictor.predict(images)]
    def right():
        same = [answer.label for answer in predictor.predict(images)] == expected
        return same and predictor(images[0]).label == expected[0]
    stream = predictor.stream(images * 20)
    next(stream)
    busy = [threading.Thread(target=lambda: [right() for _ in range(20)]) for _ in range(3)]
    for thread in busy:
        thread.start()
    for _ in range(8):  # each at another moment of the threads' work
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            found = []
            many = [threading.Thread(target=lambda: found.append(right())) for _ in range(4)]
            for thread in many:
                thread.start()
            for thread in many:
                thread.join()
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if right() else 1)
            found.append(os.waitpid(grandchild, 0)[1] == 0)
            try:
                list(stream)
            except Exception as error:
                found.append("begun before a fork" in str(error))
            predictor.close()
            sys.stdout.flush()
            {end}
        _, status = os.waitpid(child, 0)
        print("child", os.waitstatus_to_exitcode(status))
    for thread in busy:
        thread.join()
    print("parent", right(), len(list(stream)))
"""


@pytest.mark.parametrize(
    "end",
    [
        "os._exit(0 if found == [True] * 6 else 1)",
        # An ordinary end, with handlers and destructors.
        "sys.exit(0 if found == [True] * 6 else 1)",
    ],
)
def test_a_forked_child_answers(native_artifact, digit_paths, end):
    code = FORKED.format(end=end)
    status, lines, errors = run(code, native_artifact, *digit_paths[:16], timeout=120)
    assert lines == ["child 0"] * 8 + ["parent True 319"], errors
    assert status == 0


def _indices(predictor, paths):
    return [prediction.index for prediction in predictor.predict(paths)]


INHERITED = """
    import multiprocessing, sys, warnings
    warnings.simplefilter("ignore")
    from levit import Predictor
    predictor = Predictor(sys.argv[1], threads=2, workers=2)
    def work(path):
        return predictor(path).label
    expected = list(map(work, sys.argv[2:]))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(pool.map(work, sys.argv[2:]) == expected)
"""


def test_pools_of_forked_processes_take_an_inherited_predictor(native_artifact, digit_paths):
    status, lines, errors = run(INHERITED, native_artifact, *digit_paths[:16])
    assert (status, lines) == (0, ["True"]), errors


def test_pools_of_other_processes_take_a_predictor(native, digit_paths):
    expected = _indices(native, digit_paths)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(_indices, [(native, digit_paths)] * 2) == [expected] * 2


EXIT = """
    import sys, threading
    import numpy as np
    from levit import Predictor
    predictor = Predictor(sys.argv[1], threads=3)
    rows = np.ones((64, 3, 96, 96), np.float32)
    predictor.forward(rows)
    def work():
        while True:
            predictor.forward(rows)
    {action}
    print("done", flush=True)
"""


@pytest.mark.parametrize(
    "action",
    [
        "pass",
        "predictor.close()",
        "cycle = [predictor]; cycle.append(cycle); del predictor",
        "sys.modules['kept'] = predictor",
        "threading.Thread(target=work, daemon=True).start()",
    ],
)
def test_the_interpreter_ends_whatever_is_open(native_artifact, action):
    status, lines, errors = run(EXIT.format(action=action), native_artifact)
    assert (status, lines, errors) == (0, ["done"], "")


TWICE = """
    import os, sys
    import numpy as np
    from levit import Predictor
    rows = np.ones((3, 3, 96, 96), np.float32)
    answers = []
    for library in sys.argv[2:]:
        os.environ["LEVIT_NATIVE_LIBRARY"] = library
        answers.append(Predictor(sys.argv[1], threads=2))
    first, second = (predictor.forward(rows)["logits"] for predictor in answers)
    print((first == second).all(), answers[0]._session._engine is not None)
"""


def test_the_library_may_be_loaded_twice(native_artifact, tmp_path):
    library = load_library().functions._name
    copy = shutil.copyfile(library, tmp_path / "another.so")
    status, lines, errors = run(TWICE, native_artifact, library, copy)
    assert (status, lines, errors) == (0, ["True True"], "")


# ------------------------------------------------------------------ pixels


@pytest.mark.parametrize("precision", ["fp32", "int8", "bf16"])
@pytest.mark.parametrize("outputs", [("logits",), ("logits", "embedding")])
def test_pixels_give_what_their_numbers_give(make_artifact, digit_paths, precision, outputs):
    """To the last bit: the engine looks each number up that preprocess() would have made."""
    calibration = digit_paths[0].parents[1] if precision == "int8" else None
    name = f"pixels-{precision}-{len(outputs)}"
    artifact = make_artifact(
        name,
        target="native",
        precision=precision,
        outputs=outputs,
        calibration=calibration,
        force=precision == "int8",
    )
    paths = digit_paths[:9]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bfloat16 on a CPU without
        predictor = Predictor(artifact, threads=1)
    with predictor:
        assert predictor._session.takes_pixels
        assert predictor._images().preparation.dtype == "uint8"  # of floats there is no image
        batch = predictor.preprocess(paths)
        assert batch.dtype == np.float32
        expected = predictor.forward(batch)
        pixels = np.stack([to_pixels(load_image(p), predictor.manifest.preprocess) for p in paths])
        for name in outputs:
            assert np.array_equal(predictor._output(name, pixels), expected[name])


def test_only_its_own_planes_come_from_outside(native, batch):
    pixels = np.zeros((1, 96, 96, 3), np.uint8)
    with pytest.raises(InputError, match="the layout is NCHW"):
        native.forward(pixels)


# ------------------------------------------------------------------ machines without it


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "cannot open shared object file"),
        (b"no library", "file too short"),
        (b"no library" * 100, "invalid ELF header"),
    ],
)
def test_a_library_that_does_not_load(
    native_artifact, tiny_artifact, digit_paths, tmp_path, monkeypatch, contents, words
):
    library = tmp_path / "_levit.so"
    if contents is not None:
        library.write_bytes(contents)
    monkeypatch.setenv("LEVIT_NATIVE_LIBRARY", str(library))
    backend = BACKENDS["native"]
    found = backend.obstacle("cpu")
    assert backend.version is None
    assert found.remedy == backend.places["cpu"].install
    message = refused(native_artifact, BackendUnavailableError)
    assert message == f"levit native on 'cpu': {found.reason}: {found.remedy}"
    assert words in message
    with Predictor(tiny_artifact) as predictor:
        assert predictor(digit_paths[0]).label == digit_paths[0].parent.name


def test_another_library_is_none(native_artifact, monkeypatch):
    import _ctypes

    monkeypatch.setenv("LEVIT_NATIVE_LIBRARY", _ctypes.__file__)
    assert "cannot be loaded" in refused(native_artifact, BackendUnavailableError)


def test_an_instruction_set_that_is_not_here(native_artifact, monkeypatch):
    monkeypatch.setenv("LEVIT_NATIVE_ISA", "sve9")
    message = refused(native_artifact, BackendUnavailableError)
    assert "LEVIT_NATIVE_ISA=sve9: not on this machine; there are: " in message
    assert message.endswith("portable: unset it" if is_x86() else "neon: unset it")


def test_it_has_no_gpu(native_artifact):
    with pytest.raises(BackendUnavailableError, match="does not run on 'gpu': use device 'cpu'"):
        Predictor(native_artifact, device="gpu")


BLOCKED = """
    import sys
    for name in ("onnxruntime", "openvino", "torch", "safetensors", "onnx", "PIL", "ctypes.util"):
        sys.modules[name] = None
    import numpy as np
    from levit import Predictor
    with Predictor(sys.argv[1], threads=1) as predictor:
        print(predictor.forward(np.zeros((1, 3, 96, 96), np.float32))["logits"].shape)
    print(*[m for m in sys.modules if m.startswith(("levit.models", "levit.export"))])
"""


def test_numpy_is_all_that_it_takes(native_artifact):
    status, lines, errors = run(BLOCKED, native_artifact)
    assert (status, lines, errors) == (0, ["(1, 10)", ""], "")
