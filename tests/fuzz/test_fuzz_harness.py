"""The fuzzer itself: it sees what it is there to see, and repeats what it has done."""

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from fuzzing.archives import mutate_npz, mutate_zip, read_members
from fuzzing.artifact_seeds import sealed_manifest
from fuzzing.folders import pack, seal, unpack, write_folder
from fuzzing.image_seeds import image_seeds
from fuzzing.json_mutations import Pairs, Raw, mutate_json, write
from fuzzing.mutations import mutate_bytes, mutate_png
from fuzzing.pickles import mutate_pickle
from fuzzing.protobuf import mutate_message, parse
from fuzzing.protobuf import write as write_message
from fuzzing.target import make_input
from fuzzing.targets import TARGETS
from PIL import Image

ROOT = Path(__file__).parents[2]


def fuzz(*words, **settings):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120, **settings,
    )  # fmt: skip


# ------------------------------------------------------------------ outcomes


@pytest.fixture(scope="module")
def outcomes():
    """What became of targets that misbehave: {behaviour: (kind, place)}."""
    result = fuzz("tests/fuzz/misbehaving.py")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ("answer", "answered"),
        ("answer again", "answered"),
        ("refuse", "refused"),
        ("raise", "exception"),
        ("two lines", "message"),
        ("warn", "warning"),
        ("answer wrongly", "wrong"),
        ("eat memory", "memory"),
        ("refuse for memory", "memory"),
        ("spin", "hang"),
        ("sleep", "hang"),
        ("abort", "crash"),
        ("segfault", "crash"),
        ("exit", "crash"),
    ],
)
def test_misbehaviour_is_seen_for_what_it_is(outcomes, behaviour, kind):
    assert outcomes[behaviour][0] == kind


