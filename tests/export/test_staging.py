import ctypes
import errno
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from levit.artifact import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    open_artifact,
    sha256_of,
)
from levit.errors import ArtifactError
from levit.export import ExportOptions, export
from levit.export.staging import staged_folder
from levit.runtime.predictor import Predictor

HOST = "".join(c for c in platform.node() if c.isalnum())

# ------------------------------------------------------------------ helpers


def read_manifest(folder):
    return json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))


def save_manifest(folder, values):
    (folder / MANIFEST_FILE).write_text(json.dumps(values), encoding="utf-8")


def snapshot(folder):
    """Every file below a folder, with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def nest(tmp_path):
    """An empty folder, in which leftovers would show."""
    folder = tmp_path / "nest"
    folder.mkdir()
    return folder


# ------------------------------------------------------------------ staged_folder


def test_folder_appears_only_when_the_block_ends(nest):
    with staged_folder(nest / "new", force=False) as folder:
        (folder / "file").write_text("hello")
        assert not (nest / "new").exists()
        assert folder.parent == nest
    assert [p.name for p in nest.iterdir()] == ["new"]
    assert (nest / "new" / "file").read_text() == "hello"


def test_folder_has_the_permissions_that_mkdir_gives(nest):
    (nest / "plain").mkdir()
    with staged_folder(nest / "new", force=False):
        pass
    assert (nest / "new").stat().st_mode == (nest / "plain").stat().st_mode


def write_and_raise(folder, error):
    (folder / "model.onnx").write_bytes(b"half")
    raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_is_left_after_an_exception(nest, error):
    with pytest.raises(error), staged_folder(nest / "a" / "b" / "new", force=False) as folder:
        write_and_raise(folder, error)
    assert list(nest.iterdir()) == []


def test_an_interruption_that_was_swallowed_comes_before_the_swap(nest, monkeypatch):
    monkeypatch.setattr("levit.interruption.RECEIVED", [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt), staged_folder(nest / "artifact", force=False) as folder:
        (folder / "file").write_text("whole")
    assert list(nest.iterdir()) == []


def test_parents_that_were_there_stay(nest):
    (nest / "a").mkdir()
    with (
        pytest.raises(RuntimeError),
        staged_folder(nest / "a" / "b" / "new", force=False),
    ):
        raise RuntimeError
    assert [p.name for p in nest.iterdir()] == ["a"]
    assert list((nest / "a").iterdir()) == []


def test_parents_are_made(nest):
    with staged_folder(nest / "a" / "b" / "new", force=False) as folder:
        (folder / "file").write_text("hello")
    assert (nest / "a" / "b" / "new" / "file").read_text() == "hello"


def test_relative_destination_survives_a_change_of_folder(nest, monkeypatch):
    (nest / "elsewhere").mkdir()
    monkeypatch.chdir(nest)
    with staged_folder(Path("new"), force=False):
        os.chdir(nest / "elsewhere")
    assert (nest / "new").is_dir()


def existing(nest, kind, tiny_artifact):
    path = nest / "there"
    if kind == "artifact":
        shutil.copytree(tiny_artifact, path)
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "folder of photos":
        path.mkdir()
        (path / "holiday.jpg").write_bytes(b"dear")
    elif kind == "folder with a foreign manifest":
        path.mkdir()
        (path / MANIFEST_FILE).write_text('{"name": "my web app", "icons": []}')
    elif kind == "file":
        path.write_bytes(b"dear")
    elif kind == "link to an artifact":
        shutil.copytree(tiny_artifact, nest / "target")
        path.symlink_to(nest / "target")
    elif kind == "dangling link":
        path.symlink_to(nest / "nowhere")
    return path


KINDS = (
    "artifact",
    "empty folder",
    "folder of photos",
    "folder with a foreign manifest",
    "file",
    "link to an artifact",
    "dangling link",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("force", [False, True])
def test_what_exists_is_replaced_only_by_force_and_only_if_an_artifact(
    nest, kind, force, tiny_artifact
):
    path = existing(nest, kind, tiny_artifact)
    before = snapshot(nest), sorted(nest.iterdir()), path.is_symlink()
    if force and kind == "artifact":
        with staged_folder(path, force=True) as folder:
            (folder / "new").write_text("new")
            assert snapshot(nest / "there") == snapshot(tiny_artifact)
        assert snapshot(nest) == {"there/new": b"new"}
        return
    words = "exists and is not an artifact" if force else "already exists; pass --force"
    with (
        pytest.raises(ArtifactError, match=words),
        staged_folder(path, force=force),
    ):
        pytest.fail("the work began")
    assert (snapshot(nest), sorted(nest.iterdir()), path.is_symlink()) == before


def test_old_artifact_stays_when_the_new_one_fails(nest, tiny_artifact):
    path = existing(nest, "artifact", tiny_artifact)
    with pytest.raises(RuntimeError), staged_folder(path, force=True) as folder:
        write_and_raise(folder, RuntimeError)
    assert snapshot(path) == snapshot(tiny_artifact)
    assert list(nest.iterdir()) == [path]


def test_destination_that_appears_meanwhile_is_not_replaced(nest, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "theirs").write_text("theirs")
    with (
        pytest.raises(ArtifactError, match="already exists"),
        staged_folder(nest / "new", force=False),
    ):
        shutil.copytree(theirs, nest / "new")
    assert snapshot(nest) == {"new/theirs": b"theirs"}


def test_swap_without_renameat2_keeps_one_whole(nest, tiny_artifact, monkeypatch):
    # The same names of any other system: two renames instead of an exchange.
    monkeypatch.setattr(sys, "platform", "plan9")
    path = existing(nest, "artifact", tiny_artifact)
    with staged_folder(path, force=True) as folder:
        (folder / "new").write_text("new")
    assert snapshot(nest) == {"there/new": b"new"}


def test_swap_without_renameat2_puts_the_old_one_back(nest, tiny_artifact, monkeypatch):
    monkeypatch.setattr(sys, "platform", "plan9")
    path = existing(nest, "artifact", tiny_artifact)
    rename = Path.rename

    def failing(self, target):
        if self.name.startswith(".there.") and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with (
        pytest.raises(ArtifactError, match="Input/output error"),
        staged_folder(path, force=True),
    ):
        pass
    assert snapshot(path) == snapshot(tiny_artifact)


def test_parent_that_is_a_file(nest):
    (nest / "file").write_text("")
    with (
        pytest.raises(ArtifactError, match=r"cannot be written.*Not a directory"),
        staged_folder(nest / "file" / "new", force=False),
    ):
        pytest.fail("the work began")


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(nest):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead = nest / f".new.{HOST}.{process.pid}-abc"
    alive = nest / f".new.{HOST}.{os.getpid()}-abc"
    retired = nest / f".new.{HOST}.{process.pid}-abc.old"
    others = nest / f".other.{HOST}.{process.pid}-abc"
    elsewhere = nest / f".new.another.{process.pid}-abc"  # of a machine that shares the disk
    for folder in (dead, alive, retired, others, elsewhere):
        folder.mkdir()
        (folder / "file").write_text("x")
    with staged_folder(nest / "new", force=False):
        assert not dead.exists()
    assert sorted(nest.iterdir()) == sorted([nest / "new", alive, retired, others, elsewhere])


@pytest.mark.parametrize("name", ["a[b]c", "a*c", "a?c", "[!x]", "with space", "ünï", ".hidden"])
def test_odd_names_of_destinations(nest, name):
    for _ in range(2):
        with staged_folder(nest / name, force=False) as folder:
            (folder / "file").write_text("x")
        assert [p.name for p in nest.iterdir()] == [name]
        shutil.rmtree(nest / name)


# ------------------------------------------------------------------ a real export, killed

EXPORT = (sys.executable, "-m", "levit", "export", "--model", "levit_digits")


def stop_export(destination, number, *, force=False, tries=8):
    """Start a real export, and signal it once it has written its payload to the side."""
    command = [*EXPORT, "--output", str(destination), *(["--force"] if force else [])]
    for _ in range(tries):
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A shell starts what it runs in the background with SIGINT ignored: pytest, say.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            while process.poll() is None:
                if any(destination.parent.glob(f".{destination.name}.*-*/model.onnx")):
                    process.send_signal(number)
                    break
                time.sleep(0.0005)
            stdout, stderr = process.communicate(timeout=60)
        if process.returncode != 0:
            return process.returncode, stdout.decode(), stderr.decode()
        if not force:  # it was done before the signal came: once more
            shutil.rmtree(destination)
    pytest.fail(f"{tries} exports ended before signal {number} reached them")


def put_old_artifact(tiny_artifact, destination):
    """One that differs from what an export writes there."""
    shutil.copytree(tiny_artifact, destination)
    save_manifest(destination, {**read_manifest(destination), "variant": "old"})
    return snapshot(destination)


def assert_old_or_new(destination, before):
    # New, when the signal came after the swap.
    assert snapshot(destination) == before or open_artifact(destination).manifest.variant != "old"


@pytest.mark.parametrize("old", [False, True], ids=["absent", "replacing"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_stopped_export_leaves_nothing(nest, tiny_artifact, number, status, old):
    destination = nest / "artifact"
    before = put_old_artifact(tiny_artifact, destination) if old else {}
    returncode, stdout, stderr = stop_export(destination, number, force=old)
    assert returncode == status, stderr
    assert stdout == ""
    assert stderr == ("error: interrupted\n" if number == signal.SIGINT else "")
    assert [p.name for p in nest.iterdir()] == (["artifact"] if old else [])
    if old:
        assert_old_or_new(destination, before)


@pytest.mark.parametrize("old", [False, True], ids=["absent", "replacing"])
def test_killed_export_leaves_the_destination_alone_and_the_next_one_cleans(
    nest, tiny_artifact, old
):
    destination = nest / "artifact"
    before = put_old_artifact(tiny_artifact, destination) if old else {}
    returncode, _, _ = stop_export(destination, signal.SIGKILL, force=old)
    assert returncode == -signal.SIGKILL
    assert destination.exists() == old
    leftovers = [p for p in nest.iterdir() if p != destination]
    assert [p.name.split(".")[1] for p in leftovers] == ["artifact"]
    if old:
        assert_old_or_new(destination, before)
    export(ExportOptions(model="levit_digits", output=destination, force=old))
    assert [p.name for p in nest.iterdir()] == ["artifact"]
    assert open_artifact(destination).manifest.variant == "levit_digits"


# ------------------------------------------------------------------ a full disk


@pytest.fixture
def small_disk(tmp_path):
    """(size) → a file system of so many bytes."""
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = []

    def make(size_bytes):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        arguments = (b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size_bytes}".encode())
        if libc.mount(*arguments) != 0:
            pytest.skip(f"cannot mount a file system: {os.strerror(ctypes.get_errno())}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        libc.umount2(os.fsencode(folder), 2)


def total_size(folder):
    return sum(p.stat().st_size for p in folder.iterdir())


@pytest.mark.parametrize("short_of", ["payload", "golden", "manifest"])
def test_full_disk_is_one_line_and_leaves_nothing(small_disk, tiny_artifact, short_of):
    payload = (tiny_artifact / "model.onnx").stat().st_size
    golden = (tiny_artifact / GOLDEN_FILE).stat().st_size
    # tmpfs counts whole pages; two of them are the labels and the manifest.
    size = {
        "payload": payload // 2,
        "golden": payload + golden // 2,
        "manifest": (payload // 4096 + 1 + golden // 4096 + 1 + 1) * 4096,
    }[short_of]
    disk = small_disk(size)
    command = [*EXPORT, "--output", str(disk / "artifact")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"error: {disk / 'artifact'}: cannot be written (No space left on device); free some "
        f"space or choose another --output\n"
    )
    assert list(disk.iterdir()) == []


def test_replacing_on_a_disk_with_room_for_one_keeps_the_old_one(small_disk, tiny_artifact):
    disk = small_disk(total_size(tiny_artifact) * 3 // 2)
    shutil.copytree(tiny_artifact, disk / "artifact")
    command = [*EXPORT, "--force", "--output", str(disk / "artifact")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "No space left on device" in result.stderr
    assert snapshot(disk / "artifact") == snapshot(tiny_artifact)
    assert [p.name for p in disk.iterdir()] == ["artifact"]


@pytest.mark.parametrize("limit", [200_000, 600_000])
def test_file_size_limit_is_one_line_and_leaves_nothing(nest, limit):
    def lower():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [*EXPORT, "--output", str(nest / "artifact")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=lower)
    assert result.returncode == 1
    assert result.stderr == (
        f"error: {nest / 'artifact'}: cannot be written (File too large); choose another --output\n"
    )
    assert list(nest.iterdir()) == []


# ------------------------------------------------------------------ export --force


def test_force_replaces_an_artifact_of_a_newer_release(nest, tiny_artifact):
    destination = Path(shutil.copytree(tiny_artifact, nest / "artifact"))
    save_manifest(destination, {**read_manifest(destination), "schema_version": 99})
    export(ExportOptions(model="levit_digits", output=destination, force=True))
    assert open_artifact(destination).manifest.schema_version == SCHEMA_VERSION


def test_there_is_a_whole_artifact_at_every_moment_of_a_replacement(nest, tiny_artifact):
    destination = nest / "artifact"
    put_old_artifact(tiny_artifact, destination)
    command = [*EXPORT, "--force", "--output", str(destination)]
    variants = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            variants.append(open_artifact(destination, verify_hashes=False).manifest.variant)
    variants.append(open_artifact(destination).manifest.variant)
    assert process.returncode == 0
    assert variants[0] == "old"
    assert variants[-1] == "levit_digits"
    assert variants == sorted(variants, key=["old", "levit_digits"].index)


def test_predictor_of_the_replaced_artifact_keeps_answering(nest, tiny_artifact):
    destination = Path(shutil.copytree(tiny_artifact, nest / "artifact"))
    batch = np.random.default_rng(0).standard_normal((2, 3, 96, 96)).astype(np.float32)
    with Predictor(destination) as predictor:
        before = predictor.forward(batch)["logits"]
        export(ExportOptions(model="levit_digits", output=destination, force=True))
        assert np.array_equal(predictor.forward(batch)["logits"], before)


def test_two_exports_of_one_checkpoint_are_the_same_bytes(tmp_path, tiny_artifact):
    again = export(ExportOptions(model="levit_digits", output=tmp_path / "again"))
    assert sha256_of(again.payload) == sha256_of(tiny_artifact / "model.onnx")


RACE = """
import sys, time
from pathlib import Path
from levit.errors import ArtifactError
from levit.export.staging import staged_folder

