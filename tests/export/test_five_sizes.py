"""The five sizes, on random weights, within the tolerance of every target that runs here."""

from dataclasses import replace

import pytest

from levit.export.targets import find_target
from levit.export.verify import TOLERANCES
from levit.export.write import write
from levit.runtime.cpus import cpu_features, cpu_precisions

CELLS = [
    pytest.param("native", "fp32", marks=pytest.mark.native),
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("openvino", "fp32"),
    ("openvino", "fp16"),
    ("openvino", "bf16"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "precision"), CELLS)
def test_within_tolerance(prepared, target, precision, tmp_path):
    if (target, precision) == ("openvino", "bf16") and not cpu_precisions(cpu_features())["bf16"]:
        pytest.skip("this CPU has no bfloat16")
    options = replace(
        prepared.options, target=target, precision=precision, output=tmp_path / "artifact"
    )
    artifact = write(prepared, find_target(target, precision), options)
    verification = artifact.manifest.verification
    assert verification["status"] == "passed"
    assert verification["max_relative_error"] <= verification["tolerance"]
    # Else the comparison would show nothing.
    assert verification["output_spread"] > 0.1
    if precision != "fp32":
        assert verification["fp32_max_relative_error"] <= verification["fp32_tolerance"] == 1e-4
    if (target, precision) == ("onnx", "fp16"):
        # The margin of the tolerance is for outputs and machines other than these.
        assert verification["max_relative_error"] < TOLERANCES["fp16"].value / 2
        assert "keep_float32" not in {entry["name"] for entry in artifact.manifest.passes}
