"""A mirror of the hub that lies: nothing is written elsewhere or read wrong, and all of it ends."""

import json
import subprocess
import sys
import time

import hub_server
import numpy as np
import pytest
from hub_server import COMMIT, environment_of, serve
from safetensors.numpy import save

REPOSITORY = "timm/levit_128s.fb_dist_in1k"
WEIGHTS = save({"weight": np.arange(6, dtype=np.float32)})
OTHERS = save({"weight": np.arange(6, dtype=np.float32)[::-1].copy()})

# Downloads as `levit export` does, with little patience and a gigabyte, and says what it took.
CLIENT = """
import resource, sys, time
import levit.models.hub as hub
import levit.models.hub_transfer as transfer
from levit.errors import CheckpointError
import huggingface_hub, huggingface_hub.utils, huggingface_hub.errors
transfer.PATIENCE_S = 2.0
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)) if sys.platform == "linux" else None
resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.monotonic()
try:
    print("read", hub.download(sys.argv[1])[0])
except CheckpointError as error:
    print(error)
print(round(time.monotonic() - began, 2))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.fixture
def hub():
    files = {"model.safetensors": WEIGHTS, "config.json": b'{"num_classes": 10}'}
    with serve(REPOSITORY, files) as server:
        yield server


@pytest.fixture
def fetch(hub, tmp_path):
    """(seconds, MiB, what it says) of a download into an empty cache in a folder of its own."""

    def run(name=REPOSITORY, **environment):
        result = subprocess.run(
            [sys.executable, "-c", CLIENT, name],
            env={
                **environment_of(hub, tmp_path / "a/b/c/d/cache"),
                "OPENBLAS_NUM_THREADS": "1",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        said, seconds, mib = result.stdout.splitlines()
        return float(seconds), int(mib), said

    return run


def cached(folder):
    """Names of all files under a folder, without the cache's own locks."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_the_hub_lists_is_what_is_read(hub, fetch, tmp_path):
    _, _, said = fetch()
    assert said.startswith("read ")
    root = f"a/b/c/d/cache/hub/models--{REPOSITORY.replace('/', '--')}"
    entry = hub_server.listed("model.safetensors", WEIGHTS)
    pointer = tmp_path / root / "snapshots" / COMMIT / "model.safetensors"
    assert pointer.read_bytes() == WEIGHTS
    assert pointer.resolve() == (tmp_path / root / "blobs" / entry["lfs"]["sha256"]).resolve()
    assert (tmp_path / root / "refs" / "main").read_text() == COMMIT
    assert not list(tmp_path.rglob("*.incomplete"))


def test_the_librarys_own_cache_is_found_and_finds_ours(hub, fetch, tmp_path):
    code = (
        "import sys; from huggingface_hub import snapshot_download\n"
        f"print(snapshot_download({REPOSITORY!r}, local_files_only=len(sys.argv) > 1))"
    )
    environment = environment_of(hub, tmp_path / "a/b/c/d/cache")
    assert fetch()[2].startswith("read ")
    ours = subprocess.run(
        [sys.executable, "-c", code, "offline"], env=environment, capture_output=True, text=True
    )
    assert ours.returncode == 0, ours.stderr
    hub.requests.clear()
    theirs = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert theirs.returncode == 0, theirs.stderr
    assert fetch()[2] == f"read {theirs.stdout.strip()}"
    assert not any(command == "GET" and "/resolve/" in path for command, path in hub.requests)


@pytest.mark.parametrize("etag", ['"../../../../../../outside"', '"/{}/outside"', '"a/../../b"'])
def test_an_etag_is_no_path(hub, fetch, tmp_path, etag):
    def answer(handler):
        handler.begin(
            ETag=etag.format(str(tmp_path).strip("/")),
            X_Linked_ETag=etag.format(str(tmp_path).strip("/")),
            Content_Length=str(len(WEIGHTS)),
        )
        if handler.command == "GET":
            handler.wfile.write(WEIGHTS)

    hub.hostile["/model.safetensors"] = answer
    assert fetch()[2].startswith("read ")
    assert [name for name in cached(tmp_path) if not name.startswith("a")] == []
    assert not [name for name in cached(tmp_path) if "outside" in name]


