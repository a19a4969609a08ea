import contextlib
import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levit.artifact import (
    GOLDEN_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    Artifact,
    Manifest,
    describe_files,
    is_artifact,
    open_artifact,
    sha256_of,
    write_manifest,
)
from levit.errors import ArtifactError, CorruptArtifactError, ManifestVersionError

# ------------------------------------------------------------------ helpers


def read_manifest(folder):
    return json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))


def save_manifest(folder, values):
    (folder / MANIFEST_FILE).write_text(json.dumps(values), encoding="utf-8")


def described(folder):
    """The artifact with a manifest that describes its files as they are now."""
    save_manifest(folder, {**read_manifest(folder), "files": describe_files(folder)})
    return open_artifact(folder)


@pytest.fixture
def copy(tiny_artifact, tmp_path):
    """A copy of an artifact, to be damaged."""
    return Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))


@pytest.fixture
def nest(tmp_path):
    """An empty folder, in which leftovers would show."""
    folder = tmp_path / "nest"
    folder.mkdir()
    return folder


# ------------------------------------------------------------------ round trip


def test_manifest_written_and_read_back_is_equal(tiny_artifact, nest):
    manifest = open_artifact(tiny_artifact).manifest
    write_manifest(nest, manifest)
    assert Manifest.from_dict(read_manifest(nest)) == manifest
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest


def test_opened_artifact_names_its_parts(tiny_artifact):
    artifact = open_artifact(str(tiny_artifact))
    assert artifact.path == tiny_artifact
    assert artifact.payload == tiny_artifact / "model.onnx"
    assert artifact.labels() == tuple("0123456789")
    golden = artifact.golden()
    assert {"input", "output/logits", "top5", "image/0"} <= set(golden)
    assert golden["input"].shape[1:] == (3, 96, 96)
    assert is_artifact(tiny_artifact)


def test_hashes_are_those_of_the_files(tiny_artifact):
    described = describe_files(tiny_artifact)
    assert described == open_artifact(tiny_artifact).manifest.files
    assert set(described) == {"model.onnx", LABELS_FILE, GOLDEN_FILE}
    for name, entry in described.items():
        data = (tiny_artifact / name).read_bytes()
        assert entry["size_bytes"] == len(data)
        assert entry["sha256"] == sha256_of(tiny_artifact / name)


def test_labels_keep_spaces_and_scripts(copy):
    labels = ["tench, Tinca tinca", "鯉 ", "\u2028ü", *"3456789"]
    (copy / LABELS_FILE).write_text("\n".join(labels) + "\n", encoding="utf-8")
    values = read_manifest(copy)
    values["files"] = describe_files(copy)
    save_manifest(copy, values)
    assert open_artifact(copy).labels() == tuple(labels)


def test_labels_that_are_no_text(copy):
    (copy / LABELS_FILE).write_bytes(b"t\xf6nch\n")
    artifact = described(copy)
    with pytest.raises(CorruptArtifactError, match=r"labels\.txt: cannot be read"):
        artifact.labels()


# ------------------------------------------------------------------ open: what is refused


def test_absent_folder(nest):
    with pytest.raises(ArtifactError, match=r"no such folder.*levit export"):
        open_artifact(nest / "absent")


def test_file_in_place_of_a_folder(tiny_artifact):
    with pytest.raises(ArtifactError, match="is a file; name the artifact's folder"):
        open_artifact(tiny_artifact / "model.onnx")


def test_folder_without_manifest(nest):
    with pytest.raises(ArtifactError, match="not an artifact"):
        open_artifact(nest)
    assert not is_artifact(nest)


@pytest.mark.parametrize("name", ["model.onnx", LABELS_FILE, GOLDEN_FILE])
@pytest.mark.parametrize("damage", ["missing", "changed", "truncated", "longer", "folder", "pipe"])
def test_damaged_file_is_named(copy, name, damage):
    path = copy / name
    data = path.read_bytes()
    path.unlink()
    if damage == "changed":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "truncated":
        path.write_bytes(data[:-1])
    elif damage == "longer":
        path.write_bytes(data + b"\0")
    elif damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    words = {
        "missing": "is missing",
        "changed": "have changed",
        "truncated": f"has {len(data) - 1} bytes where {len(data)}",
        "longer": f"has {len(data) + 1} bytes where {len(data)}",
        "folder": "cannot be read",
        "pipe": "it is no plain file",
    }[damage]
    with pytest.raises(CorruptArtifactError, match=words) as caught:
        open_artifact(copy)
    assert str(path) in str(caught.value)


def test_without_hashing_sizes_are_still_checked(copy):
    path = copy / "model.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert open_artifact(copy, verify_hashes=False).payload == path
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptArtifactError, match="bytes where"):
        open_artifact(copy, verify_hashes=False)


