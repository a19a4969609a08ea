"""Target that scans damaged IRs, and has OpenVINO read those that pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzzing.artifact_seeds import export_bases
from fuzzing.ir_damage import damaged_ir, packed, unpacked
from fuzzing.target import WrongAnswerError
from levit.errors import CorruptArtifactError
from levit.runtime.graphs.ir_graph import check_ir
from levit.runtime.graphs.shapes import BATCH

__all__ = ["IrTarget"]


class IrTarget:
    """An IR whose text, sizes, operations and edges are not levit's.

    What the scan lets through, OpenVINO must survive, and every value must have the shape that the
    scan has computed. It may refuse, in a line.
    """

    name = "ir"
    memory_bytes = 2 << 30
    seconds = 120.0

    def __init__(self) -> None:
        self._seeds: list[bytes] = []

    def prepare(self, folder: Path) -> None:
        more = {"half": ("--precision", "fp16")}
        for base in export_bases(folder, "openvino", more).values():
            files = ((base / name).read_bytes() for name in ("model.xml", "model.bin"))
            self._seeds.append(packed(*files))

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def damaged(self, data: bytes) -> st.SearchStrategy[bytes]:
        return damaged_ir(data)

    def attempt(self, data: bytes, folder: Path) -> Any:
        text, weights = unpacked(data)
        try:
            values = check_ir(text, weights)
        except ValueError as error:
            raise CorruptArtifactError(f"refused ({error}); export again") from error
        (folder / "model.xml").write_bytes(text)
        (folder / "model.bin").write_bytes(weights)
        from levit.runtime.openvino_module import openvino_core  # after the fork

        core = openvino_core()
        try:
            model = core.read_model(folder / "model.xml", folder / "model.bin")
            core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
        except Exception:  # OpenVINO raises RuntimeError and what its bindings make of it
            return values, {}
        found = {}
        for operation in model.get_ordered_ops():
            for output in operation.outputs():
                shape = [-1 if n.is_dynamic else n.get_length() for n in output.partial_shape]
                found[operation.get_friendly_name()] = tuple(shape)
        return values, found

    def judge(self, data: bytes, folder: Path, answer: Any) -> None:
        values, found = answer
        for name, shape in found.items():
            if name not in values:
                continue
            computed = tuple(-1 if n >= BATCH else n for n in values[name].shape)
            if computed != shape:
                raise WrongAnswerError(f"shape: {name} is {shape}, not {computed}")
