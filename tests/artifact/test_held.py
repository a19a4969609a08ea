"""Files of an artifact: what is hashed is what is read, from wherever the folder keeps it."""

import contextlib
import errno
import io
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from levit.artifact import (
    GOLDEN_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    describe_files,
    held,
    is_artifact,
    open_artifact,
)
from levit.errors import CorruptArtifactError, LevitError, ResourceError
from levit.runtime.predictor import Predictor


@pytest.fixture
def copy(tiny_artifact, tmp_path):
    """A copy of an artifact, to be changed."""
    return Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))


def values_of(folder):
    return json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))


def save(folder, values):
    (folder / MANIFEST_FILE).write_text(json.dumps(values), encoding="utf-8")


# ------------------------------------------------------------------ one reading


def test_what_is_held_does_not_change_with_the_file(copy):
    artifact = open_artifact(copy)
    path = copy / "model.onnx"
    before = path.read_bytes()
    with artifact.hold("model.onnx") as file:
        (copy / LABELS_FILE).replace(path)
        assert file.read() == bytes(file.mapped()) == before
        assert file.stream.read(16) == before[:16]
        if file.path is not None:
            assert Path(file.path).read_bytes() == before
    with pytest.raises(CorruptArtifactError, match=r"model\.onnx"):
        artifact.hold("model.onnx")


def test_a_file_written_over_in_place_is_another(copy):
    artifact = open_artifact(copy)
    path = copy / "model.onnx"
    before = path.read_bytes()
    with artifact.hold("model.onnx") as file:
        with path.open("r+b") as stream:
            stream.write(b"\0" * 64)
        assert file.read() == before
    with pytest.raises(CorruptArtifactError, match="have changed"):
        artifact.hold("model.onnx")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memfd is Linux's")
def test_nobody_can_write_to_what_is_held(copy):
    with open_artifact(copy).hold("model.onnx") as file:
        if file.path is None:
            pytest.skip("no /proc")
        with pytest.raises(PermissionError), open(file.path, "r+b", buffering=0) as stream:
            stream.write(b"x")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memfd is Linux's")
def test_no_room_for_a_map_is_a_shortage(copy, monkeypatch):
    def none(*_, **__):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(held.mmap, "mmap", none)
    with pytest.raises(ResourceError, match="no more memory"):
        Predictor(copy, threads=1)


def test_without_memory_files_it_is_the_same(copy, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    expected = (copy / "model.onnx").read_bytes()
    with open_artifact(copy).hold("model.onnx") as file:
        assert file.path is None
        assert file.read() == bytes(file.mapped()) == file.stream.read() == expected
    with Predictor(copy, threads=1) as predictor:
        assert predictor.check().passed


def test_a_name_that_points_to_another_model_meanwhile(copy, tmp_path):
    """A thread swaps the model for one of the same size; whoever opens has the right one, or none.

    The other's bias is changed, so an answer of it would show.
    """
    good = (copy / "model.onnx").read_bytes()
    with Predictor(copy, threads=1) as predictor:
        expected = predictor.check()
    assert expected.passed
    other = bytearray(good)
    middle = len(good) * 3 // 4
    other[middle : middle + 4096] = np.full(1024, 3, np.float32).tobytes()
    sides = [tmp_path / "good", tmp_path / "bad"]
    stop = threading.Event()

    def swap():
        for turn in range(10**6):
            if stop.is_set():
                break
            sides[turn % 2].write_bytes(good if turn % 2 else bytes(other))
            sides[turn % 2].replace(copy / "model.onnx")
            time.sleep(0.0005)

    thread = threading.Thread(target=swap)
    thread.start()
    opened = refused = 0
    try:
        for _ in range(60):
            try:
                with Predictor(copy, threads=1) as predictor:
                    assert predictor.check().max_abs_error == expected.max_abs_error
                opened += 1
            except CorruptArtifactError as error:
                assert "model.onnx" in str(error)  # noqa: PT017
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert opened + refused == 60
    assert refused  # the attack did happen


# ------------------------------------------------------------------ links


def hub_cache(source, root):
    """The layout of Hugging Face's cache: names are links to blobs."""
    folder = root / "snapshots" / "0123abc"
    (root / "blobs").mkdir(parents=True)
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, root / "blobs" / f"{number:040x}")
        (folder / path.name).symlink_to(Path("../../blobs") / f"{number:040x}")
    return folder