@pytest.mark.parametrize("field", [f.name for f in fields(Manifest)])
def test_missing_field_is_named(copy, field):
    values = read_manifest(copy)
    del values[field]
    save_manifest(copy, values)
    with pytest.raises(CorruptArtifactError) as caught:
        open_artifact(copy)
    assert field in str(caught.value) or field == "schema_version"


def test_unknown_field_is_named(copy):
    save_manifest(copy, {**read_manifest(copy), "colour": "red"})
    with pytest.raises(CorruptArtifactError, match="colour"):
        open_artifact(copy)


def test_field_that_stands_twice_is_named(copy):
    text = (copy / MANIFEST_FILE).read_text(encoding="utf-8")
    (copy / MANIFEST_FILE).write_text('{"target": "other", ' + text.lstrip()[1:], encoding="utf-8")
    with pytest.raises(CorruptArtifactError, match="'target' stands twice in one object"):
        open_artifact(copy)


@pytest.mark.parametrize("extra", [{}, {"brand_new": 1}])
def test_future_schema_version_is_an_error_of_its_own(copy, extra):
    values = {**read_manifest(copy), "schema_version": SCHEMA_VERSION + 1, **extra}
    save_manifest(copy, values)
    with pytest.raises(ManifestVersionError, match=rf"version {SCHEMA_VERSION + 1}.*upgrade"):
        open_artifact(copy)
    assert is_artifact(copy)


def test_an_artifact_of_the_first_version_is_a_softmax(copy, nest):
    """It has no such field, and one that has it is of no release."""
    values = {**read_manifest(copy), "schema_version": 1}
    save_manifest(copy, values)
    with pytest.raises(CorruptArtifactError, match="version 1 has missing or unknown fields: scor"):
        open_artifact(copy)
    del values["scores"]
    save_manifest(copy, values)
    manifest = open_artifact(copy).manifest
    assert (manifest.schema_version, manifest.scores) == (SCHEMA_VERSION, "softmax")
    # Releases that know softmax alone read version 1 alone.
    write_manifest(nest, manifest)
    assert read_manifest(nest)["schema_version"] == 2
    headless = [{**values["outputs"][0], "name": "embedding"}]
    assert Manifest.from_dict({**values, "outputs": headless}).scores is None


@pytest.mark.parametrize("scores", ["Softmax", "", 1, None, True, ["softmax"], {}])
def test_scores_that_are_none_of_the_three(copy, scores):
    save_manifest(copy, {**read_manifest(copy), "scores": scores})
    with pytest.raises(CorruptArtifactError, match=r"damaged .scores: expected one of softmax"):
        open_artifact(copy)


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, None, [1]])
def test_schema_version_that_never_was(copy, version):
    save_manifest(copy, {**read_manifest(copy), "schema_version": version})
    with pytest.raises(CorruptArtifactError):
        open_artifact(copy)


NASTY_NAMES = (
    "../model.onnx",
    "/etc/passwd",
    "a/b",
    "",
    ".",
    "..",
    "a\\b",
    "C:model.onnx",
    "a\0b",
    "x" * 300,
    "\ud800",
)


@pytest.mark.parametrize("name", NASTY_NAMES, ids=ascii)
@pytest.mark.parametrize("place", ["files", "payload", "both"])
def test_file_names_cannot_leave_the_folder(copy, name, place):
    (copy.parent / "model.onnx").write_bytes((copy / "model.onnx").read_bytes())
    values = read_manifest(copy)
    if place != "payload":
        values["files"][name] = values["files"]["model.onnx"]
    if place != "files":
        values["payload"] = name
    save_manifest(copy, values)
    with pytest.raises(CorruptArtifactError):
        open_artifact(copy)


@pytest.mark.parametrize("name", ["model.onnx", GOLDEN_FILE])
def test_manifest_must_list_what_is_read(copy, name):
    values = read_manifest(copy)
    del values["files"][name]
    save_manifest(copy, values)
    with pytest.raises(CorruptArtifactError, match=f"lists no {name}"):
        open_artifact(copy)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe{}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"{}",
        b'{"schema_version": 1}',
        b'{"schema_version": ' + b"9" * 5000 + b"}",
        b'{"schema_version": NaN}',
    ],
    ids=lambda data: f"{data[:20]!r}x{len(data)}",
)
def test_manifest_that_is_none(copy, data):
    (copy / MANIFEST_FILE).write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        open_artifact(copy)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert not is_artifact(copy)


def test_manifest_that_is_a_folder(copy):
    (copy / MANIFEST_FILE).unlink()
    (copy / MANIFEST_FILE).mkdir()
    with pytest.raises(ArtifactError):
        open_artifact(copy)
    assert not is_artifact(copy)


def test_manifest_that_is_a_pipe_is_not_waited_for(copy):
    (copy / MANIFEST_FILE).unlink()
    os.mkfifo(copy / MANIFEST_FILE)
    with pytest.raises(CorruptArtifactError, match="no plain file"):
        open_artifact(copy)
    assert not is_artifact(copy)


