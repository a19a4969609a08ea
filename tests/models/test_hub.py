"""The real download code against a small server that answers as the hub does."""

import json
import subprocess
import sys

import pytest
from hub_server import COMMIT, environment_of, serve
from pth_writer import write_pth
from safetensors.numpy import load, save

from levit.models.random_weights import flatten

REPOSITORY = "timm/levit_128s.fb_dist_in1k"


@pytest.fixture
def hub(make_small):
    """A server with a small network's weights under a published name."""
    model = make_small("tiny")
    files = {
        "model.safetensors": save(flatten(model, model.family.keymaps[0])),
        "config.json": json.dumps(
            {"img_size": 96, "label_names": [f"class {i}" for i in range(10)]}
        ).encode(),
        "pytorch_model.bin": b"not asked for",
        "tf_model.h5": b"not asked for",
    }
    with serve(REPOSITORY, files) as server:
        yield server


@pytest.fixture
def run(hub, tmp_path):
    """(arguments) → a real `levit export` whose hub is the server and whose cache is empty."""

    def export(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "levit", "export", *arguments],
            env={**environment_of(hub, tmp_path / "cache"), **environment},
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


def refused(result, name):
    """The one line that a command says instead of writing anything."""
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {name}")
    return line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:timm/no_such_model", "no such repository, or it is private: check the name, or log"),
        (f"hf:{REPOSITORY}@no_such_revision", "the repository has no such revision"),
        ("hf:a/b/c", "not a repository name"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(run, tmp_path, name, message):
    assert message in refused(run("--checkpoint", name), name)


def test_what_is_not_for_everybody_is_one_line(hub, run):
    hub.gated = True
    name = f"hf:{REPOSITORY}"
    assert "its owner asks for consent" in refused(run("--checkpoint", name), name)


def test_a_hub_that_is_down_is_one_line_or_the_cache(hub, run, tmp_path):
    name = f"hf:{REPOSITORY}"
    hub.down = True
    assert "cannot be fetched and is not cached" in refused(run("--checkpoint", name), name)
    hub.down = False
    assert run("--checkpoint", name, "--output", "first").returncode == 0
    hub.down = True
    assert run("--checkpoint", name, "--output", "second").returncode == 0
    first, second = (tmp_path / folder / "manifest.json" for folder in ("first", "second"))
    assert json.loads(first.read_text())["source"] == json.loads(second.read_text())["source"]


def test_a_repository_without_weights_says_so(hub, run):
    del hub.files["model.safetensors"], hub.files["pytorch_model.bin"]
    name = f"hf:{REPOSITORY}"
    line = refused(run("--checkpoint", name), name)
    assert "has no model.safetensors or pytorch_model.bin" in line
    assert "--checkpoint PATH" in line


def fetched(hub):
    """Names of the files whose contents were asked for."""
    paths = [path for command, path in hub.requests if command == "GET" and "/resolve/" in path]
    return sorted({path.rpartition("/")[2] for path in paths})


@pytest.fixture
def sharded(hub):
    """The same weights in two files of each form."""
    tensors = load(hub.files.pop("model.safetensors"))
    names = sorted(tensors)
    halves = [{name: tensors[name] for name in names[i::2]} for i in range(2)]

    def put(start, end, content):
        files = [f"{start}-{i + 1:05}-of-00002{end}" for i in range(2)]
        for file, half in zip(files, halves, strict=True):
            hub.files[file] = content(half)
        mapping = {name: file for file, half in zip(files, halves, strict=True) for name in half}
        hub.files[f"{start}{end}.index.json"] = json.dumps({"weight_map": mapping}).encode()
        return files

    return put


def pickled(tensors, folder):
    return write_pth(folder / "pytorch_model.bin", tensors).read_bytes()


def test_shards_come_if_there_is_no_single_file(hub, run, tmp_path, sharded):
    files = sharded("model", ".safetensors", save)
    sharded("pytorch_model", ".bin", lambda half: b"not asked for")
    del hub.files["pytorch_model.bin"]
    hub.files["preprocessor_config.json"] = b"{}"
    result = run("--checkpoint", f"hf:{REPOSITORY}", "--output", "first")
    assert result.returncode == 0, result.stderr
    index = "model.safetensors.index.json"
    assert fetched(hub) == sorted(["config.json", "preprocessor_config.json", index, *files])
    source = json.loads((tmp_path / "first" / "manifest.json").read_text())["source"]
    assert source["file"] == index
    assert [file["name"] for file in source["files"]] == files

    offline = run("--checkpoint", f"hf:{REPOSITORY}", "--output", "second", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    again = json.loads((tmp_path / "second" / "manifest.json").read_text())["source"]
    assert again == source


def test_pytorchs_file_comes_if_there_is_no_other(hub, run, tmp_path):
    tensors = load(hub.files.pop("model.safetensors"))
    hub.files["pytorch_model.bin"] = pickled(tensors, tmp_path)
    for output, environment in (("first", {}), ("second", {"HF_HUB_OFFLINE": "1"})):
        result = run("--checkpoint", f"hf:{REPOSITORY}", "--output", output, **environment)
        assert result.returncode == 0, result.stderr
        source = json.loads((tmp_path / output / "manifest.json").read_text())["source"]
        assert source["file"] == "pytorch_model.bin"
    assert fetched(hub) == ["config.json", "pytorch_model.bin"]


def test_pytorchs_shards_come_last(hub, run, tmp_path, sharded):
    files = sharded("pytorch_model", ".bin", lambda half: pickled(half, tmp_path))
    del hub.files["pytorch_model.bin"]
    result = run("--checkpoint", f"hf:{REPOSITORY}", "--output", "out")
    assert result.returncode == 0, result.stderr
    assert fetched(hub) == sorted(["config.json", "pytorch_model.bin.index.json", *files])


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "gone.safetensors", "*"])
def test_a_list_of_shards_that_names_other_files(hub, run, name):
    del hub.files["model.safetensors"], hub.files["pytorch_model.bin"]
    index = json.dumps({"weight_map": {"a": name}}).encode()
    hub.files["model.safetensors.index.json"] = index
    result = run("--checkpoint", f"hf:{REPOSITORY}")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "not the plain name of a file" in line or f"names {name}, which is not there" in line
    assert fetched(hub) == ["config.json", "model.safetensors.index.json"]


def test_shards_that_are_half_cached_are_not_cached(hub, run, tmp_path, sharded):
    files = sharded("model", ".safetensors", save)
    del hub.files["pytorch_model.bin"]
    assert run("--checkpoint", f"hf:{REPOSITORY}", "--output", "first").returncode == 0
    (link,) = (tmp_path / "cache").rglob(files[1])
    link.unlink()
    name = f"hf:{REPOSITORY}"
    line = refused(run("--checkpoint", name, HF_HUB_OFFLINE="1"), name)
    assert "cannot be fetched and is not cached" in line


def test_offline_and_not_cached_is_one_line(run):
    result = run("--model", "levit_256", HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "timm/levit_256.fb_dist_in1k: cannot be fetched and is not cached" in line
    assert "--checkpoint PATH" in line
