import pytest
from fuzzing.target import examine
from fuzzing.targets import prepared


@pytest.fixture(scope="session")
def fuzzed(tmp_path_factory):
    """(name) → a target, prepared once."""
    targets = {}

    def make(name):
        if name not in targets:
            targets[name] = prepared(name, tmp_path_factory.mktemp("targets"))
        return targets[name]

    return make


@pytest.fixture(scope="session")
def outcome_of(fuzzed, tmp_path_factory):
    """(name, data) → what becomes of an input, in this process."""

    def run(name, data):
        return examine(fuzzed(name), data, tmp_path_factory.mktemp("input"))

    return run