def mounted_volume(source, root):
    """The layout of a volume of Kubernetes: names are links through a folder that is a link."""
    shutil.copytree(source, root / "..2026_12_01")
    (root / "..data").symlink_to("..2026_12_01")
    for path in sorted(source.iterdir()):
        (root / path.name).symlink_to(Path("..data") / path.name)
    return root


def linked_folder(source, root):
    root.mkdir()
    (root / "name").symlink_to(source)
    return root / "name"


@pytest.mark.parametrize("layout", [hub_cache, mounted_volume, linked_folder])
def test_links_to_files_are_followed(tiny_artifact, tmp_path, layout):
    folder = layout(tiny_artifact, tmp_path / "root")
    assert is_artifact(folder)
    with Predictor(folder, threads=1) as predictor:
        assert predictor.check().passed
        assert predictor.labels == tuple("0123456789")


@pytest.mark.parametrize("target", ["/dev/zero", "nowhere", "model.onnx", "."])
def test_links_to_what_is_no_file(copy, target):
    (copy / "model.onnx").unlink()
    (copy / "model.onnx").symlink_to(target)
    with pytest.raises(CorruptArtifactError, match=r"model\.onnx: (cannot be read|is missing)"):
        open_artifact(copy)


def test_a_link_to_changed_contents_is_found(copy, tmp_path):
    data = bytearray((copy / GOLDEN_FILE).read_bytes())
    data[1000] ^= 1
    (tmp_path / "elsewhere").write_bytes(data)
    (copy / GOLDEN_FILE).unlink()
    (copy / GOLDEN_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptArtifactError, match="have changed"):
        Predictor(copy)


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize("name", [GOLDEN_FILE, LABELS_FILE, "model.onnx"])
def test_a_file_of_endless_size_is_not_read(copy, name):
    """The manifest may say that it has that size: zeros cost its writer nothing."""
    with (copy / name).open("r+b") as file:
        file.truncate(2**36)
    values = values_of(copy)
    values["files"][name]["size_bytes"] = 2**36
    save(copy, values)
    with pytest.raises(CorruptArtifactError, match=r"it is larger than [0-9]+ MiB"):
        open_artifact(copy)


def test_a_file_that_grows_while_it_is_read(copy):
    artifact = open_artifact(copy)
    entry = artifact.manifest.files[LABELS_FILE]

    class Growing(io.BytesIO):
        """A file that never ends."""

        given = 0

        def read(self, size):
            self.given += size
            return b"x" * size

    for compare in (held._compare, held._whole):
        file = Growing()
        with pytest.raises(CorruptArtifactError, match="have changed"):
            compare(copy / LABELS_FILE, file, entry)
        assert file.given == entry["size_bytes"] + 1


def test_a_file_that_grows_while_it_is_held(copy, monkeypatch):
    def grow():
        with (copy / "model.onnx").open("ab") as file:
            file.write(b"x")

    artifact = open_artifact(copy)
    copied = held._copy
    monkeypatch.setattr(held, "_copy", lambda *a: (copied(*a), grow())[0])
    with pytest.raises(CorruptArtifactError, match="have changed"):
        artifact.hold("model.onnx")


# ------------------------------------------------------------------ git


def pointer(data):
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 9\n" % len(data)


@pytest.mark.parametrize("name", ["model.onnx", GOLDEN_FILE, LABELS_FILE, MANIFEST_FILE])
def test_a_pointer_of_git_lfs_is_named(copy, name):
    (copy / name).write_bytes(pointer((copy / name).read_bytes()))
    with pytest.raises(CorruptArtifactError, match=r"pointer of Git LFS.*run git lfs pull"):
        Predictor(copy)


def test_converted_line_ends_are_named(copy):
    path = copy / LABELS_FILE
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(CorruptArtifactError, match=r"line ends.*gitattributes"):
        open_artifact(copy)


def test_git_is_told_to_change_nothing(copy):
    assert (copy / ".gitattributes").read_text(encoding="utf-8") == "* -text\n"
    assert ".gitattributes" not in open_artifact(copy).manifest.files
    assert ".gitattributes" not in describe_files(copy)
    (copy / ".gitattributes").unlink()  # as `cp artifact/* elsewhere` leaves it
    with Predictor(copy, threads=1) as predictor:
        assert predictor.check().passed


