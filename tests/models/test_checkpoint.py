import hashlib
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from pth_writer import write_pth
from safetensors.numpy import save_file

from levit.errors import CheckpointError, ConfigError
from levit.export import ExportOptions
from levit.export.sources import load_source
from levit.models.checkpoint import StrictWeights, read_checkpoint
from levit.models.levit.build import relative_index
from levit.models.ops import NumpyOps
from levit.models.random_weights import flatten

QKV = "stages.0.blocks.0.attn.qkv.linear.weight"


@pytest.fixture(scope="module")
def tensors(make_small):
    model = make_small("tiny")
    return flatten(model, model.family.keymaps[0])


@pytest.fixture
def write(tmp_path):
    """(tensors) → the path of a file that holds them."""

    def make(tensors, name="model.safetensors"):
        path = tmp_path / name
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path)
        return path

    return make


def load(path, **options):
    return load_source(ExportOptions(checkpoint=path, image_size=96, **options))


def message_of(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------------------- what can be read


def test_a_file_is_read_whole_with_its_hash_and_size(write, tensors):
    path = write(tensors)
    checkpoint = read_checkpoint(path)
    assert set(checkpoint.tensors) == set(tensors)
    for key, value in tensors.items():
        assert checkpoint.tensors[key].dtype == np.float32
        assert np.array_equal(checkpoint.tensors[key], value), key
    assert checkpoint.shapes[QKV] == (128, 32)
    assert checkpoint.origin == {
        "file": "model.safetensors",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size_bytes": path.stat().st_size,
    }


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_widened_exactly(write, tensors, kind, draw):
    halves = {key: value.astype(kind) for key, value in tensors.items()}
    checkpoint = read_checkpoint(write(halves))
    for key, value in halves.items():
        assert checkpoint.tensors[key].dtype == np.float32
        assert np.array_equal(checkpoint.tensors[key], value.astype(np.float32)), key
    assert any(np.any(halves[key].astype(np.float32) != tensors[key]) for key in tensors)
    # Not only read: the model is that of the rounded weights.
    half = load(write(halves)).model
    widened = {key: value.astype(np.float32) for key, value in halves.items()}
    single = load(write(widened, "single.safetensors")).model
    x = draw(half.config)[1]
    found, expected = (m.forward(NumpyOps(), x)["logits"] for m in (half, single))
    assert np.array_equal(found, expected)
    assert np.isfinite(found).all()


def test_bfloat16_needs_no_library_that_knows_it(write):
    path = write({"a": np.array([1.5, -2.0], ml_dtypes.bfloat16)})
    code = f"""
        import sys
        sys.modules["ml_dtypes"] = None
        from pathlib import Path
        from levit.models.checkpoint import read_checkpoint
        assert read_checkpoint(Path({str(path)!r})).tensors["a"].tolist() == [1.5, -2.0]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_float64_is_kept(write, tensors):
    doubles = {key: value.astype(np.float64) + 1e-12 for key, value in tensors.items()}
    source = load(write(doubles))
    conv = source.model.params.stem[0]
    assert conv.weight.dtype == np.float64
    assert np.array_equal(conv.weight, doubles["stem.conv1.linear.weight"])


def test_what_older_timm_stored_beside_the_weights_is_ignored(write, tensors):
    extra = {
        "stem.conv1.bn.num_batches_tracked": np.array(7, np.int64),
        "stages.0.blocks.0.attn.attention_bias_idxs": relative_index((6, 6), 1),
    }
    assert load(write({**tensors, **extra})).variant == "levit_custom"


@pytest.mark.parametrize(
    ("keys", "said"),
    [(("model", "model_ema"), ["weights: the averaged ones (model_ema), as timm takes them"]),
     (("model",), [])],
)  # fmt: skip
def test_the_averaged_weights_are_taken_and_said(tmp_path, tensors, keys, said):
    saved = {key: {n: v * (key == "model_ema") for n, v in tensors.items()} for key in keys}
    path = tmp_path / "checkpoint.pth"
    write_pth(path, saved)
    source = load(path)
    assert [text for text in source.assumed if "weights" in text] == said
    assert source.origin["key"] == keys[-1]
    norm = source.model.params.head.norm_before
    assert np.array_equal(norm.weight, saved[keys[-1]]["head.bn.weight"])


def test_averaged_models_count_what_they_average(tmp_path, tensors):
    """``torch.optim.swa_utils.AveragedModel``: the network is its `module`."""
    saved = {f"module.{name}": value for name, value in tensors.items()}
    path = write_pth(tmp_path / "swa.pth", {"n_averaged": np.array(3, np.int64), **saved})
    assert load(path).origin["format"] == "timm"


# ---------------------------------------------------------------------------- folders


def test_a_folder_is_read_through_its_model_safetensors(write, tensors, tmp_path):
    write(tensors)
    write({"other": np.zeros(3, np.float32)}, "optimizer.safetensors")
    assert read_checkpoint(tmp_path).origin["file"] == "model.safetensors"


def test_a_folder_with_one_file_of_another_name_is_read(write, tensors, tmp_path):
    write(tensors, "epoch_300.safetensors")
    assert read_checkpoint(tmp_path).origin["file"] == "epoch_300.safetensors"


def test_a_folder_with_several_files_asks_which(write, tensors, tmp_path):
    write(tensors, "b.safetensors")
    write(tensors, "a.safetensors")
    with pytest.raises(CheckpointError, match="name the file") as caught:
        read_checkpoint(tmp_path)
    assert "several: a.safetensors, b.safetensors" in message_of(caught)


@pytest.mark.parametrize("name", ["checkpoint.pth", "last.pth.tar", "model.pt", "a.bin", "b.ckpt"])
def test_a_folder_with_one_pytorch_file_is_read(tensors, tmp_path, name):
    write_pth(tmp_path / name, {"model": tensors})
    (tmp_path / "log.txt").write_text("epoch 1")
    assert read_checkpoint(tmp_path).origin["file"] == name
    write_pth(tmp_path / "other.pth", {"model": tensors})
    with pytest.raises(CheckpointError, match=r"found several: .*other\.pth.*; name the file"):
        read_checkpoint(tmp_path)


def test_safetensors_come_before_pytorchs_files(write, tensors, tmp_path):
    write_pth(tmp_path / "pytorch_model.bin", tensors)
    write_pth(tmp_path / "training_args.bin", {"lr": 1.0})
    assert read_checkpoint(tmp_path).origin["file"] == "pytorch_model.bin"
    write(tensors)
    assert read_checkpoint(tmp_path).origin["file"] == "model.safetensors"


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="found none; name the file"):
        read_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"no weights itself but a folder \(model\.safet"):
        read_checkpoint(tmp_path)


def test_a_config_beside_the_file_is_read(write, tensors, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"img_size": 96, "architecture": "my_levit"}))
    checkpoint = read_checkpoint(write(tensors))
    assert checkpoint.hints.image_size == (96, 96)
    source = load_source(ExportOptions(checkpoint=tmp_path))
    assert source.model.config.image_size == (96, 96)
    assert source.variant == "my_levit"


def test_a_preprocessor_config_beside_the_file_is_kept_as_it_is(write, tensors, tmp_path):
    path = write(tensors)
    assert read_checkpoint(path).hints.preprocessor_config == {}
    values = {"size": {"shortest_edge": 224}, "image_mean": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    assert read_checkpoint(path).hints.preprocessor_config == values
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: holds no JSON object"):
        read_checkpoint(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", '{"img_size": "big"}'])
def test_a_damaged_config_beside_the_file_is_an_error_of_its_own(write, tensors, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_checkpoint(write(tensors))


# ---------------------------------------------------------------------------- what cannot be read


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("timm/levit_128.fb_dist_in1k", "if it is a repository of the hub: hf:timm/levit_128.fb_"),
        ("facebook/levit-256", "if it is a repository of the hub: hf:facebook/levit-256"),
        ("hf-hub:facebook/levit-256", "a repository of the hub is hf:OWNER/NAME"),
        ("HF:facebook/levit-256", "a repository of the hub is hf:OWNER/NAME"),
        ("https://dl.fbaipublicfiles.com/LeViT/LeViT-128S-96703c44.pth", "download it, and"),
        ("runs/last.pth", ""),
        ("runs/model.safetensors", ""),
        ("../runs", ""),
        ("/a/b", ""),
        ("a/b/c", ""),
    ],
)
def test_a_name_of_the_hub_is_no_path(said, advice, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="no such file") as caught:
        read_checkpoint(Path(said))
    text = message_of(caught).split("no such file")[1]
    assert text.startswith(f"; {advice}") if advice else text == ""


def test_a_folder_that_is_closed(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    with pytest.raises(CheckpointError, match="closed: cannot be read") as caught:
        read_checkpoint(folder)
    folder.chmod(0o700)
    assert "Permission denied" in message_of(caught)


def test_a_name_that_is_no_text_is_escaped_in_the_manifest(write, tensors):
    path = write(tensors)
    odd = path.with_name(os.fsdecode(b"b\xff.safetensors"))
    try:
        path.rename(odd)
    except OSError:
        pytest.skip("this file system has names of UTF-8 only")
    assert read_checkpoint(odd).origin["file"] == "b\\xff.safetensors"


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    header = {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(2))
    with pytest.raises(CheckpointError, match="a is F8_E4M3, which is not supported; save it as"):
        read_checkpoint(path)


def test_an_empty_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(CheckpointError, match="the file is empty; download or save it again"):
        read_checkpoint(path)


@pytest.mark.parametrize("keep", [5, 9, 11, 200, 20_000, -1])
def test_a_truncated_file(write, tensors, keep):
    path = write(tensors)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"truncated|not a \.safetensors file") as caught:
        read_checkpoint(path)
    assert str(path) in message_of(caught)


@pytest.mark.parametrize(
    "start", [b"\x89PNG\r\n\x1a\n" + bytes(50), b"<!DOCTYPE html><html></html>", b"version https:"]
)
def test_a_file_of_another_kind(tmp_path, start):
    path = tmp_path / "model.safetensors"
    path.write_bytes(start)
    with pytest.raises(CheckpointError, match="safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("start", "match"),
    [
        (b"\x80\x02}q\x00.", "a pickle, but not one of torch.save"),
        (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}q\x00.", "a pickle, but not one"),
        (b"PK\x03\x04" + bytes(30), "damaged or truncated"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS's pointer .* git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file of Keras or TensorFlow"),
        (b"pickle".ljust(257, b"\0") + b"ustar\x0000" + bytes(248), "a tar file.* convert it"),
        (
            b"a".ljust(257, b"\0") + b"ustar\x0000",
            r"a tar file.* \(it holds a: pass a",
        ),
        (b"some text", "nor a PyTorch checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "model"])
def test_contents_decide_what_a_file_is(tmp_path, name, start, match):
    path = tmp_path / name
    path.write_bytes(start)
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(path)
    message_of(caught)


@pytest.mark.parametrize("name", ["model.pth", "model.bin", "model.safetensors", "model"])
def test_a_suffix_means_nothing(write, tensors, tmp_path, name):
    assert set(read_checkpoint(write(tensors, name)).tensors) == set(tensors)
    assert set(read_checkpoint(write_pth(tmp_path / name, tensors)).tensors) == set(tensors)


def test_a_pth_is_the_same_model_as_its_safetensors(write, tensors, tmp_path, draw):
    wrapped = {f"module.{name}": value for name, value in tensors.items()}
    beside = {"epoch": 3, "optimizer": {"state": {}, "lr": 0.1}}
    source = load(write_pth(tmp_path / "last.pth", {"state_dict": wrapped, **beside}))
    assert source.origin["key"] == "state_dict"
    assert source.origin["format"] == "timm"
    expected = load(write(tensors)).model
    x = draw(expected.config)[1]
    assert np.array_equal(
        source.model.forward(NumpyOps(), x)["logits"], expected.forward(NumpyOps(), x)["logits"]
    )


@pytest.mark.parametrize("length", [0x80, 0x7B, 0x7B20, 0x7B0A, 0x280, 0x4B50])
def test_a_header_whose_length_looks_like_another_format(tmp_path, length):
    # 0x80 begins a pickle, 0x7b is a brace, with white space before it too, and PK a zip file.
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'.ljust(length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + np.float32(3).tobytes())
    assert read_checkpoint(path).tensors["a"] == np.float32([3])


@pytest.mark.parametrize("name", ["a\nb", "", "\x1b[31m", "x" * 600])
def test_names_that_are_none(write, tensors, name):
    with pytest.raises(CheckpointError, match="is no name for a tensor") as caught:
        read_checkpoint(write({name: tensors[QKV]}))
    assert message_of(caught).isprintable()


def test_a_file_without_tensors(write):
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_checkpoint(write({}))


def test_a_header_with_overlapping_tensors_is_refused(tmp_path):
    header = json.dumps(
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        }
    ).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    with pytest.raises(CheckpointError, match=r"read as .safetensors .* may be truncated"):
        read_checkpoint(path)


def test_a_header_that_claims_gigabytes_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b'{"a": {}}')
    with pytest.raises(CheckpointError, match=r"read as .safetensors .* may be truncated"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "values", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [np.nan, np.inf]]
)
def test_numbers_that_are_not_finite_are_named(write, tensors, values):
    broken = tensors[QKV].copy()
    broken.flat[: len(values)] = values
    with pytest.raises(CheckpointError, match="NaN or infinite values") as caught:
        read_checkpoint(write({**tensors, QKV: broken}))
    assert QKV in message_of(caught)


def test_large_finite_numbers_are_no_error(write, tensors):
    large = np.full(1000, np.finfo(np.float32).max, np.float32)
    assert np.array_equal(read_checkpoint(write({"large": large})).tensors["large"], large)


# ---------------------------------------------------------------------------- foreign or incomplete


def test_a_resnet_is_told_to_be_foreign(write):
    resnet = {
        "conv1.weight": np.zeros((64, 3, 7, 7), np.float32),
        "layer1.0.conv1.weight": np.zeros((64, 64, 3, 3), np.float32),
        "fc.weight": np.zeros((1000, 512), np.float32),
    }
    with pytest.raises(CheckpointError, match="not a checkpoint that this release knows") as caught:
        load(write(resnet))
    message = message_of(caught)
    assert "LeViT of mmpretrain/original/timm/transformers" in message
    assert message.endswith("it looks like a ResNet")


def test_tensors_that_look_like_nothing_known_are_named(write):
    with pytest.raises(CheckpointError, match=r"its tensors are called some\.thing, …$"):
        load(write({"some.thing": np.zeros(3, np.float32)}))


def test_a_missing_tensor_is_named(write, tensors):
    without = {key: value for key, value in tensors.items() if key != "head.linear.bias"}
    with pytest.raises(CheckpointError, match=r"1 missing: head\.linear\.bias") as caught:
        load(write(without))
    message_of(caught)


def test_an_unused_tensor_is_named(write, tensors):
    extra = {"stages.0.blocks.0.attn.extra": np.zeros(3, np.float32)}
    with pytest.raises(CheckpointError, match=r"1 not used by this model: stages\.0.*extra"):
        load(write({**tensors, **extra}))


def test_a_tensor_of_another_shape_is_named_with_both(write, tensors):
    other = {"head_dist.linear.weight": np.zeros((10, 63), np.float32)}
    with pytest.raises(CheckpointError, match=r"head_dist.*is 10x63, should be 10x64"):
        load(write({**tensors, **other}))


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.bool_])
def test_weights_that_are_no_floats_are_named(write, tensors, kind):
    key = "stem.conv2.linear.weight"
    with pytest.raises(CheckpointError, match=r"stem\.conv2.*(int64|int8|bool)"):
        load(write({**tensors, key: tensors[key].astype(kind)}))


def test_everything_wrong_is_listed_in_one_line(write, tensors):
    wrong = {key: value for key, value in tensors.items() if not key.startswith("head_dist.bn")}
    wrong["head.linear.bias"] = np.zeros(3, np.float32)
    wrong["extra"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError) as caught:
        load(write(wrong))
    message = message_of(caught)
    assert "4 missing: head_dist.bn.weight" in message
    assert "1 of another shape: head.linear.bias (is 3, should be 10)" in message
    assert "1 not used by this model: extra" in message


def test_a_long_list_is_cut(write, tensors):
    extra = {f"extra.{i:02}": np.zeros(1, np.float32) for i in range(20)}
    with pytest.raises(CheckpointError, match=r"20 not used.*extra\.11 and 8 more"):
        load(write({**tensors, **extra}))


def test_a_negative_variance_is_named(write, tensors):
    key = "stages.1.downsample.mlp.ln1.bn.running_var"
    broken = tensors[key].copy()
    broken[3] = -1e-3
    with pytest.raises(CheckpointError, match="negative variances") as caught:
        load(write({**tensors, key: broken}))
    assert key in message_of(caught)


def test_the_twins_tensors_under_the_other_name_load_too(make_small, write, draw):
    # The conv twin's weights are the linear one's with two axes more.
    linear = make_small("tiny")
    keymap = next(k for k in linear.family.keymaps if k.conv)
    tensors = flatten(linear, keymap)
    assert tensors[QKV].shape == (128, 32, 1, 1)
    found = load(write(tensors)).model
    assert found.config == replace(linear.config, conv=True)
    x = draw(linear.config)[1]
    assert np.array_equal(
        found.forward(NumpyOps(), x)["logits"], linear.forward(NumpyOps(), x)["logits"]
    )


def test_strict_weights_say_nothing_when_all_fits():
    weights = StrictWeights({"a": np.zeros(3, np.float32), "b.num": np.zeros((), np.int64)})
    assert weights.tensor("a", (3,)).shape == (3,)
    weights.finish("file", lambda key: key.endswith(".num"))
    with pytest.raises(CheckpointError, match=r"b\.num"):
        weights.finish("file", lambda key: False)


def test_the_wrong_variant_by_name_is_refused(write, tensors):
    with pytest.raises(CheckpointError, match="is not a levit_128s"):
        load(write(tensors), model="levit_128s")
