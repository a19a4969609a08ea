"""What the command line takes: one function for each command."""

from __future__ import annotations

import argparse

from levit import __version__
from levit.commands import argument_types

__all__ = ["build_parser"]

_DESCRIPTION = "Compile LeViT, DeiT, ConViT and ViT checkpoints for deployment, and run them."


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="levit", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"levit {__version__}")
    parser.set_defaults(command=None, debug=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (_export, _predict, _eval, _check, _inspect, _list, _doctor, _bench):
        add(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.set_defaults(command=name)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


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
        "--cache", metavar="FOLDER", help="where OpenVINO keeps what it has compiled; default: none"
    )
    parser.add_argument(
        "--threads",
        type=argument_types.positive,
        metavar="N",
        help="default: the CPUs this process may use",
    )
    parser.add_argument(
        "--workers",
        type=argument_types.count,
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
    _host_code_flag(parser)


def _export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "export", "compile a checkpoint into an artifact")
    source = parser.add_argument_group("what to export")
    source.add_argument(
        "--model",
        metavar="NAME",
        help="a name of `levit list`; alone, it stands for the published weights "
        "(levit_digits: those in this package)",
    )
    weights = source.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="a .safetensors or PyTorch file, a folder with one, or hf:REPO[@REVISION]",
    )
    weights.add_argument(
        "--random-weights",
        type=argument_types.seed,
        metavar="SEED",
        help="for benchmarks and demos",
    )
    weights.add_argument(
        "--rebuild",
        metavar="ARTIFACT",
        help="build its TensorRT engine anew, for what is here; in its place, or at --output",
    )
    source.add_argument(
        "--config",
        metavar="FILE.json",
        help="the model's arguments as timm or transformers write them, where the file leaves a "
        "choice",
    )
    source.add_argument(
        "--image-size",
        type=argument_types.size,
        metavar="N|HxW",
        help="where the checkpoint leaves a choice; one that it was not trained at resizes the "
        "model",
    )

    result = parser.add_argument_group("what to make of it")
    result.add_argument(
        "--target",
        default="onnx",
        metavar="TARGET",
        help="onnx (default), openvino, trt, trt-rtx, or auto: the fastest of them here",
    )
    result.add_argument(
        "--precision", default="fp32", metavar="P", help="fp32 (default), fp16, bf16 or int8"
    )
    result.add_argument(
        "--batch",
        type=argument_types.batch,
        metavar="N|MIN:OPT:MAX",
        help="a fixed batch size, or a profile of a dynamic one (default: 1:8:64)",
    )
    result.add_argument(
        "--outputs",
        type=argument_types.names,
        metavar="LIST",
        help="of logits,embedding,features,pooled,logits_head,logits_dist (default: logits)",
    )
    result.add_argument(
        "--input",
        default="float32",
        choices=["float32", "uint8"],
        help="normalised tensors (default), or pixels that the network normalises",
    )
    result.add_argument(
        "--opset",
        type=argument_types.positive,
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
        type=argument_types.names,
        metavar="LIST",
        help="trt-rtx: compile for these (sm_80,sm_120) instead of for all from Ampere on",
    )
    result.add_argument("--labels", metavar="FILE", help="class names, one per line")

    preprocess = parser.add_argument_group("preprocessing (default: what the checkpoint says)")
    preprocess.add_argument(
        "--preprocess", metavar="timm|transformers|mmpretrain|original|FILE.json"
    )
    preprocess.add_argument("--mean", type=argument_types.numbers, metavar="R,G,B", help="on 0..1")
    preprocess.add_argument("--std", type=argument_types.numbers, metavar="R,G,B", help="on 0..1")
    preprocess.add_argument("--crop-pct", type=float, metavar="FRACTION")
    preprocess.add_argument("--interpolation", metavar="FILTER", help="bicubic, bilinear, …")

    accuracy = parser.add_argument_group("accuracy at low precision")
    accuracy.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="int8: pictures such as it will see, to take ranges from; or an .npz of inputs",
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
        help="of top-1 that it may lose, where there are classes (default: 1.0)",
    )
    accuracy.add_argument(
        "--reduce-range",
        action="store_true",
        help="int8: weights of seven bits, for x86 CPUs without VNNI",
    )

    writing = parser.add_argument_group("writing")
    writing.add_argument(
        "--output", metavar="FOLDER", help="default: ./{model}-{target}-{precision}"
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
    parser = _command(commands, "predict", "classify images")
    parser.add_argument("artifact", metavar="ARTIFACT")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, globs, - for an image on stdin"
    )
    parser.add_argument(
        "--top-k", type=argument_types.positive, default=5, metavar="K", help="default: 5"
    )
    parser.add_argument("--embed", metavar="FILE.npy", help="save embeddings instead")
    _run_flags(parser)
    _json_flag(parser)


