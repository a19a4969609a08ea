"""Hypothesis draws the damage; what it finds it makes smaller. `scripts/fuzz.py` does thousands."""

import pytest
from fuzzing.target import inputs_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

small_budget = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check(outcome_of, name, data):
    outcome = outcome_of(name, data)
    assert not outcome.failed, f"{outcome.kind} at {outcome.place}\n{outcome.detail}"


@settings(small_budget, max_examples=150)
@given(data=st.data())
def test_damaged_images_are_refused_or_read_as_pillow_reads_them(fuzzed, outcome_of, data):
    check(outcome_of, "image", data.draw(inputs_of(fuzzed("image"))))


@settings(small_budget, max_examples=60)
@given(data=st.data())
def test_damaged_artifacts_are_refused_or_answer_as_before(fuzzed, outcome_of, data):
    check(outcome_of, "artifact", data.draw(inputs_of(fuzzed("artifact"))))


@settings(small_budget, max_examples=100)
@given(data=st.data())
def test_damaged_safetensors_are_refused_or_hold_what_they_say(fuzzed, outcome_of, data):
    check(outcome_of, "safetensors", data.draw(inputs_of(fuzzed("safetensors"))))


@settings(small_budget, max_examples=60)
@given(data=st.data())
def test_damaged_configs_are_refused_or_make_the_same_network(fuzzed, outcome_of, data):
    check(outcome_of, "config", data.draw(inputs_of(fuzzed("config"))))


@pytest.mark.peers
@settings(small_budget, max_examples=100)
@given(data=st.data())
def test_damaged_pth_files_are_refused_or_read_as_pytorch_reads_them(fuzzed, outcome_of, data):
    check(outcome_of, "pth", data.draw(inputs_of(fuzzed("pth"))))


@pytest.mark.parametrize("name", ["artifact", "onnx", "safetensors", "config"])
def test_whole_inputs_are_answered(fuzzed, outcome_of, name):
    for data in fuzzed(name).seeds():
        outcome = outcome_of(name, data)
        assert outcome.kind == "answered", outcome.detail