# ------------------------------------------------------------------ manifests


def many_keys():
    return '{"schema_version": 1, ' + ", ".join(f'"k{i}": 0' for i in range(60_000)) + ', "k0": 1}'


def test_a_name_that_stands_twice_among_many_costs_no_square(copy):
    (copy / MANIFEST_FILE).write_text(many_keys(), encoding="utf-8")
    begin = time.perf_counter()
    with pytest.raises(CorruptArtifactError, match="'k0' stands twice in one object"):
        open_artifact(copy)
    assert time.perf_counter() - begin < 10  # it took minutes


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("requirements", "cpu_features"), 5),
        (("requirements", "cpu_features"), [5]),
        (("requirements", "cpu_features"), "avx2"),
        (("requirements", "backend_version"), 10**400),
        (("requirements", "backend_version"), ">=" + "9" * 5000),
        (("requirements", "backend_version"), "newest"),
        (("requirements", "backend_version"), ">="),
        (("requirements", "backend_version"), "==1.20"),
        (("requirements", "gpu_architecture"), ["sm_90"]),
        (("verification", "accuracy"), 5),
        (("verification", "accuracy"), {"verdict": 5}),
        (("verification", "accuracy"), {}),
        (("verification", "cpu_class"), ["x"]),
        (("verification", "tolerance"), 10**400),
        (("preprocess", "image_size"), [10**400, 96]),
        (("preprocess", "image_size"), [20_000, 20_000]),
    ],
    ids=str,
)
def test_values_of_wrong_types_are_damage(copy, path, value):
    values = values_of(copy)
    holder = values
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    text = json.dumps(values) if not isinstance(value, int) or value < 10**300 else None
    with contextlib.suppress(ValueError):
        text = json.dumps(values)
    (copy / MANIFEST_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(CorruptArtifactError) as caught:
        Predictor(copy)
    assert len(str(caught.value)) < 1200


def test_a_version_of_long_digits_is_no_crash(copy):
    values = values_of(copy)
    values["requirements"]["backend_version"] = ">=" + "9" * 150 + ".1"
    save(copy, values)
    with contextlib.suppress(LevitError):
        Predictor(copy, threads=1).close()


@pytest.mark.parametrize("profile", [{"opt": 4}, {"max": 65_536}, {"min": 2, "opt": 8}])
def test_an_edited_batch_profile_is_found(copy, profile):
    values = values_of(copy)
    values["batch"].update(profile)
    save(copy, values)
    with pytest.raises(CorruptArtifactError, match="batch sizes that it states"):
        Predictor(copy)


# ------------------------------------------------------------------ golden.npz


def test_a_damaged_picture_of_its_own_is_no_fault_of_the_caller(copy):
    with np.load(copy / GOLDEN_FILE) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["image/0"] = np.frombuffer(b"no picture", np.uint8)
    np.savez(copy / GOLDEN_FILE, **arrays)
    save(copy, {**values_of(copy), "files": describe_files(copy)})
    with Predictor(copy, threads=1) as predictor, pytest.raises(CorruptArtifactError) as caught:
        predictor.check()
    assert "holds a picture that cannot be read" in str(caught.value)


def test_golden_inputs_of_another_shape_are_damage(copy):
    with np.load(copy / GOLDEN_FILE) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["input"] = arrays["input"][:, :, :90]
    np.savez(copy / GOLDEN_FILE, **arrays)
    save(copy, {**values_of(copy), "files": describe_files(copy)})
    with Predictor(copy, threads=1) as predictor, pytest.raises(CorruptArtifactError) as caught:
        predictor.check()
    assert "golden.npz" in str(caught.value)


def test_large_files_are_hashed_beside_copying_and_without_a_thread_too(tmp_path, monkeypatch):
    data = np.random.default_rng(0).bytes(held._LARGE_BYTES + 12_345)
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    entry = describe_files(tmp_path)["model.bin"]
    with held.hold(path, entry) as file:
        assert file.read() == data

    def none(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    with held.hold(path, entry) as file:
        assert file.read() == data
    path.write_bytes(data[:-1] + b"?")
    if data[-1:] != b"?":
        with pytest.raises(CorruptArtifactError, match="have changed"):
            held.hold(path, entry)
