"""Memory, threads and open files that are not to be had: a class of its own, and nobody's fault."""

import errno
import json
import random
import subprocess
import sys
import textwrap

import pytest

from levit.errors import CorruptArtifactError, InputError, LevitError, ResourceError
from levit.faults import attributed
from levit.runtime.cpus import require_threads

LIMITED = """
    import io, json, resource, sys
    import numpy as np
    from PIL import Image
    from levit import Predictor

    artifact, action, limits = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

    def limit(more):
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.RLIM_INFINITY))

    def encoded(side):
        file = io.BytesIO()
        Image.new("RGB", (side, side)).save(file, "PNG")
        return file.getvalue()

    small, large = np.zeros((9, 9, 3), np.uint8), encoded(4000)
    predictor = Predictor(artifact, threads=1)
    predictor.predict([small, encoded(9)])
    shape = [*map(int, predictor.manifest.inputs[0].shape[1:])]
    batch = np.zeros((4000, *shape), np.float32)
    actions = {
        "large": lambda: predictor(large),
        "many": lambda: predictor.predict([small, large], on_error="return"),
        "stream": lambda: list(predictor.stream(iter([small, large]))),
        "embed": lambda: predictor.embed([large]),
        "preprocess": lambda: predictor.preprocess([small] * 4000),
        "forward": lambda: predictor.forward(batch),
        "open": lambda: Predictor(artifact, threads=1),
        "open with threads": lambda: Predictor(artifact, threads=16).close(),
    }
    for more in limits:
        limit(more)
        try:
            actions[action]()
            found = "done"
        except BaseException as error:
            found = type(error).__name__
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(found, flush=True)
"""

ACTIONS = ["large", "many", "stream", "embed", "preprocess", "forward", "open", "open with threads"]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("target", ["onnx", pytest.param("native", marks=pytest.mark.native)])
def test_memory_that_is_not_to_be_had_is_nobodys_fault(make_artifact, target, action):
    artifact = make_artifact(f"release-{target}", target=target, outputs=("logits", "embedding"))
    draw = random.Random(f"{target} {action}")
    limits = [0, *(draw.randrange(48 << 20) for _ in range(6)), 200 << 20]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(artifact), action, json.dumps(limits)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = done.stdout.split()
    assert len(found) == len(limits), done.stderr
    assert set(found) <= {"ResourceError", "done"}, list(zip(limits, found, strict=True))
    assert found[0] == "ResourceError"


OPEN_FILES = """
    import resource, sys
    from levit import Predictor

    artifact, picture = sys.argv[1:]
    predictor = Predictor(artifact, threads=1)
    predictor(picture)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for call in (
        lambda: predictor(picture),
        lambda: predictor.predict([picture, b"bad"], on_error="return"),
        lambda: Predictor(artifact, threads=1),
    ):
        try:
            print(call())
        except Exception as error:
            print(type(error).__name__, "ulimit -n" in str(error))
"""


def test_files_that_cannot_be_opened_any_more_are_nobodys_fault(tiny_artifact, digit_paths):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OPEN_FILES), str(tiny_artifact), digit_paths[0]],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["ResourceError True"] * 3, done.stderr


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (MemoryError(), "memory"),
        (caused(InputError("x"), MemoryError()), "memory"),
        (caused(InputError("x"), OSError(errno.ENOMEM, "x")), "memory"),
        (caused(InputError("x"), OSError(errno.EMFILE, "x")), "open files"),
        (caused(InputError("x"), OSError(errno.ENFILE, "x")), "open files"),
        (caused(InputError("x"), OSError("out of memory error when reading image")), "memory"),
        (caused(CorruptArtifactError("x"), RuntimeError("std::bad_alloc")), "memory"),
        (caused(CorruptArtifactError("x"), RuntimeError("CUDA error: out of memory")), "memory"),
        (caused(CorruptArtifactError("x"), RuntimeError("pthread_create failed")), "threads"),
        (caused(LevitError("x"), caused(InputError("y"), MemoryError())), "memory"),
        (RuntimeError("can't start new thread"), "threads"),
        (RuntimeError("can't allocate lock"), "threads"),
    ],
)
def test_a_shortage_is_found_behind_an_error(error, lacking):
    found = attributed(error)
    assert isinstance(found, ResourceError)
    assert f"no more {lacking}" in str(found)
    assert found.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        InputError("dear diary"),
        InputError("a file called out of memory.png"),  # a name of the caller's
        caused(InputError("x"), ValueError("not enough data")),
        caused(InputError("x"), BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")),
        caused(CorruptArtifactError("x"), OSError(errno.ENOENT, "x")),
        RuntimeError("out of memory"),  # of an iterable of the caller's
        OSError(errno.EMFILE, "x"),
    ],
)
def test_other_errors_stay_what_they_are(error):
    assert attributed(error) is error


def test_threads_that_are_to_be_had():
    require_threads(0)
    require_threads(9)
