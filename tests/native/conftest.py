import pytest

from levit.errors import BackendUnavailableError
from levit.export.lowering import lower
from levit.export.passes import run_passes
from levit.native.library import load_library


@pytest.fixture(scope="session")
def lowered(make_small):
    """(name, …) → a small model's program and arrays."""
    made = {}

    def make(name="tiny", outputs=None, pixels=None):
        key = (name, outputs, pixels)
        if key not in made:
            model = make_small(name).with_plan(pixels=pixels)
            if outputs is not None:
                model = model.with_plan(outputs=outputs)
            made[key] = lower(run_passes(model)[-1].model)
        return made[key]

    return make


def _isas():
    """Instruction sets that this CPU has; without the library the marker `native` skips."""
    try:
        return load_library().isas
    except BackendUnavailableError:
        return ("none",)


@pytest.fixture(params=_isas())
def isa(request):
    """Each of them in turn."""
    return request.param
