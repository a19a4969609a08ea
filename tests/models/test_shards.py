"""Weights in several files, and lists of them that are wrong."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoint_checks import refused, same
from pth_writer import write_pth
from safetensors.numpy import save_file

from levit.errors import CheckpointError
from levit.models.checkpoint import read_checkpoint

CASES = Path(__file__).parent.parent / "data" / "cases"
A, B = {"a.weight": np.arange(3.0)}, {"b.weight": np.arange(4.0), "b.bias": np.arange(2.0)}
SAFETENSORS = "model-{:05}-of-00002.safetensors"
PYTORCH = "pytorch_model-{:05}-of-00002.bin"


def write_index(folder, shards, name="model.safetensors.index.json"):
    """({file: its tensors}) → the list's path; as `save_pretrained` writes it."""
    mapping = {key: file for file, tensors in shards.items() for key in tensors}
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": mapping}))
    return folder / name


@pytest.fixture
def sharded(tmp_path):
    save_file(A, tmp_path / SAFETENSORS.format(1))
    save_file(B, tmp_path / SAFETENSORS.format(2))
    return write_index(tmp_path, {SAFETENSORS.format(1): A, SAFETENSORS.format(2): B})


def test_shards_are_one_checkpoint(sharded, tmp_path):
    for path in (tmp_path, sharded):
        checkpoint = read_checkpoint(path)
        same(checkpoint.tensors, {**A, **B})
        files = checkpoint.origin.pop("files")
        assert checkpoint.origin == {
            "file": "model.safetensors.index.json",
            "sha256": hashlib.sha256(sharded.read_bytes()).hexdigest(),
            "size_bytes": sharded.stat().st_size,
        }
        assert [file["name"] for file in files] == [SAFETENSORS.format(i) for i in (1, 2)]
        for file in files:
            data = (tmp_path / file["name"]).read_bytes()
            assert file["sha256"] == hashlib.sha256(data).hexdigest()
            assert file["size_bytes"] == len(data)


def test_shards_of_pytorch(tmp_path):
    write_pth(tmp_path / PYTORCH.format(1), A)
    write_pth(tmp_path / PYTORCH.format(2), B)
    write_index(
        tmp_path, {PYTORCH.format(1): A, PYTORCH.format(2): B}, "pytorch_model.bin.index.json"
    )
    checkpoint = read_checkpoint(tmp_path)
    same(checkpoint.tensors, {**A, **B})
    assert checkpoint.origin["file"] == "pytorch_model.bin.index.json"


def test_one_file_comes_before_shards(sharded, tmp_path):
    save_file({"c": np.ones(1)}, tmp_path / "model.safetensors")
    assert list(read_checkpoint(tmp_path).tensors) == ["c"]


def test_shards_may_be_links_as_in_the_hubs_cache(sharded, tmp_path):
    (tmp_path / "blobs").mkdir()
    for i in (1, 2):
        path = tmp_path / SAFETENSORS.format(i)
        shutil.move(path, tmp_path / "blobs" / str(i))
        path.symlink_to(Path("blobs") / str(i))
    same(read_checkpoint(tmp_path).tensors, {**A, **B})


def test_the_configs_beside_the_list_are_read(sharded, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"img_size": 96}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    checkpoint = read_checkpoint(sharded)
    assert checkpoint.hints.image_size == (96, 96)
    assert checkpoint.hints.preprocessor_config == {}


@pytest.mark.peers
def test_what_transformers_saves(tmp_path):
    from transformers import LevitConfig, LevitForImageClassification

    config = LevitConfig(
        image_size=96, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4], key_dim=[16] * 3,
        depths=[1, 1, 1], num_labels=5,
    )  # fmt: skip
    model = LevitForImageClassification(config)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    checkpoint = read_checkpoint(tmp_path)
    assert len(checkpoint.origin["files"]) > 2
    same(checkpoint.tensors, {name: t.numpy() for name, t in model.state_dict().items()})


def test_a_missing_shard(sharded, tmp_path):
    (tmp_path / SAFETENSORS.format(2)).unlink()
    message = refused(sharded, "1 of 2 files are missing: model-00002-of-00002.safetensors")
    assert "download them too" in message


def test_a_damaged_shard_names_itself(sharded, tmp_path):
    path = tmp_path / SAFETENSORS.format(2)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"00002-of-00002.* cannot be read as"):
        read_checkpoint(sharded)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({**A, "b.bias": 0}, {"b.weight": 0}),  # in the other file
        (A, {"b.weight": 0}),  # one more than is said
        (A, {**B, "c": 0}),  # one less
    ],
)
def test_other_tensors_than_the_list_says(sharded, tmp_path, first, second):
    write_index(tmp_path, {SAFETENSORS.format(1): first, SAFETENSORS.format(2): second})
    refused(sharded, "holds other tensors than this list says: (b.bias|c)")


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "a\\b", "C:x", ".", "..", "", "a\0b",
     "a\nb", "\x1b[31m", 3, None, ["a"], {"a": 1}],
)  # fmt: skip
def test_names_that_are_no_plain_names(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": name}}))
    refused(index, "is not the plain name of a file beside it")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{}", "without a 'weight_map'"),
        ('{"architectures": ["LevitModel"]}', "without a 'weight_map', so not a list of shards"),
        ('{"weight_map": {}}', "without a 'weight_map'"),
        ('{"weight_map": []}', "without a 'weight_map'"),
        ('{"weight_map": "a"}', "without a 'weight_map'"),
        ("{", "cannot be read as JSON"),
        ('{"weight_map": ' + "[" * 100_000, "cannot be read as JSON"),
        ('  \n{"weight_map": {}}', "without a 'weight_map'"),
    ],
)
def test_lists_that_are_none(tmp_path, text, match):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    refused(index, match)


def test_a_list_that_names_itself(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    write_index(tmp_path, {index.name: A})
    refused(index, r"not a \.safetensors file")
