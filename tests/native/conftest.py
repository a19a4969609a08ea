import pytest

from levit.export.lowering import lower
from levit.export.passes import run_passes


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