start, folder, fails, force = float(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
time.sleep(max(0.0, start - time.time()))
for _ in range(30):
    try:
        with staged_folder(folder, force=bool(force)) as staging:
            (staging / "manifest.json").write_text(
                '{"schema_version": 1, "family": "levit", "files": {}}'
            )
            if fails:
                raise KeyError
        print("written")
        break
    except KeyError:
        pass
    except ArtifactError as error:
        print(error)
        break
"""


def race(folders, fails, force=False):
    """Write artifacts from processes that start at one moment; the lines that they print."""
    start = str(time.time() + 1.5)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, start, str(folder), str(int(fail)), str(int(force))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder, fail in zip(folders, fails, strict=True)
    ]
    found = [process.communicate(timeout=60) for process in processes]
    assert all(not error for _, error in found)
    return [line.strip() for line, _ in found]


def test_exports_at_once_under_parents_that_are_missing(tmp_path):
    for turn in range(3):
        # A hundred, so that processes meet in them: of four, one run in many fails.
        parent = tmp_path.joinpath(f"{turn}", *["d"] * 100)
        lines = race([parent / f"{number}" for number in range(8)], [False] * 8)
        assert lines == ["written"] * 8
        assert len(list(parent.iterdir())) == 8


def test_exports_that_fail_take_no_folder_from_under_others(tmp_path):
    parent = tmp_path.joinpath(*["d"] * 100)
    fails = [number % 2 == 0 for number in range(10)]
    lines = race([parent / f"{number}" for number in range(10)], fails)
    assert lines == ["" if fail else "written" for fail in fails]
    assert sorted(path.name for path in parent.iterdir()) == ["1", "3", "5", "7", "9"]


@pytest.mark.parametrize("force", [False, True])
def test_exports_at_once_to_one_place(tmp_path, force):
    lines = race([tmp_path / "a" / "artifact"] * 6, [False] * 6, force)
    if force:
        assert lines == ["written"] * 6
    else:
        assert lines.count("written") == 1
        assert sum("already exists; pass --force" in line for line in lines) == 5
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["artifact"]


@pytest.mark.parametrize("kind", ["a file", "a link to nowhere"])
def test_a_parent_that_cannot_be(tmp_path, kind):
    parent = tmp_path / "parent"
    parent.write_text("") if kind == "a file" else parent.symlink_to("nowhere")
    with (
        pytest.raises(ArtifactError, match=r"cannot be written \((Not a directory|File exists)\)"),
        staged_folder(parent / "artifact", force=False),
    ):
        raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


@pytest.mark.parametrize("name", ["artifact", "a/../artifact"])
def test_current_folder_that_is_gone_is_named(tmp_path, monkeypatch, name):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with (
        pytest.raises(ArtifactError, match="the current folder has been deleted"),
        staged_folder(Path(name), force=False),
    ):
        raise AssertionError
    os.chdir(tmp_path)
    with staged_folder(tmp_path / "artifact", force=False):
        pass


def test_output_by_way_of_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact = export(ExportOptions(model="levit_digits", output="missing/../artifact"))
    assert artifact.path == Path("artifact")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