@pytest.mark.parametrize(
    "lie",
    [
        {"sha": "../../../../../outside"},
        {"sha": "main"},
        {"sha": COMMIT.upper()},
        {"sha": 5},
        {"siblings": 5},
        {"siblings": [{"rfilename": "model.safetensors", "size": -1}]},
        {"siblings": [{"rfilename": "model.safetensors", "size": "9"}]},
        {"siblings": [{"rfilename": "model.safetensors", "lfs": {"sha256": "../../x"}}]},
        {"siblings": [{"rfilename": "model.safetensors", "blobId": "../../x"}]},
        {"siblings": [["model.safetensors"]]},
    ],
)
def test_a_listing_that_is_none(hub, fetch, tmp_path, lie):
    def answer(handler):
        data = json.dumps({"sha": COMMIT, "siblings": [], **lie}).encode()
        handler.begin(Content_Length=str(len(data)))
        handler.wfile.write(data)

    hub.hostile[REPOSITORY] = answer
    assert "answers with no list of files; check HF_ENDPOINT" in fetch()[2]
    assert not [name for name in cached(tmp_path) if "outside" in name]


def test_a_file_that_is_not_there_leaves_nothing_elsewhere(hub, fetch, tmp_path):
    def answer(handler):
        commit = "../../../../../../outside"
        handler.begin(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit, Content_Length="0")

    hub.hostile["/config.json"] = answer
    assert "cannot be fetched and is not cached (the server answers 404)" in fetch()[2]
    assert not [name for name in cached(tmp_path) if "outside" in name]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_other_bytes_than_the_listed_hash(hub, fetch, tmp_path, name):
    truth = hub_server.listed(name, hub.files[name])
    hub.lies[name] = {key: truth[key] for key in ("blobId", "lfs") if key in truth}
    hub.files[name] = OTHERS if name == "model.safetensors" else b'{"num_classes": 11}'
    said = fetch()[2]
    assert f"{name} has another " in said
    assert "than the hub lists" in said
    assert "check HF_ENDPOINT" in said
    assert not list(tmp_path.rglob(name))
    assert not list(tmp_path.rglob("*.incomplete"))


def test_another_length_than_the_listed(hub, fetch, tmp_path):
    hub.lies["model.safetensors"] = {"size": len(WEIGHTS) + 1}
    assert f"has {len(WEIGHTS)} bytes, and the hub lists {len(WEIGHTS) + 1}" in fetch()[2]
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_cached_file_that_was_changed_is_fetched_again(hub, fetch, tmp_path):
    assert fetch()[2].startswith("read ")
    (pointer,) = tmp_path.rglob("model.safetensors")
    pointer.resolve().write_bytes(OTHERS)
    assert fetch()[2].startswith("read ")
    assert pointer.read_bytes() == WEIGHTS


@pytest.mark.parametrize("size", [None, 1 << 40])
def test_endless_bodies_end(hub, fetch, tmp_path, size):
    hub.hostile["/config.json"] = hub_server.endless
    if size is None:
        hub.lies["config.json"] = {"size": None}
    seconds, mib, said = fetch()
    most = len(hub.files["config.json"]) if size else 16 << 20
    assert f"it sends more than {most:,} bytes" in said
    assert (seconds < 60, mib < 300) == (True, True)
    assert not list(tmp_path.rglob("*.incomplete"))


@pytest.mark.parametrize("size", [200 << 20, 1 << 60])
def test_a_listed_length_that_cannot_be(hub, fetch, size):
    hub.lies["config.json"] = {"size": size}
    assert f"config.json has {size:,} bytes (at most 16,777,216)" in fetch()[2]


