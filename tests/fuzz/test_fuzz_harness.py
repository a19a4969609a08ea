"""The fuzzer itself: it sees what it is there to see, and repeats what it has done."""

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import onnx
import pytest
from fuzz import drawn
from fuzzing.archives import damaged_npz, damaged_zip, read_members
from fuzzing.artifact_seeds import sealed_manifest
from fuzzing.damage import damaged
from fuzzing.folders import pack, seal, unpack, write_folder
from fuzzing.image_seeds import image_seeds
from fuzzing.json_damage import damaged_json
from fuzzing.onnx_damage import damaged_model
from fuzzing.pickle_damage import damaged_pickle
from fuzzing.png_damage import damaged_png
from fuzzing.targets import TARGETS
from google.protobuf.message import DecodeError
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from PIL import Image

from levit.pictures.decoders import FORMATS

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


def test_inputs_that_fail_are_kept_as_small_as_they_get(outcomes):
    (((kind, place),), (kept,)) = outcomes["search raises"]
    assert kind == "exception"
    assert place.startswith("IndexError misbehaving.py:")
    assert len(kept) == len("plain") + 1


def test_input_of_a_crash_is_kept(outcomes):
    (((kind, place),), (kept,)) = outcomes["search aborts"]
    assert kind == "crash"
    assert place.startswith("SIGABRT misbehaving.py:")
    assert not kept.isascii()


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
    assert result.stdout.startswith("refused decoders.py:")
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
def test_inputs_follow_from_the_seed(fuzzed, seed, name):
    target = fuzzed(name)

    def some(seed):
        found = []
        drawn(target, found.append, 20, seed)()
        return found

    first = some(seed)
    assert first == some(seed)
    assert first != some(seed + 1)
    assert len(set(first)) > 10


STRATEGIES = {
    "bytes": damaged,
    "png": damaged_png,
    "zip": damaged_zip,
    "npz": damaged_npz,
    "pickle": damaged_pickle,
    "onnx": lambda data: damaged_model(data, [b"\x08\x01"]),
}


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=100)
@given(data=st.data())
def test_damage_is_done_to_any_bytes(name, data):
    seeds = [b"", b"x", b"PK\3\4", b"\x89PNG\r\n\x1a\n", b"\x80\x02N.", b"\x08"]
    whole = data.draw(st.sampled_from(seeds) | st.binary())
    assert isinstance(data.draw(STRATEGIES[name](whole)), bytes)


def test_every_format_that_is_read_has_a_seed_that_decodes():
    decoded = set()
    for data in image_seeds().values():
        with warnings.catch_warnings(), contextlib.suppress(OSError):
            warnings.simplefilter("ignore")  # of what Pillow is about to give up
            with Image.open(io.BytesIO(data)) as image:
                image.convert("RGB")
                decoded.add(image.format)
    assert set(FORMATS) - decoded <= {"AVIF", "JPEG2000", "WEBP"}  # as Pillow is built
    assert decoded - set(FORMATS) >= {"ICO", "TGA"}


DOCUMENT = '{"a": [1, {"b": "c"}], "d": 0.5}'


def parsed(data):
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


@pytest.mark.parametrize(
    "wanted",
    [
        {"a": [1, {"b": "c"}]},
        {"a": [{"b": "c"}], "d": 0.5},
        {"a": [1, {"b": "c"}], "d": [0.5]},
        {"a": [1, {"b": "c"}], "d": 1.0},
        None,
    ],
)
def test_damaged_json_reaches(wanted):
    def check(data):
        return parsed(data) == wanted

    options = settings(max_examples=5_000, database=None, derandomize=True)
    assert find(damaged_json(DOCUMENT), check, settings=options) != DOCUMENT


def test_damaged_models_are_other_models():
    nodes = [onnx.helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(5)]
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("x0", "x5")]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    whole = onnx.helper.make_model(graph).SerializeToString()
    options = settings(max_examples=500, database=None, derandomize=True, phases=[Phase.generate])

    def reaches(wanted):
        def check(data):
            with contextlib.suppress(DecodeError):
                return wanted(onnx.load_from_string(data).graph)

        return find(damaged_model(whole, []), check, settings=options)

    assert reaches(lambda graph: len(graph.node) == 4)
    assert reaches(lambda graph: len(graph.node) == 6)
    assert reaches(lambda graph: len(graph.node) == 5 and list(graph.node) != nodes)


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
        "manifest.json", "model.onnx", "golden.npz", "x", "new", ".gitattributes",
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
