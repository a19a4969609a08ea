import pytest
from sketch import chosen_isas

from levit.errors import BackendUnavailableError
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


def _isas():
    """Instruction sets to test; without the library the marker `native` skips."""
    try:
        return chosen_isas()
    except BackendUnavailableError:
        return ("none",)


# Those with kernels of float32 that are no other's: CMakeLists.txt.
_OF_FLOAT32 = {"avx512", "avx2", "portable", "neon", "none"}


@pytest.fixture(params=[name for name in _isas() if name in _OF_FLOAT32])
def isa(request):
    """Each instruction set with float32 kernels of its own, in turn."""
    return request.param


@pytest.fixture(params=_isas())
def every_isa(request):
    """Each instruction set in turn, whichever kernels it shares with others."""
    return request.param


@pytest.fixture(params=[name for name in _isas() if name not in ("amx", "avx512bf16")])
def pixel_isa(request):
    """Each instruction set with loops over pictures of its own; these two have avx512vnni's."""
    return request.param
