"""What fuzzing has found, each as small as it gets. Containers' findings stand with their modules.

See tests/test_arrays.py, tests/test_errors.py, tests/runtime/test_interface.py and
tests/runtime/test_onnx_file.py for the rest.
"""

import json
import resource
import struct
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fuzzing.archives import read_members, write_members
from fuzzing.folders import pack, unpack

from levit.artifact import describe_files, open_artifact
from levit.cli import build_parser
from levit.commands.inspect_command import run as inspect
from levit.errors import CheckpointError, CorruptArtifactError
from levit.models.checkpoint import read_checkpoint

DATA = Path(__file__).parents[1] / "data"


@contextmanager
def little_memory(more=256 << 20):
    """Room for what a small file needs, and not for what it may claim."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def outcome(outcome_of, fuzzed):
    """(change(manifest, entries)) → the outcome of an artifact whose hashes fit."""

    def run(change, base="plain"):
        target = fuzzed("artifact")
        name, entries = unpack(next(seed for seed in target.seeds() if unpack(seed)[0] == base))
        manifest = json.loads(entries["manifest.json"])
        change(manifest, entries)
        entries["manifest.json"] = json.dumps(manifest).encode()
        return outcome_of("artifact", pack(name, entries))

    return run


def config(**changes):
    return lambda manifest, entries: manifest["config"].update(changes)


# ------------------------------------------------------------------ manifests


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "\x1b[2J", "x" * 10_000])
def test_name_of_a_field_that_no_terminal_should_see(outcome, name):
    found = outcome(lambda manifest, entries: manifest.update({name: 1}))
    assert found.kind == "refused", found.detail
    assert "unknown fields" in found.detail


def test_labels_that_are_no_text(outcome):
    found = outcome(lambda manifest, entries: entries.update({"labels.txt": b"\xd2\n" * 5}))
    assert found.kind == "refused", found.detail
    assert "labels.txt: cannot be read" in found.detail


@pytest.mark.parametrize(
    "change",
    [
        config(num_classes=2**40),
        config(image_size=[2**25, 16]),
        config(stages=[{"width": 16, "depth": 1, "block": None, "downsample": None}]),
        lambda manifest, entries: manifest.update(family="lewit", config={}),
        lambda manifest, entries: manifest.update(family="lewit", config={"image_size": 3}),
    ],
)
def test_config_in_a_manifest_that_is_none_harms_nobody(outcome, change):
    # The network is whole, and what it answers does not depend on this.
    with little_memory():
        found = outcome(change)
    assert found.kind == "answered", found.detail


def test_artifact_of_an_unknown_family_can_be_inspected(tampered_copy, capsys):
    folder = tampered_copy(lambda values: values.update(family="swin", config={"x": 1}))
    inspect(build_parser().parse_args(["inspect", str(folder)]))
    assert "levit_digits of swin, which this release lacks" in capsys.readouterr().out


@pytest.fixture
def tampered_copy(tiny_artifact, tmp_path):
    def make(change):
        values = json.loads((tiny_artifact / "manifest.json").read_text())
        change(values)
        folder = tmp_path / "artifact"
        folder.mkdir()
        for path in tiny_artifact.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "manifest.json").write_text(json.dumps(values))
        return folder

    return make


def test_preprocessing_in_a_manifest_is_not_taken_on_trust(outcome):
    # One digit of a mean: every hash is right, and the answers were others.
    found = outcome(lambda manifest, entries: manifest["preprocess"]["mean"].__setitem__(0, 0.495))
    assert found.kind == "refused", found.detail
    assert "the preprocessing that it states" in found.detail


# ------------------------------------------------------------------ golden cases


def golden_with(name, contents):
    """A golden.npz of which one member is other bytes."""

    def change(base):
        members = dict(read_members((base / "golden.npz").read_bytes()))
        members[name] = contents
        return write_members(list(members.items()))

    return change


def lying(descr, shape):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("image/0.npy", b"no array, which NumPy hands out as bytes"),
        ("image/0", b"no array by its name either"),
        ("input.npy", lying("|S99999999", (3790,))),  # 353 GiB
        ("input.npy", lying("<f4", (3, 3, 2**20, 2**20))),
        ("input.npy", lying("|O", (1,)) + b"\x80\x04N."),
    ],
)
def test_golden_arrays_that_are_none(tiny_artifact, tmp_path, name, contents):
    (tmp_path / "golden.npz").write_bytes(golden_with(name, contents)(tiny_artifact))
    artifact = open_artifact(tiny_artifact)
    manifest = replace(artifact.manifest, files=describe_files(tmp_path))
    with little_memory(), pytest.raises(CorruptArtifactError, match="is damaged"):
        type(artifact)(tmp_path, manifest).golden()


# ------------------------------------------------------------------ checkpoints


def test_old_pickle_that_claims_a_long_text_allocates_nothing(tmp_path):
    # Python allocates what a file is asked for, before it looks whether it is there.
    whole = (DATA / "pth" / "legacy.pth").read_bytes()
    text = whole.index(b"X", whole.index(b"\x80\x02}"))  # BINUNICODE
    path = tmp_path / "legacy.pth"
    path.write_bytes(whole[: text + 1] + b"\xff\xff\xff\xff" + whole[text + 5 :])
    with (
        little_memory(),
        pytest.raises(CheckpointError, match=r"cannot be read \(truncated") as caught,
    ):
        read_checkpoint(path)
    assert not isinstance(caught.value.__cause__, MemoryError)


def test_type_that_safetensors_does_not_know_is_shown_in_one_line(tmp_path):
    header = json.dumps({"a": {"dtype": "F6\x7f", "shape": [1], "data_offsets": [0, 4]}})
    header = header.replace("\\u007f", "\x7f").encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()


def test_config_with_a_number_of_four_hundred_digits(tmp_path, outcome_of, fuzzed):
    base, entries = unpack(fuzzed("config").seeds()[1])
    values = json.loads(entries["config.json"])
    values["image_size"] = [10**400, 96]
    found = outcome_of("config", pack(base, {"config.json": json.dumps(values).encode()}))
    assert found.kind == "refused", found.detail
    assert len(found.detail) < 1100


# ------------------------------------------------------------------ stored inputs


STORED = [
    pytest.param(path, marks=[pytest.mark.peers] if path.stem.startswith("pth") else [])
    for path in sorted((DATA / "fuzz").glob("*.bin"))
]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_input_is_no_failure(outcome_of, path):
    found = outcome_of(path.stem.partition("-")[0], path.read_bytes())
    assert not found.failed, found.detail