def _eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "eval", "accuracy on a folder of labelled images")
    parser.add_argument("artifact", metavar="ARTIFACT")
    parser.add_argument("folder", metavar="FOLDER", help="one sub-folder per class")
    _run_flags(parser)
    _json_flag(parser)


def _check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "check", "prove an artifact on this machine")
    parser.add_argument("artifact", metavar="ARTIFACT")
    _device_flag(parser)
    _host_code_flag(parser)
    _json_flag(parser)


def _inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "inspect", "say what an artifact, a checkpoint or a model is")
    parser.add_argument("path", metavar="ARTIFACT|CHECKPOINT|MODEL")
    parser.add_argument("--config", metavar="FILE.json", help="as in export")
    parser.add_argument(
        "--image-size", type=argument_types.size, metavar="N|HxW", help="as in export"
    )
    _json_flag(parser)


def _list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "list", "the models that can be exported")
    _json_flag(parser)


def _doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "doctor", "what this machine has, and what to install")
    _json_flag(parser)


def _bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "bench", "measure speed and memory, as the LeViT paper does")
    parser.set_defaults(action="measure")
    parser.add_argument(
        "--device",
        default="cpu",
        choices=["cpu", "gpu", "arm"],
        help="default: cpu; arm is the CPU run on an arm64 machine",
    )
    who = parser.add_argument_group("who takes part (default: the five sizes through this package)")
    who.add_argument(
        "--models",
        "--model",
        type=argument_types.names,
        metavar="LIST",
        help="timm's names, with commas",
    )
    who.add_argument(
        "--artifact",
        action="append",
        default=[],
        metavar="FOLDER",
        help="an artifact of your own, with its own weights; may be repeated",
    )
    who.add_argument(
        "--peers",
        action="store_true",
        help="what people would use instead too: timm, torch.compile, ONNX Runtime and OpenVINO "
        "on timm's export, NNCF; and the paper's other architectures (needs 'levit[peers]')",
    )
    who.add_argument(
        "--engines", type=argument_types.names, metavar="LIST", help="only these, with commas"
    )

    how = parser.add_argument_group("how (default: paper and latency, within five minutes)")
    how.add_argument(
        "--protocol",
        type=argument_types.names,
        metavar="LIST",
        help="of paper,latency,throughput,end-to-end,cold-start,memory; each at its full length",
    )
    how.add_argument(
        "--quick",
        action="store_true",
        help="all within a minute, on ONNX Runtime unless --engines says more; wider intervals",
    )
    how.add_argument(
        "--seconds",
        type=argument_types.seconds,
        metavar="S",
        help="of timed work for each contender",
    )
    how.add_argument(
        "--rounds", type=argument_types.positive, metavar="N", help="turns of each contender"
    )
    how.add_argument(
        "--batch",
        type=argument_types.positive,
        metavar="N",
        help="images of a call under latency (default: 1)",
    )
    how.add_argument(
        "--threads",
        type=argument_types.positive,
        metavar="N",
        help="default: the CPUs this process may use",
    )
    how.add_argument("--photos", metavar="FOLDER", help="JPEGs to classify instead of drawn ones")
    how.add_argument(
        "--seed", type=argument_types.seed, default=0, help="of weights and order; default: 0"
    )
    how.add_argument(
        "--no-cache", action="store_true", help="do not keep the peers' networks between runs"
    )

    results = parser.add_argument_group("results")
    results.add_argument(
        "--output", metavar="FILE.json", help="default: ./levit-bench-DEVICE-DATE-TIME.json"
    )
    _report_flags(results)
    results.add_argument(
        "--fail-under",
        type=argument_types.ratio,
        metavar="RATIO",
        help="exit 1 where ours is surely slower than RATIO times a peer of the same runtime",
    )
    _json_flag(parser)

    actions = parser.add_subparsers(title="on results", metavar="ACTION")
    compare = _action(actions, "compare", "what has changed from one result to another")
    compare.add_argument("before", metavar="A.json")
    compare.add_argument("after", metavar="B.json")
    compare.add_argument(
        "--fail-under",
        type=argument_types.ratio,
        default=argparse.SUPPRESS,
        metavar="RATIO",
        help="exit 1 where B is surely slower than RATIO times A",
    )
    _json_flag(compare)
    report = _action(actions, "report", "show a result again, as tables or a page")
    report.add_argument("record", metavar="FILE.json")
    _report_flags(report)
    _json_flag(report)


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.set_defaults(action=name)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _report_flags(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--report", metavar="FILE.html", help="a page with figures and tables")
    parser.add_argument("--png", metavar="FILE.png", help="the figures (needs 'levit[bench]')")
    parser.add_argument("--csv", metavar="FILE.csv", help="one line per measurement")
    parser.add_argument("--markdown", metavar="FILE.md", help="the tables, for documents")


# ---------------------------------------------------------------------------- values
