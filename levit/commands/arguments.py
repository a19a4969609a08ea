"""Arguments of the command line: one function for each command."""

from __future__ import annotations

import argparse
from typing import Any

from levit.commands.values import (
    batch,
    count,
    fraction,
    image_mode,
    names,
    numbers,
    positive,
    size,
)

__all__ = ["add_command", "add_commands", "add_json_flag"]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands, but for ``bench``, whose arguments are in `bench_arguments`."""
    for add in (_export, _predict, _eval, _check, _inspect, _list, _doctor):
        add(commands)


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    """Add a command, with ``--debug``."""
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.set_defaults(command=name)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"], help="default: cpu")


def _host_code_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-host-code",
        action="store_true",
        help="load an engine that carries code for the CPU: only from whom you trust",
    )


def _run_flags(parser: argparse.ArgumentParser) -> None:
    _device_flag(parser)
    parser.add_argument(
        "--mode",
        default="latency",
        choices=["latency", "throughput"],
        help="one batch at a time with all threads (default), or several at once (OpenVINO)",
    )
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help="where OpenVINO keeps its compiled networks; default: none",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="default: the CPUs this process may use",
    )
    parser.add_argument(
        "--workers",
        type=count,
        metavar="N",
        help="threads that decode and resize (default: as many as --threads, none beside one)",
    )
    parser.add_argument(
        "--exif", action="store_true", help="turn pictures as their EXIF orientation says"
    )
    parser.add_argument(
        "--draft",
        action="store_true",
        help="decode large JPEGs at a fraction of their size: faster, not quite the same pixels",
    )
    _conversion_flags(parser)
    _host_code_flag(parser)


def _conversion_flags(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--grey16",
        choices=["scale", "clip"],
        help="grey pictures of 16 bits, for a model of 8: their upper eight, or clipped at 255 as "
        "in timm (default: refused)",
    )
    parser.add_argument(
        "--background",
        metavar="COLOUR",
        help="behind what is not opaque: white, '#rrggbb' (default: opacity is dropped)",
    )


def _export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "export", "compile a checkpoint into an artifact")
    source = parser.add_argument_group("source")
    source.add_argument(
        "--model",
        metavar="NAME",
        help="a name of `levit list`; alone, it stands for the published weights "
        "(levit_digits: those in this package)",
    )
    weights = source.add_mutually_exclusive_group()
    weights.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="a checkpoint, as with --checkpoint, or a name, as with --model",
    )
    weights.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="a .safetensors or PyTorch file, a folder with one, or hf:REPO[@REVISION]",
    )
    source.add_argument(
        "--weights",
        metavar="KEY",
        help="which of a checkpoint's weights: model, model_ema, a prefix such as student; "
        "`levit inspect` lists them",
    )
    weights.add_argument(
        "--random-weights",
        type=count,
        metavar="SEED",
        help="for benchmarks and demos",
    )
    weights.add_argument(
        "--rebuild",
        metavar="ARTIFACT",
        help="build its TensorRT engine anew for this machine; in its place, or at --output",
    )
    source.add_argument(
        "--config",
        metavar="FILE|JSON",
        help="the model's arguments as timm or transformers write them, where the file leaves a "
        """choice: a JSON file, or text such as '{"num_heads": 6}'""",
    )
    source.add_argument(
        "--image-size",
        type=size,
        metavar="N|HxW",
        help="where the checkpoint leaves a choice; one that it was not trained at resizes the "
        "model",
    )

    result = parser.add_argument_group("artifact")
    result.add_argument(
        "--target",
        default="onnx",
        metavar="TARGET",
        help="onnx (default), openvino, native, trt, trt-rtx, or auto: the fastest of them here",
    )
    result.add_argument(
        "--precision", default="fp32", metavar="P", help="fp32 (default), fp16, bf16 or int8"
    )
    result.add_argument(
        "--batch",
        type=batch,
        metavar="N|MIN:OPT:MAX",
        help="a fixed batch size, or a profile of a dynamic one (default: 1:8:64)",
    )
    result.add_argument(
        "--outputs",
        type=names,
        metavar="LIST",
        help="any of logits,embedding,features,pooled,logits_head,logits_dist (default: logits)",
    )
    result.add_argument(
        "--input",
        default="float32",
        choices=["float32", "uint8"],
        help="normalised tensors (default), or pixels that the network normalises",
    )
    result.add_argument(
        "--opset",
        type=positive,
        metavar="N",
        help="default: 17; 22 for a graph in bf16",
    )
    result.add_argument(
        "--version-compatible",
        action="store_true",
        help="trt: an engine for later releases of the same major version too; it carries host "
        "code, which whoever runs it has to allow",
    )
    result.add_argument(
        "--hardware-compatible",
        action="store_true",
        help="trt: an engine for every GPU from Ampere on",
    )
    result.add_argument(
        "--gpu-architectures",
        type=names,
        metavar="LIST",
        help="trt-rtx: compile for these (sm_80,sm_120) instead of for all from Ampere on",
    )
    result.add_argument("--labels", metavar="FILE", help="class names: one per line, or JSON")
    result.add_argument(
        "--scores",
        choices=["softmax", "sigmoid", "none"],
        help="softmax: one class is right; sigmoid: each by itself (multi-label); none: values "
        "(default: as the config says, else softmax, of one logit sigmoid)",
    )

    preprocess = parser.add_argument_group("preprocessing (default: as the checkpoint says)")
    preprocess.add_argument(
        "--preprocess", metavar="timm|transformers|mmpretrain|original|FILE.json"
    )
    preprocess.add_argument(
        "--image-mode",
        type=image_mode,
        metavar="L|'I;16'|RGB|RGBA",
        help="channels of the pictures: grey, grey of 16 bits, … (default: L with one, RGB with "
        "three)",
    )
    for name in ("--mean", "--std"):
        preprocess.add_argument(
            name,
            nargs="+",
            action=_Flat,
            type=numbers,
            metavar="X",
            help="on 0..1: one for each channel (0.5 0.5 0.5 or 0.5,0.5,0.5), or one for all",
        )
    preprocess.add_argument("--crop-pct", type=float, metavar="FRACTION")
    preprocess.add_argument("--interpolation", metavar="FILTER", help="bicubic, bilinear, …")
    _conversion_flags(preprocess)

    accuracy = parser.add_argument_group("accuracy at low precision")
    accuracy.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="int8: pictures like those in use, to take ranges from; or an .npz of inputs",
    )
    accuracy.add_argument(
        "--eval",
        metavar="FOLDER",
        help="judge it on these: class/image, images without classes, or an .npz of inputs and "
        "labels (int8 without it: on those of --calibration)",
    )
    accuracy.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="points of top-1 that may be lost, where there are classes (default: 1.0)",
    )
    accuracy.add_argument(
        "--reduce-range",
        action="store_true",
        help="int8: weights of seven bits, for x86 CPUs without VNNI",
    )

    writing = parser.add_argument_group("writing")
    writing.add_argument(
        "--output",
        metavar="FOLDER",
        help="default: ./{model}-{target}-{precision}, such as ./levit_128-onnx-fp32; one that "
        "exists is kept unless --force is given",
    )
    writing.add_argument(
        "--force",
        action="store_true",
        help="replace an existing artifact; write one that fails its verification",
    )
    writing.add_argument(
        "--verify",
        default="host",
        choices=["host", "source", "none"],
        help="host: run it here against the reference (default); source: and compare the "
        "reference with timm or transformers",
    )
    writing.add_argument(
        "--dump-passes", metavar="FOLDER", help="write the graph after each compiler pass"
    )


def _predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "predict", "classify images")
    parser.add_argument("artifact", metavar="ARTIFACT")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, globs, - for an image on stdin"
    )
    parser.add_argument("--top-k", type=positive, default=5, metavar="K", help="default: 5")
    parser.add_argument(
        "--threshold",
        type=fraction,
        metavar="P",
        help="of a multi-label model: every class whose score is at least P, such as 0.5",
    )
    parser.add_argument("--embed", metavar="FILE.npy", help="save embeddings instead")
    _run_flags(parser)
    add_json_flag(parser)


def _eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "eval", "measure accuracy on a folder of labelled images")
    parser.add_argument("artifact", metavar="ARTIFACT")
    parser.add_argument(
        "folder", metavar="FOLDER", help="one sub-folder per class; with --labels, the images"
    )
    parser.add_argument(
        "--labels",
        metavar="FILE.csv",
        help="of a multi-label or regression model: 'image,labels' and lines such as "
        "'a.jpg,cat;dog', or 'image,cat,dog' and lines of 0 and 1, or of values",
    )
    _run_flags(parser)
    add_json_flag(parser)


def _check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "check", "prove an artifact on this machine")
    parser.add_argument("artifact", metavar="ARTIFACT")
    _device_flag(parser)
    _host_code_flag(parser)
    add_json_flag(parser)


def _inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "inspect", "describe an artifact, a checkpoint or a model")
    parser.add_argument("path", metavar="ARTIFACT|CHECKPOINT|MODEL")
    parser.add_argument("--weights", metavar="KEY", help="as in export")
    parser.add_argument("--model", metavar="NAME", help="as in export")
    parser.add_argument("--config", metavar="FILE|JSON", help="as in export")
    parser.add_argument("--image-size", type=size, metavar="N|HxW", help="as in export")
    add_json_flag(parser)


def _list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "list", "list the models that can be exported")
    add_json_flag(parser)


def _doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(
        commands, "doctor", "show the backends of this machine, and how to install the others"
    )
    add_json_flag(parser)


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


class _Flat(argparse.Action):
    """Joins the tuples of several words into one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, tuple(number for word in values for number in word))
