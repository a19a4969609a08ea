# SPDX-License-Identifier: Apache-2.0
"""Predict how the native engine scales with threads, from a model's program and a few constants.

::

    python scripts/model_scaling.py                     # LeViT-384 and 512 on 1 to 16 threads
    python scripts/model_scaling.py --models levit_256 --threads 1,2

One image, whose layers are divided as `native/run.cpp` divides them. Nothing is timed: every
assumption is one of the constants below. Needs the extra ``export``.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from levit.errors import LevitError
from levit.export.lowering import lower
from levit.export.passes import run_passes
from levit.models.model import Model, Plan
from levit.models.registry import config_of
from levit.native.counting import macs_of, weight_bytes_of
from levit.native.program import Attention, Conv, Linear, Output, Program, Project, Step, padded

# A core of an Emerald Rapids under AVX-512: 177 GFLOP/s in registers are 64 a cycle.
CLOCK_HZ = 177e9 / 64
UNITS = 2  # fused multiply-adds of a vector in a cycle
LANES = 16  # floats of a vector
LATENCY = 4  # cycles: a tile of fewer independent sums waits for itself
TILE_ROWS, PANEL = 14, 32
# To start a tile, and a row of it: bias, activation, residual, store.
TILE_CYCLES, ROW_CYCLES = 30, 4
EXP_CYCLES = 8  # of 16 probabilities: maximum, 2^x, sum
# Bytes a second that one core gets from beyond its L2, from L3 or from another core's L2. The last
# stage of LeViT-256, 16 rows that meet each weight once, ran at 80 to 99 GFLOP/s on that core,
# which is 10 to 12 GB/s.
CORE_BYTES_PER_S = 12e9
# And that all cores together get from memory, where the weights do not stay in L3.
MEMORY_BYTES_PER_S = 100e9
# A barrier: to signal and see it, and for each thread's arrival at one line of the cache.
BARRIER_S, ARRIVAL_S = 0.2e-6, 0.06e-6


@dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds of one image.

    Attributes:
        work: arithmetic, if it were divided evenly.
        imbalance: in which threads wait for the one with the most tiles.
        weights: in which arithmetic waits for weights from L3.
        values: in which it waits for values that other cores have computed.
        memory: in which it waits longer if weights come from memory.
        barriers: between steps.
    """

    work: float = 0.0
    imbalance: float = 0.0
    weights: float = 0.0
    values: float = 0.0
    memory: float = 0.0
    barriers: float = 0.0

    @property
    def in_l3(self) -> float:
        """Sum, where L3 holds the weights."""
        return self.work + self.imbalance + self.weights + self.values + self.barriers

    def __add__(self, other: Time) -> Time:
        return Time(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Time)}
        )