def test_manifest_of_endless_size_is_not_read(copy):
    with (copy / MANIFEST_FILE).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(CorruptArtifactError, match="larger than 16 MiB"):
        open_artifact(copy)
    assert not is_artifact(copy)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(NASTY_NAMES),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["name", "shape", "min", "max", "sha256"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def places_in(values, path=()):
    """The path of every value inside a JSON document."""
    yield path
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, inner in items:
        if isinstance(inner, (dict, list)):
            yield from places_in(inner, (*path, key))
        else:
            yield (*path, key)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_anywhere_in_a_manifest_is_taken_or_an_artifact_error(tiny_artifact, data):
    text = (tiny_artifact / MANIFEST_FILE).read_text(encoding="utf-8")
    values = json.loads(text)
    root = {"manifest": values}
    path = ("manifest", *data.draw(st.sampled_from(list(places_in(values)))))
    holder = root
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = data.draw(ANYTHING)
    try:
        manifest = Manifest.from_dict(json.loads(json.dumps(root["manifest"])))
    except ArtifactError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        # What is taken is whole: it survives being written.
        assert isinstance(manifest, Manifest)
        assert json.loads(json.dumps(manifest.to_dict()))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    name=st.sampled_from(["files", "payload", "inputs", "outputs", "batch", "preprocess"]),
)
def test_opening_a_folder_with_any_manifest_is_an_artifact_or_an_artifact_error(
    tiny_artifact, tmp_path, data, name
):
    folder = tmp_path / "fuzzed"
    if not folder.exists():
        shutil.copytree(tiny_artifact, folder)
    values = read_manifest(tiny_artifact)
    if name == "files" and data.draw(st.booleans()):
        entry = {
            "sha256": data.draw(ANYTHING),
            "size_bytes": data.draw(ANYTHING),
        }
        values["files"][data.draw(st.text(max_size=4) | st.sampled_from(NASTY_NAMES))] = entry
    else:
        values[name] = data.draw(ANYTHING)
    save_manifest(folder, values)
    with contextlib.suppress(ArtifactError):
        assert isinstance(open_artifact(folder), Artifact)


# ------------------------------------------------------------------ golden.npz


def test_pickles_in_golden_are_refused(copy):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(copy.parent / "exploded"),)

    np.savez(copy / GOLDEN_FILE, input=np.array([Bomb()], dtype=object))
    with pytest.raises(CorruptArtifactError, match="damaged"):
        described(copy).golden()
    assert not (copy.parent / "exploded").exists()


def test_golden_that_unpacks_to_more_than_it_is_is_refused(copy):
    artifact = open_artifact(copy)
    np.savez_compressed(copy / GOLDEN_FILE, **artifact.golden(), padding=np.zeros(10**7))
    with pytest.raises(CorruptArtifactError, match="compressed members"):
        described(copy).golden()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("outputs", []),
        ("inputs", []),
        *(("tolerance", value) for value in (0, -1, 1e9, float("inf"), float("nan"), None, "1")),
    ],
)
def test_manifest_under_which_anything_would_pass_is_refused(copy, field, value):
    values = read_manifest(copy)
    (values if field in values else values["verification"])[field] = value
    save_manifest(copy, values)
    with pytest.raises(CorruptArtifactError):
        open_artifact(copy)


@pytest.mark.parametrize("change", [{"max": 2**62}, {"static": "false"}, {"static": 1}])
def test_batch_profile_that_cannot_be_is_refused(copy, change):
    values = read_manifest(copy)
    values["batch"].update(change)
    save_manifest(copy, values)
    with pytest.raises(CorruptArtifactError, match="batch"):
        open_artifact(copy)


@pytest.mark.parametrize("path", ["", "x" * 5000])
def test_paths_that_name_nothing(path):
    with pytest.raises(ArtifactError):
        open_artifact(path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04N.", b"\x93NUMPY\x01\x00"])
def test_golden_that_is_no_archive(copy, data):
    (copy / GOLDEN_FILE).write_bytes(data)
    with pytest.raises(CorruptArtifactError, match="damaged"):
        described(copy).golden()


def test_golden_that_is_one_array(copy):
    with (copy / GOLDEN_FILE).open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(CorruptArtifactError, match="damaged"):
        described(copy).golden()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(start=st.integers(0, 400_000), damage=st.binary(min_size=1, max_size=40))
def test_golden_with_any_damage_reads_or_is_corrupt(tiny_artifact, tmp_path, start, damage):
    whole = (tiny_artifact / GOLDEN_FILE).read_bytes()
    # Both ends hold the structure; the middle is data.
    start = start % 400 if start % 2 else len(whole) - 1 - start % 900
    (tmp_path / GOLDEN_FILE).write_bytes(whole[:start] + damage + whole[start + len(damage) :])
    manifest = open_artifact(tiny_artifact).manifest
    artifact = Artifact(tmp_path, replace(manifest, files=describe_files(tmp_path)))
    with contextlib.suppress(CorruptArtifactError):
        assert artifact.golden()
