"""Arguments of ``levit bench``."""

from __future__ import annotations

import argparse

from levit.commands.arguments import add_command, add_json_flag
from levit.commands.values import count, names, positive, ratio, seconds

__all__ = ["add_bench"]


def add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``bench`` and its actions ``compare`` and ``report``."""
    parser = add_command(commands, "bench", "measure speed and memory, as the LeViT paper does")
    parser.set_defaults(action="measure")
    parser.add_argument(
        "--device",
        default="cpu",
        choices=["cpu", "gpu", "arm"],
        help="default: cpu; arm is the CPU run on an arm64 machine",
    )
    who = parser.add_argument_group("contenders (default: the five sizes through this package)")
    who.add_argument(
        "--models", "--model", type=_some_names, metavar="LIST", help="timm's names, with commas"
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
        help="add the alternatives: timm, torch.compile, ONNX Runtime and OpenVINO on timm's "
        "export, NNCF; and the paper's other architectures (needs 'levit[peers]')",
    )
    who.add_argument(
        "--headline",
        action="store_true",
        help="LeViT beside EfficientNet and the networks that people pick today, each on every "
        "engine that may be its best, under latency (needs 'levit[peers]'; see --figure)",
    )
    who.add_argument("--engines", type=_some_names, metavar="LIST", help="only these, with commas")
    who.add_argument(
        "--precision",
        type=_some_names,
        metavar="LIST",
        help="only these of each engine: fp32,bf16,…",
    )

    how = parser.add_argument_group("protocols (default: paper and latency, within five minutes)")
    how.add_argument(
        "--protocol",
        type=_some_names,
        metavar="LIST",
        help="any of paper,latency,throughput,end-to-end,cold-start,memory; each at its full "
        "length",
    )
    how.add_argument(
        "--quick",
        action="store_true",
        help="all within a minute, on ONNX Runtime unless --engines says more; wider intervals",
    )
    how.add_argument("--seconds", type=seconds, metavar="S", help="timed work for each contender")
    how.add_argument("--rounds", type=positive, metavar="N", help="turns of each contender")
    how.add_argument(
        "--batch", type=positive, metavar="N", help="images of a call under latency (default: 1)"
    )
    how.add_argument(
        "--threads", type=positive, metavar="N", help="default: the CPUs this process may use"
    )
    how.add_argument("--photos", metavar="FOLDER", help="JPEGs to classify instead of drawn ones")
    how.add_argument("--seed", type=count, default=0, help="seed of weights and order; default: 0")
    how.add_argument(
        "--no-cache", action="store_true", help="do not keep the peers' networks between runs"
    )

    how.add_argument(
        "--profile",
        action="store_true",
        help="time each step of one network on the native engine instead, with --batch, --threads, "
        "--seconds, --report and --json",
    )

    results = parser.add_argument_group("results")
    results.add_argument(
        "--output", metavar="FILE.json", help="default: ./levit-bench-DEVICE-DATE-TIME.json"
    )
    _report_flags(results)
    results.add_argument(
        "--fail-under",
        type=ratio,
        metavar="RATIO",
        help="exit 1 where ours is surely slower than RATIO times a peer of the same runtime and "
        "precision; of our own engine, than RATIO times the best peer",
    )
    add_json_flag(parser)

    actions = parser.add_subparsers(title="on results", metavar="ACTION")
    compare = _action(actions, "compare", "show the changes from one result to another")
    compare.add_argument("before", metavar="A.json")
    compare.add_argument("after", metavar="B.json")
    compare.add_argument(
        "--fail-under",
        type=ratio,
        default=argparse.SUPPRESS,
        metavar="RATIO",
        help="exit 1 where B is surely slower than RATIO times A",
    )
    add_json_flag(compare)
    report = _action(actions, "report", "show a result again, as tables or a page")
    report.add_argument("record", metavar="FILE.json")
    _report_flags(report)
    add_json_flag(report)


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
    parser.add_argument(
        "--figure",
        metavar="FILE.png",
        help="accuracy against latency, each network on its best engine (needs 'levit[bench]')",
    )
    parser.add_argument("--csv", metavar="FILE.csv", help="one line per measurement")
    parser.add_argument("--markdown", metavar="FILE.md", help="the tables, for documents")


def _some_names(text: str) -> tuple[str, ...]:
    """Read one name or more between commas."""
    found = names(text)
    if not found:
        raise argparse.ArgumentTypeError("expected names with commas between them")
    return found
