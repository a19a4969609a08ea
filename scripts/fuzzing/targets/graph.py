"""Target that scans graphs of levit's own operators, and runs those that pass in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from hypothesis import strategies as st

from fuzzing.artifact_seeds import export_bases
from fuzzing.graph_damage import damaged_graph
from fuzzing.target import WrongAnswerError
from levit.errors import CorruptArtifactError
from levit.runtime.graphs.onnx_graph import graph_values
from levit.runtime.graphs.shapes import BATCH, Tensor, elements

__all__ = ["GraphTarget"]

# Elements of all values together, beyond which a graph is scanned and not run: 128 MiB.
_MOST_RUN: Final = 2**25
_TYPES: Final = {"float32": 1, "uint8": 2, "int8": 3, "float16": 10}


class GraphTarget:
    """A graph whose sizes, axes, attributes, operators and edges are not levit's.

    What the scan lets through, ONNX Runtime must survive, for a batch of 1 and of 3, and every
    value must have the shape and type that the scan has computed. It may refuse, in a line.
    """

    name = "graph"
    memory_bytes = 2 << 30
    seconds = 120.0

    def __init__(self) -> None:
        self._seeds: list[bytes] = []

    def prepare(self, folder: Path) -> None:
        more = {"half": ("--precision", "fp16", "--verify", "none")}
        bases = export_bases(folder, more=more)
        self._seeds = [(base / "model.onnx").read_bytes() for base in bases.values()]

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        return damaged_graph(data)

    def attempt(self, data: bytes, folder: Path) -> Any:
        model = onnx.ModelProto()
        model.ParseFromString(data)
        try:
            values = graph_values(model.graph.SerializeToString(deterministic=True))
        except ValueError as error:
            raise CorruptArtifactError(f"refused ({error}); export again") from error
        total = sum(elements(value.shape) for value in values.values())
        if total * 3 > _MOST_RUN:
            return values, {}
        return values, {count: _run(model, values, count) for count in (1, 3)}

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        values, runs = answer
        for count, results in runs.items():
            for name, found in (results or {}).items():
                shape = _of_batch(values[name.encode()].shape, count)
                if found.shape != shape or str(found.dtype) != values[name.encode()].dtype:
                    raise WrongAnswerError(
                        f"shape: {name} is {found.shape} {found.dtype}, not {shape}"
                    )


def _of_batch(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    if shape and shape[0] >= BATCH:
        return (shape[0] // BATCH * count, *shape[1:])
    return shape


def _run(
    model: onnx.ModelProto, values: dict[bytes, Tensor], count: int
) -> dict[str, np.ndarray[Any, Any]] | None:
    """Every value of one batch; None where ONNX Runtime refuses the graph."""
    import onnxruntime  # after the fork

    graph = model.graph
    del graph.output[:]
    for node in graph.node:
        value = values[node.output[0].encode()]
        graph.output.add(name=node.output[0]).type.tensor_type.elem_type = _TYPES[value.dtype]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    image = values[graph.input[0].name.encode()]
    x = np.ones(_of_batch(image.shape, count), image.dtype)
    names = [node.output[0] for node in graph.node]
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        return dict(zip(names, session.run(names, {graph.input[0].name: x}), strict=True))
    except Exception:  # ONNX Runtime's own share no public base
        return None