class _NoWeights:
    """Tensors of the right shape that take no memory."""

    def tensor(self, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return np.broadcast_to(np.float32(1), shape)

    def constant(self, key: str, value: object) -> None:
        pass


def program_of(name: str) -> Program:
    """Lower a model by name, for its logits."""
    _, family, config = config_of(name)
    params = family.build(config, family.keymaps[0], _NoWeights())
    model = Model(family, config, params, Plan(outputs=("logits",)))
    return lower(run_passes(model)[-1].model).program


def predicted(program: Program, step: Step, threads: int) -> Time:
    """Predict one step on so many threads."""
    barriers = BARRIER_S + ARRIVAL_S * threads if threads > 1 else 0.0
    work = _most_loaded(program, step, 1).cycles / threads / CLOCK_HZ
    share = _most_loaded(program, step, threads)
    longest = share.cycles / CLOCK_HZ
    streamed = share.weights + share.values
    waiting = max(0.0, streamed / CORE_BYTES_PER_S - longest)
    from_memory = weight_bytes_of(program, step) / MEMORY_BYTES_PER_S
    of_weights = share.weights / streamed if streamed else 0.0
    return Time(
        work=work,
        imbalance=longest - work,
        weights=waiting * of_weights,
        values=waiting * (1 - of_weights),
        memory=max(0.0, from_memory - longest - waiting),
        barriers=barriers,
    )


@dataclass(frozen=True, kw_only=True)
class Share:
    """Work of one thread: cycles, and bytes of weights and of others' values from beyond L2."""

    cycles: float
    weights: float = 0.0
    values: float = 0.0


def _most_loaded(program: Program, step: Step, threads: int) -> Share:
    """Return the share of the thread that has the most."""
    target = program.buffers[step.source if isinstance(step, Output) else step.target]
    weights = weight_bytes_of(program, step)
    if isinstance(step, Conv):
        height, width = _places(program, step)
        depth = macs_of(program, step) // (height * width * target.columns)
        row = _product_cycles(width, depth, padded(target.columns))
        return Share(cycles=math.ceil(height / threads) * row, weights=weights)
    if isinstance(step, Linear | Project):
        source = program.buffers[step.source]
        columns = padded(target.columns)
        by_rows, by_columns = _division(source.rows, columns, threads)
        rows = math.ceil(source.rows / by_rows)
        own = min(columns, math.ceil(math.ceil(columns / PANEL) / by_columns) * PANEL)
        return Share(
            cycles=_product_cycles(rows, source.columns, own),
            weights=weights * own / columns,
            values=4 * rows * source.columns * (threads - 1) / threads,
        )
    if isinstance(step, Attention):
        queries, keys = target.rows, program.buffers[step.keys.buffer].rows
        tiles = step.heads * math.ceil(queries / TILE_ROWS)
        rows_a_tile = queries / math.ceil(queries / TILE_ROWS)
        scores = _product_cycles(rows_a_tile, step.queries.width, padded(keys))
        softmax = rows_a_tile * padded(keys) / LANES * EXP_CYCLES
        values = _product_cycles(rows_a_tile, keys, padded(step.values.width))
        own = math.ceil(tiles / threads)
        return Share(cycles=own * (scores + softmax + values), weights=weights * own / tiles)
    vectors = target.rows * target.stride / LANES  # of each a load and a store
    return Share(cycles=vectors * 2 / threads)


def _places(program: Program, step: Conv) -> tuple[int, int]:
    """(height, width) of what a convolution gives."""
    source = None if step.source is None else program.buffers[step.source].grid
    height, width = source or (program.input.height, program.input.width)
    return -(-height // 2), -(-width // 2)


def _division(rows: int, columns: int, threads: int) -> tuple[int, int]:
    """(parts by rows, by columns) with the least tiles on one thread, as `share_product`."""
    tiles, panels = math.ceil(rows / TILE_ROWS), math.ceil(columns / PANEL)
    ways = [(n, threads // n) for n in range(1, threads + 1) if threads % n == 0]
    return min(ways, key=lambda way: math.ceil(tiles / way[0]) * math.ceil(panels / way[1]))


def _product_cycles(rows: float, depth: int, columns: int) -> float:
    """Cycles of rows × depth × padded columns on one core."""
    tiles = max(1, math.ceil(rows / TILE_ROWS))
    height = rows / tiles
    overhead = TILE_CYCLES + ROW_CYCLES * height
    whole, half = columns // PANEL, columns % PANEL // LANES
    cycles: float = whole * (depth * max(height * 2 / UNITS, LATENCY) + overhead)
    cycles += half * (depth * max(height / UNITS, LATENCY) + overhead)
    return tiles * cycles


def table(name: str, counts: list[int]) -> str:
    """Markdown: a row for each number of threads."""
    program = program_of(name)
    macs = sum(macs_of(program, step) for step in program.steps)
    size = sum(weight_bytes_of(program, step) for step in program.steps)
    lines = [
        f"{name}: {macs / 1e6:.0f} M multiply-accumulates, {size / 1e6:.0f} MB of weights, "
        f"{len(program.steps)} steps, each with a barrier",
        "",
        "| threads | ms | times one thread | work | imbalance | weights | values | barriers "
        "| from memory, ms |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    alone = None
    for threads in counts:
        time = sum((predicted(program, step, threads) for step in program.steps), Time())
        alone = alone or sum((predicted(program, step, 1) for step in program.steps), Time())
        parts = (time.work, time.imbalance, time.weights, time.values, time.barriers)
        shown = " | ".join(f"{1e3 * part:.2f}" for part in parts)
        lines.append(
            f"| {threads} | {1e3 * time.in_l3:.2f} | {alone.in_l3 / time.in_l3:.1f} | {shown} | "
            f"{1e3 * (time.in_l3 + time.memory):.2f} |"
        )
    return "\n".join([*lines, "", _stages(program, counts), "", _losses(program, counts[-1])])


def _losses(program: Program, threads: int) -> str:
    """Name the layers that lose most against an even division, all blocks of a stage together."""
    lost: dict[str, float] = {}
    for step in program.steps:
        time = predicted(program, step, threads)
        layer = ".".join(part for part in step.name.split(".") if part != "blocks")
        stage, _, rest = layer.partition(".")
        if stage == "stages":
            number, _, rest = rest.partition(".")
            layer = f"stage {int(number) + 1} {rest.partition('.')[2]}"
        lost[layer] = lost.get(layer, 0.0) + time.in_l3 - time.work
    most = sorted(lost.items(), key=lambda item: -item[1])[:5]
    worst = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in most)
    return f"Most is lost on {threads} threads in: {worst}."


def _stages(program: Program, counts: list[int]) -> str:
    """Markdown: times one thread of each part of the network."""
    parts: dict[str, list[Step]] = {}
    for step in program.steps:
        part = ".".join(step.name.split(".")[:2]) if step.name.startswith("stages") else "stem"
        if not step.name.startswith(("stages", "stem")):
            part = "heads"
        parts.setdefault(part, []).append(step)
    lines = ["| times one thread | " + " | ".join(map(str, counts)) + " |"]
    lines.append("|---|" + "---:|" * len(counts))
    for part, steps in parts.items():
        alone = sum(predicted(program, step, 1).in_l3 for step in steps)
        ratios = [alone / sum(predicted(program, s, n).in_l3 for s in steps) for n in counts]
        lines.append(f"| {part} | " + " | ".join(f"{ratio:.1f}" for ratio in ratios) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Predict how the native engine scales.")
    parser.add_argument("--models", default="levit_384,levit_512", help="names, with commas")
    parser.add_argument("--threads", default="1,2,4,8,16", help="numbers, with commas")
    arguments = parser.parse_args()
    counts = [int(number) for number in arguments.threads.split(",")]
    try:
        print("\n\n".join(table(name, counts) for name in arguments.models.split(",")))
    except LevitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