@pytest.mark.parametrize(
    ("where", "how", "match"),
    [
        (REPOSITORY, "endless", "it sends more than 8,388,608 bytes"),
        (REPOSITORY, "trickling", "have come in the last 2 seconds"),
        (REPOSITORY, "trickling_headers", "have come in the last 2 seconds"),
        (REPOSITORY, "endless_redirect", "leads to more than 8 addresses"),
        (REPOSITORY, "endless_error", "the server answers 403"),
        (REPOSITORY, "compressed", "compressed bytes, which were not asked for"),
        ("/model.safetensors", "endless", f"it sends more than {len(WEIGHTS)} bytes"),
        ("/model.safetensors", "trickling", ""),
        ("/model.safetensors", "trickling_headers", "have come in the last 2 seconds"),
        ("/model.safetensors", "endless_redirect", "leads to more than 8 addresses"),
        ("/model.safetensors", "endless_error", "the server answers 403"),
        ("/model.safetensors", "compressed", "compressed bytes, which were not asked for"),
    ],
)
def test_everything_ends(hub, fetch, where, how, match):
    hub.hostile[where] = getattr(hub_server, how)
    seconds, mib, said = fetch()
    assert said.startswith(f"hf:{REPOSITORY}: cannot be fetched and is not cached (")
    assert match in said
    assert seconds < 60  # 2 where this was written
    assert mib < 300


def test_pages_are_not_asked_for(hub, fetch):
    def answer(handler):
        files = [hub_server.listed(name, data) for name, data in hub.files.items()]
        data = json.dumps({"sha": COMMIT, "siblings": files}).encode()
        url = f"http://{handler.headers['Host']}{handler.path}"
        handler.begin(Link=f'<{url}>; rel="next"', Content_Length=str(len(data)))
        handler.wfile.write(data)

    hub.hostile[REPOSITORY] = answer
    assert fetch()[2].startswith("read ")
    assert sum(REPOSITORY in path and "/api/" in path for _, path in hub.requests) == 1


def test_the_token_stays_with_the_hub(hub, fetch):
    seen = []

    def elsewhere(handler):
        seen.append((handler.headers["Host"], handler.headers["Authorization"]))
        handler.begin(Content_Length=str(len(WEIGHTS)))
        handler.wfile.write(WEIGHTS)

    def answer(handler):
        seen.append((handler.headers["Host"], handler.headers["Authorization"]))
        port = handler.headers["Host"].rpartition(":")[2]
        handler.begin(302, Location=f"http://localhost:{port}/elsewhere", Content_Length="0")

    hub.hostile = {"/model.safetensors": answer, "/elsewhere": elsewhere}
    said = fetch(HF_TOKEN="hf_secret")[2]
    assert said.startswith("read "), said
    assert [token for _, token in seen] == ["Bearer hf_secret", None]
    assert seen[1][0].startswith("localhost")


def test_a_transfer_that_breaks_off_goes_on(hub, fetch):
    ranges = []

    def answer(handler):
        start = int((handler.headers["Range"] or "bytes=0-")[6:-1])
        ranges.append(start)
        rest = WEIGHTS[start:]
        handler.begin(206 if start else 200, Content_Length=str(len(rest)))
        handler.wfile.write(rest[:60])

    hub.hostile["/model.safetensors"] = answer
    _, _, said = fetch()
    assert said.startswith("read "), said
    assert ranges == list(range(0, len(WEIGHTS), 60))


@pytest.mark.parametrize("revision", ["../../outside", "a/../b", "a//b", "/a"])
def test_a_revision_is_no_path(fetch, tmp_path, revision):
    assert "not the name of a revision" in fetch(f"{REPOSITORY}@{revision}")[2]
    assert not [name for name in cached(tmp_path) if "outside" in name]


def test_one_that_hangs_does_not_hold_the_end_of_the_process(hub, fetch):
    hub.hostile["/model.safetensors"] = hub_server.trickling_headers
    began = time.monotonic()
    fetch()
    assert time.monotonic() - began < 60
