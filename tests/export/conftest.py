import pytest
from safetensors.numpy import save_file

from levit.benchmarks.lineup import SIZES
from levit.export import ExportOptions
from levit.export.prepare import prepare
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES


@pytest.fixture(scope="session")
def full_size(seed, tmp_path_factory):
    """(name) → a checkpoint of a LeViT at full size, drawn once: that is half of an export."""
    folder = tmp_path_factory.mktemp("full_size")
    family = FAMILIES["levit"]

    def make(name):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            model = random_model(family, family.variants[name].config, seed)
            save_file(flatten(model, family.keymaps[0]), path)
        return path

    return make


@pytest.fixture(scope="module", params=SIZES)
def prepared(request, full_size):
    """Each of the five sizes in turn, prepared once for every target and precision."""
    return prepare(ExportOptions(model=request.param, checkpoint=full_size(request.param)))
