"""The real download code against a small server that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from safetensors.numpy import save

from levit.models.random_weights import flatten

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "timm/levit_128s.fb_dist_in1k"


class Hub(BaseHTTPRequestHandler):
    """One repository: its listing, and its files by revision."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        self.server.requests.append((self.command, self.path))
        path = self.path.split("?")[0]
        files = self.server.files
        listing = f"/api/models/{REPOSITORY}"
        if path in (listing, *(f"{listing}/revision/{name}" for name in ("main", COMMIT))):
            siblings = [{"rfilename": name} for name in files]
            data = json.dumps(
                {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings}
            ).encode()
            return self.send(200, data, {"Content-Type": "application/json"}, body)
        if path in (f"{listing}/tree/{name}" for name in ("main", COMMIT)):
            tree = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for name, data in files.items()
            ]
            data = json.dumps(tree).encode()
            return self.send(200, data, {"Content-Type": "application/json"}, body)
        for name, data in files.items():
            if path in (f"/{REPOSITORY}/resolve/{r}/{name}" for r in ("main", COMMIT)):
                headers = {
                    "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                    "X-Repo-Commit": COMMIT,
                    "Accept-Ranges": "bytes",
                }
                return self.send(200, data, headers, body)
        return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def send(self, status, data, headers, body):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(make_small):
    """A server with a small network's weights under a published name."""
    model = make_small("tiny")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    server.files = {
        "model.safetensors": save(flatten(model, model.family.keymaps[0])),
        "config.json": json.dumps(
            {"img_size": 96, "label_names": [f"class {i}" for i in range(10)]}
        ).encode(),
        "pytorch_model.bin": b"not asked for",
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(hub, tmp_path):
    """(arguments) → a real `levit export` whose hub is the server and whose cache is empty."""

    def export(*arguments, **environment):
        kept = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
        return subprocess.run(
            [sys.executable, "-m", "levit", "export", *arguments],
            env={
                **kept,
                "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
                "HF_HOME": str(tmp_path / "cache"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                **environment,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return export


def test_weights_come_from_the_hub_once_and_then_from_the_cache(hub, run, tmp_path):
    first = run("--checkpoint", f"hf:{REPOSITORY}", "--output", "first")
    assert first.returncode == 0, first.stderr
    assert all(line.startswith("assumed: ") for line in first.stderr.splitlines()), first.stderr
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    assert manifest["source"]["repository"] == REPOSITORY
    assert manifest["source"]["revision"] == COMMIT
    assert manifest["source"]["file"] == "model.safetensors"
    assert (tmp_path / "first" / "labels.txt").read_text().startswith("class 0\nclass 1\n")
    assert not any("pytorch_model.bin" in path for _, path in hub.requests)

    count = len(hub.requests)
    offline = run("--checkpoint", f"hf:{REPOSITORY}", "--output", "second", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert len(hub.requests) == count
    again = json.loads((tmp_path / "second" / "manifest.json").read_text())
    assert again["files"] == manifest["files"]
    assert again["source"] == manifest["source"]


def test_a_revision_may_be_named(hub, run, tmp_path):
    result = run("--checkpoint", f"hf:{REPOSITORY}@{COMMIT}", "--output", "out")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out/manifest.json").read_text())["source"]["revision"] == COMMIT


def test_a_models_name_alone_means_its_repository(hub, run, tmp_path):
    # The server has another network under this name: it is fetched, and it is refused.
    result = run("--model", "LeViT-128S")
    assert result.returncode == 1
    assert "is not a levit_128s" in result.stderr
    assert any(path.endswith("/model.safetensors") for _, path in hub.requests)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:timm/no_such_model", "cannot be fetched and is not cached"),
        ("hf:timm/levit_128s.fb_dist_in1k@no_such_revision", "cannot be fetched and is not cached"),
        ("hf:a/b/c", "not a repository name"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(run, tmp_path, name, message):
    result = run("--checkpoint", name)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {name}")
    assert message in line


def test_a_repository_without_safetensors_says_so(hub, run):
    del hub.files["model.safetensors"]
    result = run("--checkpoint", f"hf:{REPOSITORY}")
    assert result.returncode == 1
    assert "has no model.safetensors" in result.stderr


def test_offline_and_not_cached_is_one_line(run):
    result = run("--model", "levit_256", HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "timm/levit_256.fb_dist_in1k: cannot be fetched and is not cached" in line
    assert "--checkpoint PATH" in line