def test_failures_say_where_they_were(outcomes):
    assert outcomes["raise"][1].startswith("IndexError misbehaving.py:")
    assert outcomes["spin"][1].startswith("misbehaving.py:")
    assert outcomes["sleep"][1].startswith("misbehaving.py:")
    assert outcomes["abort"][1].startswith("SIGABRT misbehaving.py:")
    assert outcomes["segfault"][1].startswith("SIGSEGV misbehaving.py:")


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in ("pth", "giant")])
def test_a_short_run_finds_nothing(seed, tmp_path, name):
    flags = ("--target", name, "--count", 40, "--seed", seed, "--output", tmp_path / "failures")
    result = fuzz("scripts/fuzz.py", *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"| {name} | 40 |" in result.stdout
    assert "| all | 40 |" in result.stdout
    assert not (tmp_path / "failures").exists()


def test_a_stored_input_is_run_again(tmp_path):
    stored = tmp_path / "input.bin"
    stored.write_bytes(b"no image")
    result = fuzz("scripts/fuzz.py", "--target", "image", "--replay", stored)
    assert result.returncode == 0
    assert result.stdout.startswith("refused images.py:")
    assert "InputError: " in result.stdout


def test_atheris_that_is_missing_is_one_line(tmp_path):
    (tmp_path / "atheris.py").write_text("raise ImportError('not here')\n")
    code = (
        f"import runpy, sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT / 'scripts')!r}];"
        f"sys.argv = ['fuzz', '--engine', 'atheris', '--target', 'image'];"
        f"runpy.run_path({str(ROOT / 'scripts' / 'fuzz.py')!r}, run_name='__main__')"
    )
    result = fuzz("-c", code)
    assert result.returncode == 1
    assert result.stderr == "error: atheris is not installed: pip install atheris\n"


# ------------------------------------------------------------------ inputs


@pytest.mark.parametrize("name", ["image", "artifact", "onnx", "safetensors", "config"])
def test_inputs_follow_from_their_number(fuzzed, seed, name):
    target = fuzzed(name)
    indices = range(len(target.seeds()), len(target.seeds()) + 20)
    first = [make_input(target, seed, i) for i in indices]
    assert first == [make_input(target, seed, i) for i in indices]
    assert first != [make_input(target, seed + 1, i) for i in indices]
    assert len(set(first)) > 10
    assert [make_input(target, seed, i) for i in range(len(target.seeds()))] == target.seeds()


@pytest.mark.parametrize(
    "mutate",
    [
        mutate_bytes,
        mutate_png,
        mutate_zip,
        mutate_npz,
        mutate_pickle,
        lambda rng, data: mutate_message(rng, data, [b"\x08\x01"], [b"x"]),
    ],
)
@pytest.mark.parametrize(
    "data", [b"", b"x", b"PK\3\4", b"\x89PNG\r\n\x1a\n", b"\x80\x02N.", b"\x08"]
)
def test_mutations_take_any_bytes(seed, mutate, data):
    for i in range(100):
        assert isinstance(mutate(random.Random(seed + i), data), bytes)


def test_every_format_of_pillow_but_the_stubs_has_a_seed_that_decodes():
    decoded = set()
    for data in image_seeds().values():
        with warnings.catch_warnings(), contextlib.suppress(OSError):
            warnings.simplefilter("ignore")  # of what Pillow is about to give up
            with Image.open(io.BytesIO(data)) as image:
                image.convert("RGB")
                decoded.add(image.format)
    stubs = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF", "XVTHUMB"}
    assert set(Image.OPEN) - decoded <= stubs | {"AVIF", "JPEG2000", "WEBP"}
    assert {"JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM"} <= decoded


def test_json_is_written_as_it_was_read():
    text = '{"a": [1, 2.5, null], "a": {"b": "\\ud800"}, "c": true}'
    values = json.loads(text, object_pairs_hook=Pairs)
    assert write(values) == text
    assert write([Raw("1e999")]) == "[1e999]"


def test_some_damaged_json_is_still_json(seed):
    read = 0
    for i in range(200):
        try:
            json.loads(mutate_json(random.Random(seed + i), '{"a": [1, {"b": "c"}], "d": 0.5}'))
            read += 1
        except (ValueError, RecursionError):
            pass
    assert 100 < read < 200


def test_messages_are_written_as_they_were_read(tiny_artifact):
    data = (tiny_artifact / "model.onnx").read_bytes()
    fields = parse(data)
    assert {number for number, _, _ in fields} >= {1, 7, 8}
    assert write_message(fields) == data
    assert parse(data[:-1]) is None


def test_archives_are_written_as_they_were_read(tiny_artifact):
    members = read_members((tiny_artifact / "golden.npz").read_bytes())
    assert {"input.npy", "top5.npy"} <= {name for name, _ in members}


def test_folders_are_unpacked_as_they_were_packed(tiny_artifact, tmp_path):
    text = sealed_manifest(tiny_artifact).encode()
    entries = {"manifest.json": text, "labels.txt": None, "golden.npz": "/etc/passwd", "x": ()}
    base, found = unpack(pack("plain", entries))
    assert (base, found) == ("plain", entries)
    folder = tmp_path / "artifact"
    write_folder(folder, tiny_artifact, {**found, "../out": b"x", "new": b"y"})
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "model.onnx", "golden.npz", "x", "new",
    }  # fmt: skip
    assert (folder / "golden.npz").is_symlink()
    assert not (tmp_path / "out").exists()


def test_seals_are_the_hashes_of_what_is_there(tiny_artifact, tmp_path):
    sealed = sealed_manifest(tiny_artifact).encode()
    before = json.loads((tiny_artifact / "manifest.json").read_bytes())
    assert json.loads(seal(sealed, tiny_artifact, tiny_artifact)) == before
    folder = tmp_path / "artifact"
    write_folder(folder, tiny_artifact, {"labels.txt": b"other\n"})
    after = json.loads(seal(sealed, folder, tiny_artifact))
    assert after["files"]["labels.txt"]["size_bytes"] == 6
    assert after["files"]["model.onnx"] == before["files"]["model.onnx"]
    of_base = sealed.replace(b"@sha256:", b"@sha256-base:").replace(b"@size:", b"@size-base:")
    assert json.loads(seal(of_base, folder, tiny_artifact)) == before
