"""Hypothesis draws the damage; what it finds it makes smaller. `scripts/fuzz.py` does thousands."""

import pytest
from fuzzing.target import inputs_of
from hypothesis import HealthCheck, given, settings


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("image", 150),  # read as Pillow reads them
        ("artifact", 60),  # answers are those of the whole artifact
        ("graph", 100),  # shapes are those of ONNX Runtime
        ("ir", 40),  # shapes are those of OpenVINO
        ("program", 100),  # computed as the interpreter does
        ("safetensors", 100),  # read as a second parser reads them
        ("config", 60),  # they make the same network
        pytest.param("pth", 100, marks=pytest.mark.peers),  # read as PyTorch reads them
    ],
)
def test_damaged_inputs_are_refused_or_answered_rightly(fuzzed, outcome_of, name, count):
    @settings(
        max_examples=count,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(data=inputs_of(fuzzed(name)))
    def check(data):
        outcome = outcome_of(name, data)
        assert not outcome.failed, f"{outcome.kind} at {outcome.place}\n{outcome.detail}"

    check()


@pytest.mark.parametrize(
    "name", ["artifact", "onnx", "graph", "ir", "program", "safetensors", "config"]
)
def test_whole_inputs_are_answered(fuzzed, outcome_of, name):
    for data in fuzzed(name).seeds():
        outcome = outcome_of(name, data)
        assert outcome.kind == "answered", outcome.detail
