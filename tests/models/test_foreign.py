"""Files and folders that are something else: each is called what it is, with what to do."""

import io
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import real_networks
from pth_writer import write_pth
from safetensors.numpy import save_file

from levit.errors import CheckpointError
from levit.export import ExportOptions
from levit.export.sources import load_source
from levit.models.checkpoint import read_checkpoint
from levit.models.ops import NumpyOps

TRAINED = "pass the PyTorch or .safetensors checkpoint that it was made from"
ARRAYS = (
    "NumPy arrays, not a checkpoint that this release reads; load them into a model of timm or "
    "transformers, and save its state_dict()"
)
PICTURE = (
    "a picture, not a checkpoint: pictures go to levit predict ARTIFACT IMAGE, behind the model"
)
PROGRAM = (
    "a program of torch.export, which holds no plain weights; save its model's state_dict(): "
    "torch.save(torch.export.load(…).state_dict, …)"
)
STATE = {"head.weight": np.ones((3, 3), np.float32)}


def said(path, read=read_checkpoint):
    """The message that refuses a path, without the path."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def recognised(path):
    with pytest.raises(CheckpointError) as caught:
        load_source(ExportOptions(checkpoint=path))
    return str(caught.value).rpartition("); it ")[2]


# ---------------------------------------------------------------------------- files


def test_an_onnx_file(tmp_path):
    import onnx
    from onnx import helper

    tensor = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [tensor], [
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    ])  # fmt: skip
    for name, producer in (("model.onnx", "pytorch"), ("model.pth", "")):
        onnx.save(helper.make_model(graph, producer_name=producer), tmp_path / name)
        assert said(tmp_path / name) == f"an ONNX model, whose weights are not read; {TRAINED}"
    whole = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[:-3])
    assert "nor a PyTorch checkpoint" in said(tmp_path / "cut.onnx")


def test_our_own_onnx_file_and_the_folder_that_it_is_in(tiny_artifact):
    assert said(tiny_artifact / "model.onnx").startswith("an ONNX model, whose weights are not")
    assert said(tiny_artifact) == (
        "an artifact of levit, which is exported already; pass the checkpoint that it was made from"
    )
    assert said(tiny_artifact / "golden.npz") == f"an .npz of {ARRAYS}"


def test_arrays_of_numpy(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    np.savez(tmp_path / "b.npz", **{"Transformer/posembed": np.ones(3), "cls": np.ones(3)})
    assert said(tmp_path / "a.npy") == ARRAYS
    assert said(tmp_path / "b.npz") == f"an .npz of {ARRAYS}"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_picture(tmp_path, kind):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "model.pth", kind)
    assert said(tmp_path / "model.pth") == PICTURE


BYTES = {
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "not a .safetensors file but Git LFS's pointer to one; fetch the file itself: git lfs pull",
    ),
    "HDF5": (
        b"\x89HDF\r\n\x1a\n" + bytes(600),
        "an HDF5 file of Keras or TensorFlow, which is not read; load it in transformers 4 "
        "(from_tf=True), and save_pretrained",
    ),
    "GGUF": (
        b"GGUF\x03\0\0\0" + bytes(600),
        f"a GGUF file, whose weights are for llama.cpp; {TRAINED}",
    ),
    "TensorRT": (
        b"ftrt" + bytes(600),
        f"a TensorRT engine, which is compiled already; {TRAINED}",
    ),
    "TensorRT-RTX": (
        b"vtrt\0\0\0\0\x02" + bytes(600),
        f"a TensorRT-RTX engine, which is compiled already; {TRAINED}",
    ),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(600), f"a TensorFlow Lite model; {TRAINED}"),
    "HTML": (
        b"\n<!DOCTYPE html><html><title>Sign in</title></html>",
        "a web page (HTML), such as a login or error page that was saved in place of the weights; "
        "download the file itself",
    ),
    "XML": (b"<?xml version='1.0'?><a/>", f"an XML file, not a checkpoint; {TRAINED}"),
    "gzip": (
        b"\x1f\x8b\x08" + bytes(60),
        "compressed with gzip; unpack it, and pass the checkpoint in it",
    ),
    "text that begins like a bitmap": (
        b"BM: a model",
        "not a .safetensors file, nor a PyTorch checkpoint; download or save it again",
    ),
    "text": (
        b"epoch 1: 0.5",
        "not a .safetensors file, nor a PyTorch checkpoint; download or save it again",
    ),
}


@pytest.mark.parametrize(("data", "words"), BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_files_by_their_first_bytes(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    assert said(tmp_path / name) == words


def test_an_openvino_model(tmp_path):
    import openvino
    from openvino import opset13

    x = opset13.parameter([1, 3], np.float32, name="x")
    openvino.save_model(openvino.Model([opset13.relu(x)], [x], "m"), tmp_path / "model.xml")
    assert said(tmp_path / "model.xml") == (
        f"an OpenVINO model, which is compiled already; {TRAINED}"
    )


@pytest.mark.peers
def test_programs_of_pytorch(tmp_path):
    import torch

    network = torch.nn.Linear(3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), str(tmp_path / "script.pt"))
        program = torch.export.export(network, (torch.ones(1, 3),))
        torch.export.save(program, tmp_path / "program.pt2")
    assert said(tmp_path / "script.pt") == (
        "a TorchScript archive, which holds code; load it with torch.jit.load and save its "
        "weights: torch.save(model.state_dict(), …)"
    )
    assert said(tmp_path / "program.pt2") == PROGRAM


@pytest.mark.peers
def test_a_whole_network(tmp_path):
    import torch

    network = real_networks.levit()
    kind = "timm.models.levit.LevitDistilled"
    for saved, where in ((network, ""), ({"model": network}, " under 'model'")):
        torch.save(saved, tmp_path / "m.pth")
        assert said(tmp_path / "m.pth") == (
            f"holds {kind}{where}, not tensors by name; save model.state_dict()"
        )


def test_archives_of_other_things(tmp_path):
    for name, inside in (("model.pth", "runs/best.pth"), ("notes.txt", "notes.txt")):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(inside, b"x")
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            member = tarfile.TarInfo(inside)
            archive.addfile(member, io.BytesIO())
        what = (
            f"(it holds {inside}: unpack it, and pass the checkpoint in it)"
            if name == "model.pth"
            else f"(it holds {inside}: pass a checkpoint)"
        )
        assert said(tmp_path / "a.zip") == f"a zip file, but not one of torch.save {what}"
        assert said(tmp_path / "a.tar") == f"a tar file, but not one of PyTorch {what}"
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        member = tarfile.TarInfo("model.pth")
        member.pax_headers = {"mtime": "1.5"}  # as Python's archive.add writes
        archive.addfile(member, io.BytesIO())
    assert said(tmp_path / "b.tar") == (
        "a tar file, but not one of PyTorch; unpack it, and pass the checkpoint in it"
    )
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", b"{}")
        archive.writestr("model.weights.h5", b"")
    assert said(tmp_path / "model.keras") == f"a model of Keras, which is not read; {TRAINED}"


# ---------------------------------------------------------------------------- other networks


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "words"),
    [("vit_b_16", "looks like a ViT of torchvision"), ("resnet18", "looks like a ResNet")],
)
def test_checkpoints_of_torchvision(tmp_path, name, words):
    import torch
    from torchvision import models

    torch.save(getattr(models, name)(num_classes=3).state_dict(), tmp_path / "m.pth")
    assert recognised(tmp_path / "m.pth").startswith(words)


def dino(seed):
    """State of a ViT with DINO's head behind it: facebookresearch/dino, vision_transformer.py."""
    import torch

    network = torch.nn.Module()
    network.backbone = real_networks.vit(seed, classes=0)
    network.head = torch.nn.Module()
    network.head.mlp = torch.nn.Sequential(torch.nn.Linear(48, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old weight norm, which it has
        network.head.last_layer = torch.nn.utils.weight_norm(torch.nn.Linear(8, 9, bias=False))
    return network


@pytest.mark.peers
def test_a_checkpoint_of_dino(tmp_path):
    import torch

    student, teacher = dino(0), dino(1)
    wrapped = {f"module.{name}": value for name, value in student.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({"student": wrapped, "teacher": teacher.state_dict(), "epoch": 3}, path)
    assert said(path) == (
        "a DINO checkpoint, with a projection head beside its backbone; holds several models: "
        "student.backbone (DeiT or ViT of timm), teacher.backbone (DeiT or ViT of timm); say which "
        "with --weights teacher.backbone"
    )
    (tmp_path / "config.json").write_text('{"num_heads": 3, "architecture": "vit_x"}')
    source = load_source(ExportOptions(checkpoint=path, weights="teacher.backbone"))
    assert "left out: 4 tensors beside teacher.backbone (head.mlp" in source.assumed[0]
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 32))
    found = source.model.with_plan(outputs=("embedding",)).forward(NumpyOps(), x)["embedding"]
    expected = teacher.backbone.double()(torch.from_numpy(x)).detach().numpy()
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.mark.peers
def test_the_backbone_of_dino_alone_is_asked_for_by_name(tmp_path):
    import torch

    torch.save({"teacher": dino(1).state_dict()}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"a DINO checkpoint, .* --weights backbone$"):
        load_source(ExportOptions(checkpoint=tmp_path / "m.pth"))


# ---------------------------------------------------------------------------- folders


def folder_of(tmp_path, *names):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in names:
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(b"x")
    return folder


def test_a_folder_of_checkpoints_names_the_newest(tmp_path):
    folder = folder_of(tmp_path, "checkpoint-500/", "checkpoint-1000/", "runs/", "trainer.json")
    assert said(folder) == (
        f"holds no weights itself but checkpoint-500, checkpoint-1000; pass the newest: "
        f"{folder / 'checkpoint-1000'}"
    )
    save_file(STATE, folder / "model.safetensors")
    assert read_checkpoint(folder).tensors.keys() == STATE.keys()


def test_a_folder_of_accelerates_names_the_newest(tmp_path):
    # Accelerator(project_config=ProjectConfiguration(automatic_checkpoint_naming=True)), 1.15.
    folder = folder_of(tmp_path, "checkpoints/", ".cache/")
    assert said(folder) == (
        "holds no weights itself but a folder (checkpoints); pass the one that has them"
    )
    for number in (2, 10):
        (folder / "checkpoints" / f"checkpoint_{number}").mkdir()
    newest = folder / "checkpoints" / "checkpoint_10"
    assert said(folder / "checkpoints") == (
        f"holds no weights itself but checkpoint_2, checkpoint_10; pass the newest: {newest}"
    )


def test_a_folder_of_a_trainers_state_only(tmp_path):
    folder = folder_of(tmp_path, "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.txt")
    (folder / "criterion.pt").write_bytes(b"x")  # of skorch's Checkpoint, beside params.pt
    assert said(folder) == (
        "holds the state of a training (criterion.pt, optimizer.pt, rng_state.pth, scheduler.pt) "
        "and no weights; pass the folder or file that the model was saved to"
    )
    write_pth(folder / "last.pth", STATE)
    assert read_checkpoint(folder).origin["file"] == "last.pth"


DEEPSPEED = (
    "a checkpoint of DeepSpeed, whose weights are in parts; join them with the script in it: "
    "python zero_to_fp32.py . pytorch_model.bin"
)
FOLDERS = {
    "LoRA": (
        ("adapter_model.safetensors", "adapter_config.json"),
        "a LoRA adapter, or another of peft, not a whole model: merge it first (merge_and_unload "
        "of peft)",
    ),
    "DeepSpeed": (("global_step500/", "latest", "zero_to_fp32.py"), DEEPSPEED),
    "DeepSpeed's parts": (
        ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        "a part of a checkpoint of DeepSpeed; join the parts with the script in the folder above: "
        "python zero_to_fp32.py . pytorch_model.bin",
    ),
    "TensorFlow": (
        ("tf_model.h5", "config.txt"),
        "holds weights of TensorFlow or Flax only (tf_model.h5); load them in transformers 4 "
        "(from_tf=True or from_flax=True), and save_pretrained",
    ),
}


def test_a_checkpoint_of_deepspeed_without_zero_has_no_script(tmp_path):
    folder = folder_of(tmp_path, "global_step90/", "global_step500/", "latest")  # 0.19
    file = folder / "global_step500" / "mp_rank_00_model_states.pt"
    assert said(folder) == (f"a checkpoint of DeepSpeed; pass the file of the model in it: {file}")
    write_pth(file, {"module": STATE, "buffer_names": [], "global_steps": 500})
    assert read_checkpoint(file).tensors.keys() == STATE.keys()


@pytest.mark.parametrize(("names", "words"), FOLDERS.values(), ids=FOLDERS)
def test_folders_without_a_whole_model(tmp_path, names, words):
    folder = folder_of(tmp_path, *names)
    assert said(folder) == words
    save_file(STATE, folder / "model.safetensors")  # as joined or merged
    assert read_checkpoint(folder).tensors.keys() == STATE.keys()


@pytest.mark.peers
@pytest.mark.parametrize("inside", ["", "pytorch_model_fsdp_0"])
def test_a_sharded_checkpoint_of_pytorch(tmp_path, inside):
    import torch
    from torch.distributed import checkpoint

    folder = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"head.weight": torch.ones(3, 3)}
        checkpoint.save(state, checkpoint_id=folder / inside, no_dist=True)
    words = (
        f"weights in parts of torch.distributed (FSDP); join them: python -m "
        f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder / inside} model.pth"
    )
    assert said(folder) == words
    # A file of it begins as a zip, which its parts are.
    assert said(folder / inside / "__0_0.distcp").startswith(
        "weights in parts of torch.distributed"
    )
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(folder / inside, tmp_path / "model.pth")
    assert read_checkpoint(tmp_path / "model.pth").tensors.keys() == {"head.weight"}


@pytest.mark.peers
def test_lora_weights_in_a_file(tmp_path):
    save_file({"base_model.model.vit.q.lora_A.weight": np.ones((2, 2), np.float32)},
              tmp_path / "m.safetensors")  # fmt: skip
    assert recognised(tmp_path / "m.safetensors") == (
        "looks like LoRA weights, not a whole model: merge them first"
    )


def test_the_empty_tensors_that_deepspeed_leaves_in_stage_3(tmp_path):
    empty = {"stem.conv1.linear.weight": np.ones((0,), np.float32)}
    with pytest.raises(CheckpointError, match=r"its tensors are empty: .* zero_to_fp32\.py joins$"):
        load_source(ExportOptions(checkpoint=write_pth(tmp_path / "m.pt", {"module": empty})))
